"""GGUF files with a model in them: loaded equal, and refused where they lie."""

import struct
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tiny_transformers import CONFIGS, network, published_llama, refuse, write_llama

from bigmodel_helpers import models
from bigmodel_helpers.models import published

X = torch.arange(40).reshape(2, 20)
SIZES = {"layers": 2, "width": 64, "hidden": 96, "heads": 4, "kv_heads": 2, "vocabulary": 97}
KINDS = {
    "llama": models.TransformerConfig(**SIZES),
    "tied llama": models.TransformerConfig(**SIZES, tied=True, theta=100_000.0),
    "wide llama": models.TransformerConfig(**SIZES, head_width=32),
    "qwen2": models.TransformerConfig(**SIZES, qkv_bias=True, eps=1e-6),
    "qwen3": models.TransformerConfig(**SIZES, qk_norm=True, head_width=32, eps=1e-6),
}
NAMES = {
    "embed_tokens": "token_embd",
    "lm_head": "output",
    "layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    "self_attn.": "attn_",
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "mlp.": "ffn_",
    "_proj": "",
}


def interleaved(weight: torch.Tensor, head_width: int) -> torch.Tensor:
    """Turn the rows of queries or keys as llama.cpp's converter does, written as there."""
    heads = weight.shape[0] // head_width
    return weight.reshape(heads, 2, head_width // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def gguf_tensors(model: models.Transformer, kind: str) -> dict[str, np.ndarray]:
    """Return the tensors of a network under the names, and in the layout, of llama.cpp."""
    found = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tied:
            continue
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = interleaved(tensor, model.config.head_width)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        found["output_norm.weight" if name == "norm.weight" else name] = tensor.numpy()
    return found


def gguf_fields(config: models.TransformerConfig) -> dict[str, int | float]:
    fields = {
        "block_count": config.layers,
        "embedding_length": config.width,
        "feed_forward_length": config.hidden,
    }
    fields |= {"attention.head_count": config.heads, "attention.head_count_kv": config.kv_heads}
    fields |= {"attention.key_length": config.head_width, "rope.dimension_count": config.head_width}
    return fields | {"rope.freq_base": config.theta, "attention.layer_norm_rms_epsilon": config.eps}


def write(
    file: Path,
    kind: str,
    fields: dict[str, object],
    tensors: dict[str, np.ndarray],
    form: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> Path:
    """Write a GGUF file with the package of llama.cpp; vectors stay in fp32."""
    writer = gguf.GGUFWriter(file, kind)
    for name, value in fields.items():
        add = {
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            list: writer.add_array,
        }
        add[type(value)](f"{kind}.{name}", value)
    for name, value in tensors.items():
        if value.ndim == 1:
            writer.add_tensor(name, value)
        else:
            writer.add_tensor(name, gguf.quantize(value, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> tuple[models.Transformer, str]:
    return network(KINDS[request.param]), request.param.split()[-1]


@pytest.mark.parametrize("form", ["F32", "F16", "Q8_0"])
def test_a_gguf_file_is_loaded_equal(
    form: str, model: tuple[models.Transformer, str], tmp_path: Path
) -> None:
    ours, kind = model
    form = gguf.GGMLQuantizationType[form]
    file = write(tmp_path / "small.GGUF", kind, gguf_fields(ours.config), gguf_tensors(ours, kind), form)
    loaded = published.load(file)
    rounded = network(ours.config)
    for parameter in rounded.parameters():
        if parameter.ndim == 2:
            values = gguf.quantize(parameter.numpy(), form)
            parameter.copy_(torch.from_numpy(gguf.dequantize(values, form).copy()))
    for name, tensor in rounded.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, atol=0, rtol=0)
    torch.testing.assert_close(loaded(X), rounded(X), atol=1e-4, rtol=0)  # eps is a float32 in the file
    assert loaded.config.tied == ours.config.tied == (loaded.lm_head.weight is loaded.embed_tokens.weight)
    assert (loaded.config.layers, loaded.config.theta) == (2, ours.config.theta)


def test_neighbors_become_halves_by_the_same_change() -> None:
    weight = torch.arange(24.0).reshape(12, 2)
    assert torch.equal(published.from_interleaved(interleaved(weight, 6), 6), weight)
    assert not torch.equal(interleaved(weight, 6), weight)
    assert published.from_interleaved(torch.arange(8), 8).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


@pytest.mark.parametrize(("shape", "width"), [((10, 2), 4), ((6,), 3), ((4,), 0), ((4,), -2), ((), 2)])
def test_rows_that_are_no_heads_are_refused(shape: tuple[int, ...], width: int) -> None:
    with pytest.raises(
        ValueError, match=r"^a weight of shape \(.*\) has no heads of -?\d+ rows: pass an even div"
    ):
        published.from_interleaved(torch.zeros(shape), width)


# ---------------------------------------------------------------------------------------- refused


LLAMA = network(KINDS["llama"])
FIELDS = {
    "no end of layers": ({"block_count": 2**32 - 1}, "no tensor layers.2."),
    "fewer layers": ({"block_count": 1}, "a tensor blk.1."),
    "no heads": ({"attention.head_count": 0}, "heads is 0: take a whole number of at least 1"),
    "no heads of keys": ({"attention.head_count_kv": 0}, "kv_heads is 0"),
    "heads of each layer": ({"attention.head_count_kv": [2, 2]}, "kv_heads is [2, 2]"),
    "a wide network": ({"embedding_length": 2**32 - 1}, "has the shape"),
    "a wide head": ({"attention.key_length": 2**31, "rope.dimension_count": 2**31}, "has the shape"),
    "a part of a turn": ({"rope.dimension_count": 8}, "rotary positions turn a part of a head"),
    "scaled turns": ({"rope.scaling.type": "yarn"}, "rotary positions are scaled: 'yarn'"),
    "text for a number": ({"rope.freq_base": "10000"}, "theta is '10000'"),
    "no number": ({"attention.layer_norm_rms_epsilon": float("nan")}, "eps is nan"),
    "no width": ({"embedding_length": None}, "does not say 'embedding_length'"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_that_lie_are_refused(name: str, tmp_path: Path) -> None:
    changes, why = FIELDS[name]
    fields = {key: value for key, value in (gguf_fields(LLAMA.config) | changes).items() if value is not None}
    told = refuse(write(tmp_path / "odd.gguf", "llama", fields, gguf_tensors(LLAMA, "llama")))
    assert told.startswith("odd.gguf")
    assert why in told


TENSORS = {
    "missing": ({"blk.1.ffn_up.weight": None}, "odd.gguf has no tensor layers.1.mlp.up_proj.weight"),
    "extra": ({"blk.1.ffn_up.bias": np.ones(96, np.float32)}, "odd.gguf has a tensor blk.1.ffn_up.bias that"),
    "scaled turns": (
        {"rope_freqs.weight": np.ones(8, np.float32)},
        "odd.gguf has a tensor rope_freqs.weight that",
    ),
    "another shape": (
        {"output_norm.weight": np.ones(63, np.float32)},
        "odd.gguf: output_norm.weight has the shape (63,), its configuration wants (64,) for norm.weight",
    ),
    "whole numbers": (
        {"output_norm.weight": np.ones(64, np.int32)},
        "output_norm.weight is I32, which gguf cannot",
    ),
    "no embedding": ({"token_embd.weight": None}, "does not say 'embed_tokens.weight'"),
    "twice": (
        {"embed_tokens.weight": np.ones((97, 64), np.float32)},
        "'embed_tokens.weight' and 'token_embd.weight'",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_is_wrong_is_named(name: str, tmp_path: Path) -> None:
    changes, why = TENSORS[name]
    tensors = {
        key: value for key, value in (gguf_tensors(LLAMA, "llama") | changes).items() if value is not None
    }
    assert why in refuse(write(tmp_path / "odd.gguf", "llama", gguf_fields(LLAMA.config), tensors))


@pytest.mark.parametrize("kind", ["gpt2", "mamba", "bert"])
def test_other_architectures_are_named(kind: str, tmp_path: Path) -> None:
    file = write(tmp_path / "odd.gguf", kind, {}, {})
    assert refuse(file) == f"odd.gguf is of the kind '{kind}': llama, qwen2 and qwen3 can be loaded"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write(tmp_path / "whole.gguf", "llama", gguf_fields(LLAMA.config), gguf_tensors(LLAMA, "llama"))


def variant(whole: Path, content: bytes) -> Path:
    """Write other content beside `whole`: Windows does not let a file be changed that is still mapped."""
    file = whole.parent / str(len([*whole.parent.iterdir()])) / whole.name
    file.parent.mkdir()
    file.write_bytes(content)
    return file


def test_a_file_cut_anywhere_is_refused(whole: Path) -> None:
    content = whole.read_bytes()
    header = content.index(b"blk.1.ffn_down")
    for end in [*range(0, header, 37), len(content) - 200_000, len(content) - 1]:
        assert refuse(variant(whole, content[:end])).startswith("whole.gguf: ")


def test_a_count_that_lies_takes_neither_time_nor_memory(whole: Path) -> None:
    content = whole.read_bytes()
    for place in (8, 16):  # of tensors, of fields
        refuse(variant(whole, content[:place] + struct.pack("<Q", 2**62) + content[place + 8 :]))
    place = content.index(b"llama.block_count") + len(b"llama.block_count")
    for kind, inner in ((9, 4), (9, 0), (9, 8), (9, 9), (8, 4)):
        lie = struct.pack("<IIQ", kind, inner, 2**60) if kind == 9 else struct.pack("<IQ", kind, 2**60)
        refuse(variant(whole, content[:place] + lie + content[place + 8 :]))


def test_a_tensor_that_lies_about_its_size_takes_no_memory(whole: Path) -> None:
    content = whole.read_bytes()
    place = content.index(b"token_embd.weight") + len(b"token_embd.weight")
    for shape in ((2**40, 2**40), (64, 2**50), (2**63, 2**63), (0, 97), (64, 0)):
        refuse(variant(whole, content[: place + 4] + struct.pack("<QQ", *shape) + content[place + 20 :]))
    for kind, offset in ((999, 0), (4, 0), (0, 2**63), (0, 2**64 - 1), (0, 2**40)):
        refuse(
            variant(whole, content[: place + 20] + struct.pack("<IQ", kind, offset) + content[place + 32 :])
        )


def test_any_byte_of_the_header_may_be_wrong(whole: Path) -> None:
    content = whole.read_bytes()
    end, random = content.index(b"blk.1."), np.random.default_rng(0)
    loaded = 0
    for _ in range(300):
        place, value = random.integers(end), random.integers(256)
        try:
            published.load(variant(whole, content[:place] + bytes([value]) + content[place + 1 :]))
            loaded += 1
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017
    assert loaded < 100


@pytest.mark.parametrize(
    "make", [lambda file: None, Path.mkdir, Path.touch], ids=["nothing", "a folder", "empty"]
)
def test_what_is_no_file_is_told(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "model.gguf")
    refuse(
        tmp_path / "model.gguf", FileNotFoundError if not (tmp_path / "model.gguf").exists() else ValueError
    )


def test_what_is_not_installed_is_named(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModuleNotFoundError, match=r"^[^\n]*pip install gguf$"):
        published.load(whole)


def test_a_folder_needs_no_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    model = network(CONFIGS["llama"])
    assert torch.equal(published.load(write_llama(tmp_path / "llama", published_llama(model)))(X), model(X))
