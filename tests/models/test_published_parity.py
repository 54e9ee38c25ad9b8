"""Our transformer, with weights that `transformers` has written, against `transformers` itself."""

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from tiny_transformers import CONFIGS

from bigmodel_helpers import inference, models, training
from bigmodel_helpers.models import published
from bigmodel_helpers.training import optim

SIZES = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3}
SIZES |= {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64}
STOP, PAD = 5, 0


class Pair(NamedTuple):
    """A network of `transformers`, ours with the same weights, and the folder that the first has written."""

    theirs: Any
    ours: models.Transformer
    folder: Path


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    """The library; it takes seconds to import, so no other module of tests does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
    transformers.logging.set_verbosity_error()
    return transformers


def random_network(transformers: ModuleType, kind: str) -> Any:
    ids = {"bos_token_id": 1, "eos_token_id": STOP, "pad_token_id": PAD}
    if kind == "gpt2":
        sizes = {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 64}
        config = transformers.GPT2Config(**sizes, **ids)
    elif kind == "tied llama":
        turning = {"rope_theta": 100_000.0, "rope_type": "default"}
        config = transformers.LlamaConfig(
            **SIZES, **ids, rms_norm_eps=1e-5, tie_word_embeddings=True, rope_parameters=turning
        )
    elif kind == "llama":
        config = transformers.LlamaConfig(**SIZES, **ids, rms_norm_eps=1e-5)
    elif kind == "qwen2":
        config = transformers.Qwen2Config(**SIZES, **ids)
    else:
        config = transformers.Qwen3Config(**SIZES, **ids, head_dim=16)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, transformers: ModuleType, tmp_path_factory: Any) -> Pair:
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "_"))
    theirs = random_network(transformers, request.param)
    theirs.save_pretrained(folder / "one")
    ours = published.load(folder / "one")
    assert ours.config == CONFIGS[request.param]
    return Pair(theirs, ours, folder)


def tokens(batch: int = 3, length: int = 20) -> torch.Tensor:
    return torch.randint(6, 97, (batch, length), generator=torch.Generator().manual_seed(1))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert theirs.abs().max() > 1, "scores near 0 are close to anything"
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_scores_are_equal(pair: Pair) -> None:
    close(pair.ours(tokens()), pair.theirs(tokens()).logits)


def test_a_checkpoint_in_several_files_is_the_same(pair: Pair) -> None:
    folder = pair.folder / "shards"
    pair.theirs.save_pretrained(folder, max_shard_size="40KB")
    assert len([*folder.glob("*.safetensors")]) > 2
    again = published.load(str(folder))
    for name, tensor in pair.ours.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_what_we_save_is_what_transformers_loads(pair: Pair, transformers: ModuleType) -> None:
    folder = pair.folder / "saved"
    if pair.ours.config.positions:
        with pytest.raises(ValueError, match="only Llama's parts can be saved"):
            published.save(pair.ours, folder)
        assert not folder.exists()
        return
    published.save(pair.ours, folder)
    names = [{*load_file(one / "model.safetensors")} for one in (folder, pair.folder / "one")]
    assert names[0] == names[1]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    close(theirs(tokens()).logits, pair.ours(tokens()))
    again = published.load(folder)
    assert again.config == pair.ours.config
    for name, tensor in pair.ours.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_network_with_adapters_or_in_a_wrapper_is_not_saved(tmp_path: Path) -> None:
    small = models.TransformerConfig(1, 8, 16, 2, 1, vocabulary=10)
    adapted = training.add_lora(models.Transformer(small), 2, skip=("lm_head",))
    compiled = torch.compile(models.Transformer(small))
    for model in (adapted, compiled):
        with pytest.raises(ValueError, match="merge or remove adapters"):
            published.save(model, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    training.merge_lora(adapted)
    published.save(adapted, tmp_path / "merged")
    assert published.load(tmp_path / "merged").config == small


def test_a_loaded_network_is_ready_and_frozen(pair: Pair) -> None:
    assert not pair.ours.training
    assert not any(parameter.requires_grad for parameter in pair.ours.parameters())
    assert all(p.is_contiguous() and p.device.type == "cpu" for p in pair.ours.parameters())
    tied = pair.ours.lm_head.weight is pair.ours.embed_tokens.weight
    assert tied == pair.ours.config.tied
    assert sum(p.numel() for p in pair.ours.parameters()) == sum(p.numel() for p in pair.theirs.parameters())


def test_half_the_bits(pair: Pair) -> None:
    half = published.load(pair.folder / "one", dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(half(tokens()).float(), pair.ours(tokens()), atol=0.2, rtol=0)


def test_weights_stored_in_half_the_bits_are_loaded_in_full(pair: Pair) -> None:
    folder = pair.folder / "bf16"
    theirs = type(pair.theirs).from_pretrained(pair.folder / "one", dtype=torch.bfloat16)
    theirs.save_pretrained(folder)
    ours = published.load(folder)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    close(ours(tokens()), theirs.float()(tokens()).logits)


def test_left_padding_is_equal(pair: Pair) -> None:
    real = torch.arange(20) >= torch.tensor([[5], [11], [0]])
    places = (real.cumsum(1) - 1).clamp(min=0)
    theirs = pair.theirs(tokens(), attention_mask=real.long(), position_ids=places).logits
    close(pair.ours(tokens(), real=real)[real], theirs[real])


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_greedy_text_is_equal(pair: Pair, padded: bool) -> None:
    real = (
        torch.arange(20) >= torch.tensor([[5], [11], [0]]) if padded else torch.ones(3, 20, dtype=torch.bool)
    )
    x = tokens().where(real, PAD)
    wanted = pair.theirs.generate(
        x, attention_mask=real.long(), max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=PAD
    )[:, 20:]
    found = inference.generate(pair.ours, x, most=30, real=real if padded else None)
    assert torch.equal(torch.stack([*found], dim=1), wanted)
    stop = int(wanted[0, 10])  # a token that is known to come
    wanted = pair.theirs.generate(
        x,
        attention_mask=real.long(),
        max_new_tokens=30,
        do_sample=False,
        eos_token_id=stop,
        pad_token_id=stop,
    )[:, 20:]
    found = inference.generate(pair.ours, x, most=30, stop=stop, real=real if padded else None)
    assert torch.equal(torch.stack([*found], dim=1), wanted)


def test_settings_that_change_the_result_are_read(transformers: ModuleType, tmp_path: Path) -> None:
    for name, changes in {
        "theta": {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
        "eps": {"rms_norm_eps": 0.1},
        "heads of 12": {"head_dim": 12},
        "one head of keys": {"num_key_value_heads": 1},
    }.items():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**SIZES | changes, initializer_range=0.2)
        theirs = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
        theirs.save_pretrained(tmp_path / name)
        close(published.load(tmp_path / name)(tokens()), theirs(tokens()).logits)
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 64, "n_inner": 100}
    config = transformers.GPT2Config(
        **sizes, layer_norm_epsilon=0.1, tie_word_embeddings=False, initializer_range=0.2
    )
    theirs = transformers.GPT2LMHeadModel(config).eval().requires_grad_(False)
    theirs.save_pretrained(tmp_path / "gpt2")
    close(published.load(tmp_path / "gpt2")(tokens()), theirs(tokens()).logits)


@pytest.mark.parametrize("kind", CONFIGS)
def test_both_libraries_matrices_are_found_for_muon(transformers: ModuleType, kind: str) -> None:
    theirs = random_network(transformers, kind).requires_grad_(True)
    for model in (theirs, theirs.base_model):
        known = {parameter: name for name, parameter in model.named_parameters()}
        found, others = ([known[p] for p in part] for part in optim.split_parameters(model))
        kinds = ("proj.weight", "c_attn.weight", "c_fc.weight")
        assert found == [name for name in known.values() if name.endswith(kinds)]
        assert len(found) == 3 * (4 if kind == "gpt2" else 7)
        assert sorted(found + others) == sorted(known.values())
