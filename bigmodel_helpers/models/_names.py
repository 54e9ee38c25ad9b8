"""Tensors of published checkpoints under the names, and in the layout, of `Transformer`."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from torch import Tensor

from bigmodel_helpers.models._safetensors import Stored

_GPT2 = {
    "wte.": "embed_tokens.",
    "wpe.": "embed_positions.",
    "ln_f.": "norm.",
    "ln_1.": "input_layernorm.",
    "ln_2.": "post_attention_layernorm.",
    "attn.c_attn.": "self_attn.qkv_proj.",
    "attn.c_proj.": "self_attn.o_proj.",
    "mlp.c_fc.": "mlp.up_proj.",
    "mlp.c_proj.": "mlp.down_proj.",
}
_GGUF = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
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


def from_llama(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Name the tensors as in `Transformer`; without the rotary frequencies, constants in old files."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(".rotary_emb.inv_freq")}
    return unique((name.removeprefix("model."), tensor) for name, tensor in kept.items())


def from_gpt2(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Name the tensors as in `Transformer`: weights transposed, queries, keys and values apart, no causal masks."""

    def renamed() -> Iterator[tuple[str, Stored]]:
        for name, tensor in tensors.items():
            short = re.sub(r"^h\.", "layers.", name.removeprefix("transformer."))
            if re.fullmatch(r"layers\.\d+\.attn\.(masked_)?bias", short):
                continue
            if re.search(r"\.c_(attn|proj|fc)\.weight$", short):
                tensor = changed(tensor, tensor.shape[::-1], Tensor.t)
            for theirs, ours in _GPT2.items():
                short = short.replace(theirs, ours)
            if "qkv_proj" not in short or not tensor.shape or tensor.shape[0] % 3:
                yield short, tensor
                continue
            part = (tensor.shape[0] // 3, *tensor.shape[1:])
            for place, letter in enumerate("qkv"):
                yield short.replace("qkv", letter), changed(tensor, part, partial(_third, place))

    return unique(renamed())


def _third(place: int, values: Tensor) -> Tensor:
    return values.chunk(3)[place]


def changed(tensor: Stored, shape: tuple[int, ...], change: Callable[[Tensor], Tensor]) -> Stored:
    """Return the tensor as it will be after `change`, of a new `shape`."""
    return Stored(tensor.name, shape, lambda: change(tensor.read()))


def unique(pairs: Iterable[tuple[str, Stored]]) -> dict[str, Stored]:
    """Return a dict of the pairs; a name that comes twice is an error."""
    found: dict[str, Stored] = {}
    for name, tensor in pairs:
        if name in found:
            raise ValueError(
                f"{tensor.name!r:.99} and {found[name].name!r:.99} are the same: get the weights again"
            )
        found[name] = tensor
    return found


def gguf_name(name: str) -> str:
    """Return the name in `Transformer` of a tensor of a GGUF file; an unknown one stays as it is."""
    before, _, kind = name.rpartition(".")
    block, dot, part = before.rpartition(".")
    return f"{block.replace('blk', 'layers')}{dot}{_GGUF.get(part, part)}.{kind}"
