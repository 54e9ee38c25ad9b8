"""LoRA on linear layers: equal to peft over ten steps, files both ways, merged, on four bits; refusals."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bigmodel_helpers import models
from bigmodel_helpers.compression import Linear4bit, to_four_bits
from bigmodel_helpers.training import lora
from tests.tiny_transformers import CONFIGS, network

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOKENS = torch.randint(0, 97, (2, 12), generator=torch.Generator().manual_seed(0))


def disturb(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for adapter in lora.modules(model).values():
            adapter.lora_B.normal_(std=0.1)
    return model


def trainable(kind: str = "llama") -> models.Transformer:
    return network(CONFIGS[kind]).requires_grad_(True).eval()


def untouched(model: nn.Module) -> bool:
    """Whether nothing was frozen or put on a model that `trainable` made."""
    return not lora.modules(model) and all(one.requires_grad for one in model.parameters())


def with_adapters(rank: int = 3, **options: object) -> models.Transformer:
    torch.manual_seed(1)
    return lora.add(trainable(), rank, **{"targets": ALL} | options)


def test_fresh_adapters_change_nothing_and_only_they_learn() -> None:
    plain = network(CONFIGS["llama"]).eval()
    model = with_adapters()
    assert torch.equal(model(TOKENS), plain(TOKENS))
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trained == {f"{name}.lora_{part}" for name in lora.modules(model) for part in "AB"}
    assert len(lora.modules(model)) == 3 * len(ALL)
    model(TOKENS).sum().backward()
    assert all((one.grad is not None) == one.requires_grad for one in model.parameters())


def test_the_output_is_that_of_the_changed_weight() -> None:
    torch.manual_seed(0)
    adapter = lora.LoRALinear(nn.Linear(6, 4), 2, 6.0)
    nn.init.normal_(adapter.lora_B)
    x = torch.randn(3, 5, 6)
    changed = adapter.base.weight + 3 * adapter.lora_B @ adapter.lora_A
    torch.testing.assert_close(adapter(x), F.linear(x, changed, adapter.base.bias), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(adapter.update(), changed - adapter.base.weight, rtol=1e-5, atol=1e-6)


def test_merged_equals_unmerged_and_removed_equals_before() -> None:
    plain = network(CONFIGS["llama"]).eval()
    model = disturb(with_adapters(alpha=8.0))
    with torch.no_grad():
        changed = model(TOKENS)
        merged = lora.merge(copy.deepcopy(model))
        assert merged.state_dict().keys() == plain.state_dict().keys()
        torch.testing.assert_close(merged(TOKENS), changed, rtol=1e-4, atol=1e-5)
        assert (changed - plain(TOKENS)).abs().max() > 0.01
        assert torch.equal(lora.remove(model)(TOKENS), plain(TOKENS))


def losses(model: nn.Module, forward: object, parameters: list[Tensor]) -> list[float]:
    optimizer, found = torch.optim.AdamW(parameters, lr=0.01), []
    for _ in range(10):
        scores = forward(TOKENS[:, :-1])
        loss = F.cross_entropy(scores.flatten(0, 1), TOKENS[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def test_ten_steps_equal_those_of_peft() -> None:
    peft = pytest.importorskip("peft")
    theirs = network(CONFIGS["llama"])
    ours = with_adapters(4, alpha=4.0)
    wrapped = peft.get_peft_model(theirs, peft.LoraConfig(r=4, lora_alpha=4, target_modules=ALL))
    layers = {name: one for name, one in wrapped.base_model.model.named_modules() if hasattr(one, "lora_A")}
    pairs = [(layers[name], adapter) for name, adapter in lora.modules(ours).items()]
    assert len(pairs) == len(layers)
    with torch.no_grad():
        for their, our in pairs:
            our.lora_A.copy_(their.lora_A["default"].weight)
    theirs_learned = [one for one in wrapped.parameters() if one.requires_grad]
    ours_learned = [one for one in ours.parameters() if one.requires_grad]
    found = losses(ours, ours, ours_learned)
    wanted = losses(wrapped, wrapped.base_model.model, theirs_learned)
    assert found[-1] < found[0] - 0.1
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=1e-4, atol=1e-5)
    for their, our in pairs:
        torch.testing.assert_close(our.lora_B, their.lora_B["default"].weight, rtol=0.01, atol=1e-3)


def hugging_face(seed: int = 0) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, rms_norm_eps=1e-5,
    )  # fmt: skip
    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(config).eval()


def ours_from(theirs: nn.Module, folder: Path) -> models.Transformer:
    theirs.save_pretrained(folder)
    return models.published.load(folder)


peft_is_older = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@peft_is_older
def test_peft_reads_what_we_save(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    theirs = hugging_face()
    ours = disturb(
        lora.add(ours_from(theirs, tmp_path / "model"), 3, alpha=6.0, targets=["q_proj", "down_proj"])
    )
    lora.save(ours, tmp_path / "adapter")
    wrapped = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), wrapped(TOKENS).logits, rtol=1e-4, atol=1e-5)


@peft_is_older
def test_we_read_what_peft_saves(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    theirs = hugging_face()
    ours = ours_from(theirs, tmp_path / "model")
    options = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["v_proj", "up_proj"], task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(theirs, options).eval()
    with torch.no_grad():
        for name, one in wrapped.named_parameters():
            if "lora_B" in name:
                one.normal_(std=0.1)
        wrapped.save_pretrained(tmp_path / "adapter")
        lora.load(ours, tmp_path / "adapter")
        torch.testing.assert_close(ours(TOKENS), wrapped(TOKENS).logits, rtol=1e-4, atol=1e-5)
    assert len(lora.modules(ours)) == 4


def test_saved_adapters_come_back(tmp_path: Path) -> None:
    model = disturb(with_adapters(alpha=9.0))
    lora.save(model, tmp_path)
    again = lora.load(trainable(), tmp_path)
    assert torch.equal(again(TOKENS), model(TOKENS))
    assert not any(one.requires_grad for name, one in again.named_parameters() if "lora_" not in name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "'use_dora' = True, which is not plain LoRA"),
        ({"rank_pattern": {"q_proj": 4}}, "'rank_pattern'"),
        ({"bias": "all"}, "bias = 'all', which plain LoRA does not have"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"r": "3"}, "r = '3' and lora_alpha"),
        ({"r": 2}, "r=2 want"),
        ({"r": True}, "r = True"),
        ({"r": 10**30}, "r = 1000"),
        ({"lora_alpha": 0}, "alpha is 0: take a number other than 0"),
        ({"lora_alpha": 10**400}, "alpha is 1000"),
        ({"lora_alpha": float("nan")}, "alpha is nan"),
        ({"lora_alpha": None}, "lora_alpha = None"),
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"something_new": 1}, "'something_new' = 1"),
    ],
)
def test_other_kinds_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    lora.save(with_adapters(), tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    model = trainable()
    with pytest.raises(ValueError, match=message):
        lora.load(model, tmp_path)
    assert untouched(model)


def refused(tmp_path: Path, tensors: dict[str, Tensor], message: str) -> None:
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    model = trainable()
    with pytest.raises(ValueError, match=message):
        lora.load(model, tmp_path)
    assert untouched(model)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    lora.save(with_adapters(), tmp_path)
    whole = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    refused(
        tmp_path,
        {key: value for key, value in whole.items() if key != name},
        "lora_A of .*q_proj is not there",
    )
    refused(tmp_path, whole | {name: torch.zeros(3, 47)}, r"lora_A of .*q_proj is \(3, 47\)")
    refused(
        tmp_path,
        whole | {name.replace("layers.0", "layers.9"): whole[name].clone()},
        "layers.9.* no such linear layer",
    )
    refused(
        tmp_path, whole | {name.replace("lora_A", "lora_C"): whole[name].clone()}, "none of a LoRA adapter"
    )
    refused(tmp_path, whole | {"lm_head.weight": whole[name].clone()}, "lm_head.weight, which is none")
    refused(tmp_path, {}, "no tensors")
    short = name.replace("model.model.", "model.")
    refused(tmp_path, whole | {short: whole[name].clone()}, "lora_A of .*q_proj twice")
    refused(tmp_path, whole | {name: whole[name] * math.nan}, "or not finite")
    for dtype in (torch.int8, torch.bool, torch.complex64):
        refused(
            tmp_path,
            whole | {name: whole[name].to(dtype)},
            f"is torch.{dtype}".replace("torch.torch", "torch"),
        )
    (tmp_path / "adapter_model.safetensors").write_bytes(b"not at all")
    with pytest.raises(ValueError, match="damaged"):
        lora.load(network(CONFIGS["llama"]), tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model.safetensors is not in"):
        lora.load(network(CONFIGS["llama"]), tmp_path)


def test_adapters_on_four_bits_learn_and_refuse_to_merge() -> None:
    config = models.TransformerConfig(2, 64, 96, 2, 1, vocabulary=97)
    model = lora.add(to_four_bits(network(config)), 2, targets=["q_proj", "down_proj"])
    learned = [one for one in model.parameters() if one.requires_grad]
    found = losses(model, model, learned)
    assert found[-1] < found[0] - 0.1
    with pytest.raises(ValueError, match=r"q_proj is a Linear4bit: only the weight of nn\.Linear"):
        lora.merge(model)
    assert isinstance(lora.remove(model).layers[0].self_attn.q_proj, Linear4bit)


def test_mixed_precision_learns_on_four_bits_with_a_bias() -> None:
    config = models.TransformerConfig(2, 64, 96, 2, 1, vocabulary=97, qkv_bias=True)
    model = lora.add(to_four_bits(network(config)), 2, targets=["q_proj", "v_proj"])
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(TOKENS).float().square().sum()
    loss.backward()
    for adapter in lora.modules(model).values():
        assert adapter.lora_B.grad.dtype == torch.float32
        assert adapter.lora_B.grad.isfinite().all()


@peft_is_older
def test_peft_reads_an_adapter_of_the_output_layer(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    theirs = hugging_face()
    ours = disturb(lora.add(ours_from(theirs, tmp_path / "model"), 3, targets=["q_proj", "lm_head"]))
    lora.save(ours, tmp_path / "adapter")
    wrapped = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), wrapped(TOKENS).logits, rtol=1e-4, atol=1e-5)
    again = lora.load(ours_from(hugging_face(), tmp_path / "again"), tmp_path / "adapter")
    assert torch.equal(again(TOKENS), ours(TOKENS))


def test_a_shared_weight_gets_no_adapter() -> None:
    model = trainable("tied llama")
    with pytest.raises(ValueError, match=r"lm_head shares its weight with embed_tokens\.weight"):
        lora.add(model, 2, targets=["q_proj", "lm_head"])
    assert untouched(model)


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    model = with_adapters()
    with pytest.raises(ValueError, match="has adapters already"):
        lora.add(model, 2, targets=ALL)
    lora.save(model, tmp_path)
    with pytest.raises(ValueError, match="has adapters already"):
        lora.load(model, tmp_path)
    plain = trainable()
    with pytest.raises(TypeError, match="targets is one text"):
        lora.add(plain, 2, targets="q_proj")
    for options, message in (
        ({"targets": ["q_proj", "c_attn"]}, "no layer is called 'c_attn'"),
        ({"targets": []}, "no layer is called 'nothing'"),
        ({"targets": ["norm"]}, "is a RMSNorm, no linear layer"),
        ({"targets": ALL, "rank": 17}, r"rank 17 does not fit layers.0.self_attn.k_proj, 16 x 48"),
        ({"targets": ALL, "rank": True}, "rank True does not fit"),
        ({"targets": ALL, "rank": 2.0}, r"rank 2\.0 does not fit"),
        ({"targets": ALL, "alpha": math.nan}, "alpha is nan"),
        ({"targets": ALL, "alpha": "8"}, "alpha is '8'"),
    ):
        with pytest.raises(ValueError, match=message):
            lora.add(plain, **{"rank": 2} | options)
        assert untouched(plain)
    with pytest.raises(ValueError, match="0 kinds of adapters"):
        lora.save(plain, tmp_path)
    with pytest.raises(ValueError, match="wraps the network"):
        lora.save(nn.Sequential(model), tmp_path)
