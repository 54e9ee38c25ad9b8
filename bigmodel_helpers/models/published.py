"""Published weights into `Transformer`: a folder with safetensors as on the hubs, or a GGUF file of llama.cpp.

Nothing in a file is run or unpickled, and nothing is allocated before names and shapes have been compared with the
network. Introduced in chapter 10.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bigmodel_helpers.data import _gguf
from bigmodel_helpers.models.transformer import Transformer, TransformerConfig

_LARGEST = 2**26  # bytes of a config or an index, a hundred times the largest known
_GPT2 = {
    "wte": "embed_tokens",
    "wpe": "embed_positions",
    "ln_f": "norm",
    "h": "layers",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}
_GGUF = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "blk": "layers",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def load(path: str | Path, *, dtype: torch.dtype = torch.float32) -> Transformer:
    """Build the network that a checkpoint describes and load its weights, on the CPU, ready for inference.

    Args:
        path: a folder with ``config.json`` and safetensors (one file, or several with an index), or a ``.gguf`` file.
        dtype: of the weights in the network; quantized ones are unpacked.

    Raises:
        FileNotFoundError: the file, or one that it needs, is not there.
        ValueError: the checkpoint is damaged, of an architecture that `Transformer` does not cover, or has a missing,
            an extra or a wrongly shaped tensor; the text names it.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        config, shapes, read = _open_gguf(path)
    else:
        config = config_of(_read_json(path / "config.json"))
        shapes, read = _open_safetensors(path)
    with torch.device("meta"):
        model = Transformer(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tied and "lm_head.weight" not in shapes:
        expected.pop("lm_head.weight")
    _compare(path.name, shapes, expected)
    state = {name: read(name).to(dtype) for name in expected}
    model.load_state_dict(state, assign=True, strict=False)
    if config.tied:
        model.lm_head.weight = model.embed_tokens.weight
    return model.requires_grad_(False).eval()


def config_of(published: Mapping[str, Any]) -> TransformerConfig:
    """Return the configuration that a published ``config.json`` describes (GPT-2, Llama, Qwen2, Qwen3).

    Raises:
        ValueError: a key is missing, or it asks for something that `Transformer` does not do.
    """
    kind = published.get("model_type")
    try:
        if kind == "gpt2":
            return _gpt2(published)
        if kind in ("llama", "qwen2", "qwen3"):
            return _llama(published)
    except KeyError as error:
        raise ValueError(f"config.json has no {error}: get the file that belongs to the weights") from None
    raise ValueError(f"config.json is of the kind {kind!r}: gpt2, llama, qwen2 and qwen3 can be loaded")


def _refuse_others(published: Mapping[str, Any], wanted: Mapping[str, tuple[Any, ...]]) -> None:
    for key, values in wanted.items():
        if key in published and published[key] not in values:
            raise ValueError(f"config.json has {key} = {published[key]!r}, which Transformer does not do")


def _gpt2(published: Mapping[str, Any]) -> TransformerConfig:
    wanted = {"activation_function": ("gelu_new",), "scale_attn_by_inverse_layer_idx": (False,)}
    _refuse_others(published, wanted | {"scale_attn_weights": (True,), "add_cross_attention": (False,)})
    width, heads = published["n_embd"], published["n_head"]
    return TransformerConfig(
        layers=published["n_layer"],
        width=width,
        hidden=published.get("n_inner") or 4 * width,
        heads=heads,
        kv_heads=heads,
        vocabulary=published["vocab_size"],
        positions=published["n_positions"],
        bias=True,
        gated=False,
        tied=published.get("tie_word_embeddings", True),
        eps=published.get("layer_norm_epsilon", 1e-5),
    )


def _llama(published: Mapping[str, Any]) -> TransformerConfig:
    kind = published["model_type"]
    wanted = {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)}
    _refuse_others(published, wanted | {"rope_scaling": (None,), "use_sliding_window": (False,)})
    turning = published.get("rope_parameters") or published
    if turning.get("rope_type", "default") != "default":
        raise ValueError(f"config.json has rope_type {turning['rope_type']!r}: only 'default' is done")
    return TransformerConfig(
        layers=published["num_hidden_layers"],
        width=published["hidden_size"],
        hidden=published["intermediate_size"],
        heads=published["num_attention_heads"],
        kv_heads=published.get("num_key_value_heads") or published["num_attention_heads"],
        vocabulary=published["vocab_size"],
        tied=published.get("tie_word_embeddings", False),
        head_width=published.get("head_dim") or 0,
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        theta=float(turning["rope_theta"]),
        eps=published["rms_norm_eps"],
    )


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file.name} is not in {file.parent.name}: copy the whole folder of the model")
    if file.stat().st_size > _LARGEST:
        raise ValueError(f"{file.name} has {file.stat().st_size:,} bytes, too many for what it is: get it again")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file.name} is damaged ({error}): get it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} holds no table of names: get it again")
    return content


Opened = tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor]]


def _open_safetensors(folder: Path) -> Opened:
    """Return the shape of each tensor by the name that it has in `Transformer`, and a function that reads one."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        listed = _read_json(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise ValueError(f"{index.name} has no weight_map of file names: get it again")
        names = sorted(set(listed.values()))
    shapes: dict[str, tuple[int, ...]] = {}
    readers: dict[str, Callable[[], Tensor]] = {}
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{index.name} names {name!r}, which is not a file beside it: get it again")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{name} is not in {folder.name}: copy the whole folder of the model")
        try:
            file = safe_open(folder / name, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{name} is damaged ({error}): get it again") from None
        for key in file.keys():  # noqa: SIM118 (a file is not a dict)
            for ours, shape, reader in _renamed(key, tuple(file.get_slice(key).get_shape()), file):
                shapes[ours], readers[ours] = shape, reader
    return shapes, lambda name: readers[name]()


def _renamed(key: str, shape: tuple[int, ...], file: Any) -> list[tuple[str, tuple[int, ...], Callable]]:
    """Return name, shape and reader in `Transformer` of one published tensor; GPT-2's are transposed and joined."""
    short = key.removeprefix("model.").removeprefix("transformer.")
    if re.search(r"\.attn\.(?:masked_)?bias$", short):
        return []  # GPT-2's causal mask, a constant
    gpt2 = short.startswith(("wte.", "wpe.", "ln_f.", "h."))
    if not gpt2:
        return [(short, shape, lambda: file.get_tensor(key))]
    short = re.sub(r"^h\.", "layers.", short)
    for theirs, ours in _GPT2.items():
        short = re.sub(rf"(^|\.){re.escape(theirs)}\.(?=weight|bias)", rf"\g<1>{ours}.", short)
    turned = len(shape) == 2 and not short.startswith("embed_")
    if "attn.c_attn." not in short:
        final = shape[::-1] if turned else shape
        return [(short, final, lambda: file.get_tensor(key).T if turned else file.get_tensor(key))]
    part = (shape[-1] // 3, *shape[:-1])

    def third(place: int) -> Callable[[], Tensor]:
        return lambda: (file.get_tensor(key).T if turned else file.get_tensor(key)).chunk(3)[place].contiguous()

    return [
        (short.replace("attn.c_attn", f"self_attn.{letter}_proj"), part, third(place))
        for place, letter in enumerate("qkv")
    ]


def _open_gguf(file: Path) -> tuple[TransformerConfig, dict[str, tuple[int, ...]], Callable[[str], Tensor]]:
    fields, entries = _gguf.read(file)
    import gguf  # _gguf says so where it is missing

    kind = fields.get("general.architecture")
    if kind not in ("llama", "qwen2", "qwen3"):
        raise ValueError(f"{file.name} is of the architecture {kind!r}: llama, qwen2 and qwen3 can be loaded")
    tensors = {_gguf_name(tensor.name): tensor for tensor in entries}
    shapes = {name: tuple(int(size) for size in tensor.shape[::-1]) for name, tensor in tensors.items()}
    config = _gguf_config(file.name, kind, fields, shapes)

    def read(name: str) -> Tensor:
        tensor = tensors[name]
        values = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).reshape(shapes[name])
        if kind == "llama" and re.search(r"\.[qk]_proj\.weight$", name):
            values = from_interleaved(values, config.head_width)
        return values

    return config, shapes, read


def from_interleaved(weight: Tensor, head_width: int) -> Tensor:
    """Return the rows of a query or key matrix in the order of `rotary`, given neighbors as planes (GGUF, Meta).

    Args:
        weight: (heads * head_width, ...), whose rows 0 and 1 of each head are one plane, then 2 and 3.

    >>> models.published.from_interleaved(torch.arange(4), 4)
    tensor([0, 2, 1, 3])
    """
    heads = weight.unflatten(0, (-1, head_width // 2, 2))
    return heads.transpose(1, 2).flatten(0, 2)


def _gguf_name(name: str) -> str:
    short = re.sub(r"^blk\.", "layers.", name)
    return re.sub(r"([a-z_]+)(?=\.(?:weight|bias)$)", lambda match: _GGUF.get(match[1], match[1]), short)


def _gguf_config(
    file: str, kind: str, fields: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> TransformerConfig:
    try:
        heads = fields[f"{kind}.attention.head_count"]
        return TransformerConfig(
            layers=fields[f"{kind}.block_count"],
            width=fields[f"{kind}.embedding_length"],
            hidden=fields[f"{kind}.feed_forward_length"],
            heads=heads,
            kv_heads=fields.get(f"{kind}.attention.head_count_kv", heads),
            vocabulary=shapes["embed_tokens.weight"][0],
            tied="lm_head.weight" not in shapes,
            head_width=fields.get(f"{kind}.attention.key_length", 0),
            qkv_bias=kind == "qwen2",
            qk_norm=kind == "qwen3",
            theta=float(fields[f"{kind}.rope.freq_base"]),
            eps=float(fields[f"{kind}.attention.layer_norm_rms_epsilon"]),
        )
    except (KeyError, IndexError) as error:
        raise ValueError(f"{file} does not say {error}: get it again") from None


def _compare(
    where: str, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a checkpoint whose tensors are not exactly those of the network."""
    for name in expected:
        if name not in found:
            raise ValueError(f"{where} has no tensor {name}: it belongs to another model, or is not complete")
        if found[name] != expected[name]:
            raise ValueError(
                f"{where}: {name} has the shape {found[name]}, and its configuration says {expected[name]}"
            )
    for name in found:
        if name not in expected:
            raise ValueError(f"{where} has a tensor {name} that the network has no place for")
