"""Our networks in the forms of others: a GGUF file for llama.cpp, and a program of `torch.export`."""

import io
import sys
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from tiny_transformers import network

from bigmodel_helpers import models, training
from bigmodel_helpers.data import tokens
from bigmodel_helpers.models import published

SIZES = {"layers": 2, "width": 64, "hidden": 96, "heads": 4, "kv_heads": 2, "vocabulary": 300}
CONFIGS = {
    "llama": models.TransformerConfig(**SIZES),
    "tied llama": models.TransformerConfig(**SIZES, tied=True, theta=100_000.0),
    "wide llama": models.TransformerConfig(**SIZES, head_width=32),
    "qwen2": models.TransformerConfig(**SIZES, qkv_bias=True, eps=1e-6),
    "qwen3": models.TransformerConfig(**SIZES, qk_norm=True, head_width=32, eps=1e-6),
}
BITS = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q4_1": 5, "Q4_0": 4.5}
FARTHEST = {  # a weight moves at most by this part of the largest of its row
    "F32": 0,
    "F16": 2**-11,
    "BF16": 2**-8,
    "Q8_0": 0.5 / 127 + 2**-11,
    "Q4_1": 1 / 15 + 2**-9,
    "Q4_0": 1 / 8 + 2**-9,  # -8 to 7 steps: the largest may have the wrong sign
}
TEXT = "def lower(self, values): return [each.lower() for each in values if isinstance(each, str)] or None"
TEXTS = [
    "",
    "def f(x):\n\treturn x**2  # 12345",
    "naïve café 北京 🦊",
    "<|im_end|> is text",
    " \n\n  a\r\n\0z",
]
X = torch.arange(40).reshape(2, 20)


@cache
def bpe(**changes: Any) -> tokenizers.Tokenizer:
    tokenizer = tokens.train_bpe([TEXT], SIZES["vocabulary"], ["<|start|>", "<|im_end|>"])
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return tokenizer


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> models.Transformer:
    return network(CONFIGS[request.param])


def matrices(file: Path) -> dict[str, Any]:
    """Return the tensors that the package of llama.cpp reads, but for vectors."""
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors if len(tensor.shape) == 2}


@pytest.mark.parametrize(
    ("name", "kind"),
    [*product(CONFIGS, ["F32", "Q8_0"]), *product(["llama"], ["F16", "BF16", "Q4_1", "Q4_0"])],
)
def test_what_is_written_is_loaded_within_the_error_of_its_kind(name: str, kind: str, tmp_path: Path) -> None:
    model = network(CONFIGS[name])
    published.save_gguf(model, bpe(), tmp_path / "new" / "small.gguf", kind=kind)
    loaded = published.load(tmp_path / "new" / "small.gguf")
    assert loaded.config.tied == model.config.tied == (loaded.lm_head.weight is loaded.embed_tokens.weight)
    for name, weight in model.state_dict().items():
        error = (loaded.state_dict()[name] - weight).abs()
        if weight.ndim == 1 or kind == "F32":
            assert not error.any(), name
        else:
            assert error.max() > 0, name
            assert (error <= FARTHEST[kind] * weight.abs().amax(-1, keepdim=True)).all(), name
    if kind == "F32":
        assert torch.equal(loaded(X), model(X))


@pytest.mark.parametrize("kind", BITS)
def test_each_kind_takes_its_bits(kind: str, tmp_path: Path) -> None:
    published.save_gguf(network(CONFIGS["llama"]), bpe(), tmp_path / "small.gguf", kind=kind)
    for tensor in matrices(tmp_path / "small.gguf").values():
        assert tensor.tensor_type.name == kind
        assert 8 * tensor.n_bytes == BITS[kind] * tensor.n_elements
    assert 8 * (tmp_path / "small.gguf").stat().st_size == pytest.approx(
        BITS[kind] * sum(t.n_elements for t in matrices(tmp_path / "small.gguf").values()), abs=100_000
    )


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Turn the rows of queries or keys as llama.cpp's converter does, written as there."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def test_the_package_of_llama_cpp_reads_the_same(model: models.Transformer, tmp_path: Path) -> None:
    config, architecture = model.config, "qwen2" if model.config.qkv_bias else "llama"
    architecture = "qwen3" if model.config.qk_norm else architecture
    published.save_gguf(model, bpe(), tmp_path / "small.gguf", context=128, chat_template="{{ messages }}")
    reader = gguf.GGUFReader(tmp_path / "small.gguf")
    assert len(reader.tensors) == len(model.state_dict()) - config.tied
    found = matrices(tmp_path / "small.gguf")
    for letter, heads in (("q", config.heads), ("k", config.kv_heads)):
        weight = model.state_dict()[f"layers.1.self_attn.{letter}_proj.weight"].numpy()
        wanted = interleaved(weight, heads) if architecture == "llama" else weight
        np.testing.assert_array_equal(found[f"blk.1.attn_{letter}.weight"].data, wanted)
    np.testing.assert_array_equal(found["token_embd.weight"].data, model.embed_tokens.weight.numpy())

    def field(name: str) -> Any:
        return reader.fields[name.replace("ARCH", architecture)].contents()

    assert field("general.architecture") == architecture
    assert field("ARCH.context_length") == 128
    assert field("ARCH.rope.freq_base") == config.theta
    assert field("ARCH.attention.value_length") == config.head_width
    assert field("ARCH.attention.layer_norm_rms_epsilon") == pytest.approx(config.eps)
    assert field("tokenizer.ggml.tokens") == [bpe().id_to_token(number) for number in range(300)]
    assert field("tokenizer.ggml.token_type") == [3, 3] + [1] * 298
    assert field("tokenizer.ggml.bos_token_id") == field("tokenizer.ggml.eos_token_id")
    assert field("tokenizer.ggml.add_bos_token") is False
    assert field("tokenizer.ggml.eos_token_id") == bpe().token_to_id("<|im_end|>") == 1
    assert field("tokenizer.chat_template") == "{{ messages }}"


@pytest.mark.parametrize("digits", [True, False], ids=["smollm", "gpt-2"])
def test_the_tokenizer_comes_back(digits: bool, tmp_path: Path) -> None:
    ours = tokenizers.Tokenizer.from_str(bpe().to_str())
    ours.encode_special_tokens = True
    if not digits:
        ours.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        ours.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    ours.add_tokens(["lower"])  # a token that stood there already, now found whole
    published.save_gguf(network(CONFIGS["llama"]), ours, tmp_path / "small.gguf", end=0)
    again = tokens.from_gguf(tmp_path / "small.gguf")
    for text in [*TEXTS, "flowers, slower and lowerlower12"]:
        assert again.encode(text).ids == ours.encode(text).ids
        assert again.decode(again.encode(text).ids) == text
    again.encode_special_tokens = False
    assert again.encode("low<|im_end|>").ids[-1] == 1
    fields = gguf.GGUFReader(tmp_path / "small.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == ("smollm" if digits else "gpt-2")
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 0
    with pytest.raises(ValueError, match="chat_template"):
        tokens.chat_template(tmp_path / "small.gguf")


# ---------------------------------------------------------------------------------------- refused


def changed_bpe(change: Callable[[tokenizers.Tokenizer], Any]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_str(bpe().to_str())
    change(tokenizer)
    return tokenizer


def put(name: str, value: object) -> tokenizers.Tokenizer:
    return changed_bpe(lambda tokenizer: setattr(tokenizer, name, value))


def put_in_model(name: str, value: object) -> tokenizers.Tokenizer:
    return changed_bpe(lambda tokenizer: setattr(tokenizer.model, name, value))


def words() -> tokenizers.Tokenizer:
    vocabulary = {f"word{number}": number for number in range(300)}
    return tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="word0"))


def bytes_only() -> tokenizers.Tokenizer:
    return tokens.train_bpe(["a"], 300, [f"<|{number}|>" for number in range(44)])


TOKENIZERS = {
    "words": (words, "a model of the kind WordLevel, unlike the byte-level BPE of llama.cpp"),
    "a normalizer": (lambda: put("normalizer", tokenizers.normalizers.NFC()), "the normalizer NFC"),
    "spaces": (
        lambda: put("pre_tokenizer", tokenizers.pre_tokenizers.Whitespace()),
        "the pre-tokenizer Whitespace",
    ),
    "a space before": (
        lambda: put("pre_tokenizer", tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "the pre-tokenizer ByteLevel with",
    ),
    "no cut": (lambda: put("pre_tokenizer", None), "the pre-tokenizer None"),
    "an id before": (
        lambda: put(
            "post_processor",
            tokenizers.processors.TemplateProcessing("<|start|> $A", None, [("<|start|>", 0)]),
        ),
        "the post-processor TemplateProcessing",
    ),
    "a token for unknown": (lambda: put_in_model("unk_token", "<|start|>"), "unk_token"),
    "no merges": (bytes_only, "no merges"),
    "spaces around": (
        lambda: changed_bpe(lambda t: t.add_tokens([tokenizers.AddedToken("low", lstrip=True)])),
        "lstrip at 'low'",
    ),
    "another size": (
        lambda: changed_bpe(lambda t: t.add_tokens(["more"])),
        "the tokenizer has 301 tokens, and the model 300: pass the tokenizer of this model",
    ),
    "a smaller size": (
        lambda: tokens.train_bpe(["lower lowest " * 9], 258, ["<|pad|>"]),
        "the tokenizer has 258 tokens, and the model 300",
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_llama_cpp_does_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    make, why = TOKENIZERS[name]
    assert why in refuse(network(CONFIGS["llama"]), make(), tmp_path)


def refuse(
    model: Any,
    tokenizer: Any,
    folder: Path,
    name: str = "small.gguf",
    error: Any = ValueError,
    **changes: Any,
) -> str:
    """Return the one line that says why nothing was written."""
    with pytest.raises(error, match=r"^[^\n]{,300}$") as caught:
        published.save_gguf(model, tokenizer, folder / "new" / name, **changes)
    assert [*folder.iterdir()] == []
    return str(caught.value)


def with_weight(value: float) -> models.Transformer:
    model = network(CONFIGS["llama"])
    model.layers[1].mlp.up_proj.weight[3, 5] = value
    return model


MODELS = {
    "gpt2": (
        lambda: network(models.TransformerConfig(1, 64, 96, 4, 4, 300, positions=8, bias=True, gated=False)),
        {},
        "only Llama's parts can be saved",
    ),
    "adapters": (lambda: training.add_lora(network(CONFIGS["llama"]), 2), {}, "merge or remove adapters"),
    "odd rows": (
        lambda: network(models.TransformerConfig(1, 64, 80, 4, 4, 300)),
        {"kind": "Q8_0"},
        "Q8_0 packs 32 numbers of a row together, and layers.0.mlp.down_proj.weight has rows of 80: take F16",
    ),
    "another kind": (
        lambda: network(CONFIGS["llama"]),
        {"kind": "Q4_K"},
        "weights cannot be of the kind 'Q4_K': take one of F32, F16, BF16, Q8_0, Q4_1, Q4_0",
    ),
    "another name": (lambda: network(CONFIGS["llama"]), {"name": "small.bin"}, "let it end in .gguf"),
    "no number": (
        lambda: with_weight(float("nan")),
        {},
        "layers.1.mlp.up_proj.weight has a weight that is not",
    ),
    "a large number": (
        lambda: with_weight(7e4),
        {"kind": "F16"},
        "layers.1.mlp.up_proj.weight has a weight of 70,000, too large for F16: take F32 or BF16",
    ),
    "no context": (lambda: network(CONFIGS["llama"]), {"context": 0}, "context is 0"),
    "an end beyond": (lambda: network(CONFIGS["llama"]), {"end": 300}, "pass its id as end"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_cannot_be_written_is_refused(name: str, tmp_path: Path) -> None:
    make, changes, why = MODELS[name]
    assert why in refuse(make(), bpe(), tmp_path, **changes)


def test_a_tokenizer_without_a_known_end_needs_the_id_of_one(tmp_path: Path) -> None:
    other = tokens.train_bpe([TEXT], 300)
    assert "pass its id as end" in refuse(network(CONFIGS["llama"]), other, tmp_path)
    published.save_gguf(network(CONFIGS["llama"]), other, tmp_path / "small.gguf", end=7)


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    assert "the tokenizer is a str" in refuse(network(CONFIGS["llama"]), "<|end|>", tmp_path, error=TypeError)


def test_an_error_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, model = tmp_path / "small.gguf", network(CONFIGS["llama"])
    published.save_gguf(model, bpe(), file)
    before = file.read_bytes()

    def full(*_: object, **__: object) -> None:
        assert [one.suffix for one in tmp_path.iterdir() if one != file] == [".partial"]
        raise OSError("No space left on device")

    for error, fault in ((OSError, full), (ValueError, lambda *_: int("a"))):
        monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", fault)
        with pytest.raises(error, match=r"^[^\n]*$"):
            published.save_gguf(model, bpe(), file, kind="F16")
        assert [*tmp_path.iterdir()] == [file]
        assert file.read_bytes() == before


def test_a_file_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one.gguf", "two.gguf"):
        published.save_gguf(network(CONFIGS["llama"]), bpe(), tmp_path / name, kind="Q4_0")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    told = refuse(network(CONFIGS["llama"]), bpe(), tmp_path, error=ModuleNotFoundError)
    assert told.endswith("pip install gguf")


# ----------------------------------------------------------------------------------- torch.export


@pytest.mark.filterwarnings(
    "ignore:The given buffer is not writable:UserWarning"
)  # torch 2.11 of its own code
def test_a_network_is_exported_with_any_number_of_tokens() -> None:
    model, length = network(CONFIGS["tied llama"]), torch.export.Dim("length")
    real = torch.ones(1, 8, dtype=torch.bool)
    program = torch.export.export(
        model,
        (X[:1, :8],),
        {"real": real},
        dynamic_shapes={"tokens": {1: length}, "real": {1: length}},
    )
    torch.export.save(program, file := io.BytesIO())
    file.seek(0)
    again = torch.export.load(file).module()
    for size in (1, 3, 20):
        x = X[1:, :size]
        torch.testing.assert_close(
            again(x, real=torch.ones_like(x, dtype=torch.bool)), model(x), atol=1e-6, rtol=0
        )
