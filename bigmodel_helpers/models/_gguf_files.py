"""A `Transformer` and its tokenizer as the fields and tensors of a GGUF file, with the package of llama.cpp."""

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bigmodel_helpers.data._gguf import Entry
from bigmodel_helpers.data._paths import shown
from bigmodel_helpers.models._names import _GGUF
from bigmodel_helpers.models._safetensors import Stored
from bigmodel_helpers.models._saving import published_config, published_tensors
from bigmodel_helpers.models.transformer import Transformer, TransformerConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BLOCKS = {"F32": 1, "F16": 1, "BF16": 1, "Q8_0": 32, "Q4_1": 32, "Q4_0": 32}  # numbers that share a scale
_LARGEST = 65_504.0  # of fp16, in which all kinds but F32 and BF16 keep numbers or scales
_NORMAL, _CONTROL, _OF_USER = 1, 3, 4  # kinds of tokens
_ENDS = ("<|im_end|>", "<|end|>", "<|endoftext|>")
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_CUTS = {"smollm": [{"type": "Digits", "individual_digits": True}, _BYTES], "gpt-2": [_BYTES]}


def gguf_config(kind: str, fields: Mapping[str, Any], tensors: Mapping[str, Stored]) -> TransformerConfig:
    """Return the configuration that the fields of a GGUF file of the architecture `kind` describe.

    Raises:
        KeyError: a field is missing.
        ValueError: a field asks for something that `Transformer` does not do.
    """
    own = {name.removeprefix(f"{kind}."): value for name, value in fields.items()}
    heads = own["attention.head_count"]
    config = TransformerConfig(
        layers=own["block_count"],
        width=own["embedding_length"],
        hidden=own["feed_forward_length"],
        heads=heads,
        kv_heads=own.get("attention.head_count_kv", heads),
        vocabulary=tensors["embed_tokens.weight"].shape[0],
        tied="lm_head.weight" not in tensors,
        head_width=own.get("attention.key_length", 0),
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        theta=own.get("rope.freq_base", 10_000.0),
        eps=own["attention.layer_norm_rms_epsilon"],
    )
    if own.get("rope.dimension_count", config.head_width) != config.head_width:
        raise ValueError("rotary positions turn a part of a head")
    if own.get("rope.scaling.type", "none") != "none":
        raise ValueError(f"rotary positions are scaled: {own['rope.scaling.type']!r:.99}")
    return config


def unpacked(where: str, entry: Entry) -> Tensor:
    """Return the values of a tensor in a GGUF file, fp32; `where` names the file in an error.

    Raises:
        ValueError: the package cannot unpack this kind.
    """
    import gguf

    try:
        values = gguf.dequantize(entry.data, entry.tensor_type)
    except NotImplementedError:
        kind = entry.tensor_type.name
        raise ValueError(
            f"{where}: {entry.name} is {kind}, which gguf cannot unpack: get another file"
        ) from None
    return torch.from_numpy(values.astype("float32")).reshape(entry.shape[::-1])


def write_gguf(
    model: Transformer,
    tokenizer: "Tokenizer",
    path: Path,
    kind: str,
    context: int,
    end: int | None,
    chat_template: str | None,
) -> None:
    """Do the work of `published.save_gguf`; everything is checked before a file is made."""
    try:
        import gguf
    except ModuleNotFoundError:
        raise ModuleNotFoundError("writing a GGUF file needs gguf: pip install gguf") from None
    if kind not in _BLOCKS:
        raise ValueError(f"weights cannot be of the kind {kind!r:.99}: take one of {', '.join(_BLOCKS)}")
    if path.suffix.lower() != ".gguf":
        raise ValueError(f"{shown(path.name)} is known as a GGUF file by its name: let it end in .gguf")
    if type(context) is not int or not 0 < context < 2**32:
        raise ValueError(f"context is {context!r:.99}: pass the number of tokens that the model can read")
    architecture = published_config(model.config, torch.float32)["model_type"]
    tensors = published_tensors(model, torch.float32)
    tensors = {name.removeprefix("model."): value for name, value in tensors.items()}
    for name, value in tensors.items():
        _check(name, value, kind)
    vocabulary = _vocabulary(tokenizer, model.config.vocabulary, end)

    def write(partial: Path) -> None:
        writer = gguf.GGUFWriter(partial, architecture)
        _add_sizes(writer, model.config, context)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
        for add, value in vocabulary.items():
            getattr(writer, add)(value)
        if chat_template is not None:
            writer.add_chat_template(chat_template)
        for name, value in tensors.items():
            if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
                value = _interleaved(value, model.config.head_width)
            form = gguf.GGMLQuantizationType["F32" if value.ndim == 1 else kind]
            writer.add_tensor(_gguf_name(name), gguf.quantize(value.numpy(), form), raw_dtype=form)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()

    _write_whole(path, write)


def _check(name: str, value: Tensor, kind: str) -> None:
    """Refuse a tensor whose values or rows the kind of file cannot hold."""
    size, block = value.shape[-1], _BLOCKS[kind]
    if value.ndim == 2 and size % block:
        raise ValueError(
            f"{kind} packs {block} numbers of a row together, and {name} has rows of {size}: take F16 or BF16"
        )
    if not (largest := value.abs().max().item()) < math.inf:
        raise ValueError(f"{name} has a weight that is not finite: look for the step that made it")
    if value.ndim == 2 and kind not in ("F32", "BF16") and largest > _LARGEST:
        raise ValueError(f"{name} has a weight of {largest:,.0f}, too large for {kind}: take F32 or BF16")


def _add_sizes(writer: Any, config: TransformerConfig, context: int) -> None:
    writer.add_context_length(context)
    writer.add_vocab_size(config.vocabulary)
    writer.add_block_count(config.layers)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_rope_freq_base(config.theta)
    writer.add_layer_norm_rms_eps(config.eps)


def _vocabulary(tokenizer: "Tokenizer", size: int, end: int | None) -> dict[str, Any]:
    """Return what the writer must be told of a tokenizer: name of its method, value.

    Without the ids of end and beginning llama.cpp takes the 11th token for both.
    """
    if not hasattr(tokenizer, "to_str"):
        raise TypeError(f"the tokenizer is a {type(tokenizer).__name__}: pass a tokenizers.Tokenizer")
    parts = json.loads(tokenizer.to_str())
    for what in _differences(parts):
        raise ValueError(
            f"the tokenizer has {what}, unlike the byte-level BPE of llama.cpp: use one as tokens.train_bpe makes"
        )
    words = [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())]
    if len(words) != size or None in words:
        raise ValueError(
            f"the tokenizer has {len(words):,} tokens, and the model {size:,}: "
            "pass the tokenizer of this model, its ids from 0 on"
        )
    kinds = [_NORMAL] * size
    for token in parts["added_tokens"]:
        kinds[token["id"]] = _CONTROL if token["special"] else _OF_USER
    if end is None:
        end = next((words.index(word) for word in _ENDS if word in words), -1)
    if not 0 <= end < size:
        raise ValueError("the tokenizer has no token that is known to end a text: pass its id as end")
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in parts["model"]["merges"]]
    return {
        "add_tokenizer_model": "gpt2",
        "add_tokenizer_pre": _pre(parts),
        "add_token_list": words,
        "add_token_types": kinds,
        "add_token_merges": merges,
        "add_bos_token_id": end,
        "add_eos_token_id": end,
        "add_add_bos_token": False,
    }


def _pre(parts: dict[str, Any]) -> str | None:
    """Return the name that llama.cpp has for the way in which a text is cut into words."""
    cut = parts["pre_tokenizer"] or {}
    steps = [{**step} for step in cut.get("pretokenizers", [cut])]
    for step in steps:
        step.pop("trim_offsets", None)
    return next((name for name, known in _CUTS.items() if steps == known), None)


def _differences(parts: dict[str, Any]) -> Iterator[str]:
    """Yield what llama.cpp would do in another way."""
    model = parts["model"]
    if model["type"] != "BPE":
        yield f"a model of the kind {model['type']}"
        return
    if parts["normalizer"]:
        yield f"the normalizer {parts['normalizer']['type']}"
    if not _pre(parts):
        yield f"the pre-tokenizer {(parts['pre_tokenizer'] or {}).get('type')} with its options"
    if (after := parts["post_processor"] or _BYTES)["type"] != "ByteLevel":
        yield f"the post-processor {after['type']}"
    options = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    yield from (option for option in (*options, "byte_fallback", "ignore_merges") if model.get(option))
    if not model["merges"]:
        yield "no merges"
    for token in parts["added_tokens"]:
        yield from (
            f"{name} at {token['content']!r}" for name in ("lstrip", "rstrip", "single_word") if token[name]
        )


def _gguf_name(name: str) -> str:
    """Return the name in GGUF of a tensor of `Transformer`."""
    theirs = {ours: part for part, ours in _GGUF.items()}
    block, part, kind = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)\.(\w+)", name).groups()
    return f"{f'blk.{block}.' if block else ''}{theirs[part]}.{kind}"


def _interleaved(weight: Tensor, head_width: int) -> Tensor:
    """Undo `published.from_interleaved`."""
    return weight.unflatten(0, (-1, 2, head_width // 2)).transpose(1, 2).flatten(0, 2).contiguous()


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with another name, then rename: an error leaves the old file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(f"cannot write {shown(path)} ({error}): make room, or choose another place") from error
    finally:
        with suppress(OSError):
            partial.unlink()
