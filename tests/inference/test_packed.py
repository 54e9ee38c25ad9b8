"""Packed weights compute what the network computes; what does not suit them is refused."""

import copy
import math
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny_transformers import CONFIGS, network
from torch import nn

from bigmodel_helpers import inference, models
from bigmodel_helpers.inference._packs import PACKS

EXACT = ["plain", "transposed", *(["onednn"] if torch.backends.mkldnn.is_available() else [])]
FBGEMM = torch.backends.quantized.engine in ("x86", "fbgemm")
with_fbgemm = pytest.mark.skipif(not FBGEMM, reason="PyTorch has no fbgemm here")
ROUNDED = models.TransformerConfig(2, 64, 96, 4, 2, 80, eps=1e-5)
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [90], [11, 3] * 9]


@pytest.mark.parametrize(
    ("name", "pack"),
    [(name, "plain") for name in CONFIGS]
    + [(name, pack) for name in ("gpt2", "qwen2") for pack in EXACT[1:]]
    + [pytest.param(name, "fp16", marks=with_fbgemm) for name in CONFIGS],
)
def test_scores_and_answers_are_those_of_the_network(name: str, pack: str) -> None:
    model = network(CONFIGS[name]).requires_grad_(True)
    decoder = inference.Decoder(inference.Packed(model, pack), capacity=40)
    model = halved(model) if pack == "fp16" else model
    ids = torch.randint(97, (20,), generator=torch.Generator().manual_seed(1))
    parts = [decoder.read(ids[:7].tolist(), rows=7), decoder.read(ids[7:12].tolist(), rows=5)]
    found = torch.cat(parts + [decoder.read([int(token)]) for token in ids[12:]])
    assert not found.requires_grad
    torch.testing.assert_close(found, model(ids[None])[0].detach(), atol=1e-4, rtol=0)
    for prompt in PROMPTS:
        wanted = inference.replies(model, [prompt], end=3, most=20)[0]
        assert [*decoder.generate(prompt, most=20, end=3)] == wanted


def halved(model: models.Transformer) -> models.Transformer:
    """Return the network with the numbers of fp16 in its matrices, and the others as they were."""
    model = copy.deepcopy(model)
    for layer in [each for each in model.modules() if isinstance(each, nn.Linear)]:
        layer.weight = nn.Parameter(layer.weight.detach().half().float())  # not that of a tied embedding
    return model


def test_tokens_of_several_texts_go_through_together() -> None:
    model = network(CONFIGS["qwen3"])
    packed, seen = inference.Packed(model), []

    def attend(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        seen.append((layer, query.shape, key.shape))
        return value.repeat_interleave(3, dim=1).flatten(1)  # each token sees itself only

    scores = packed.scores(torch.tensor([5, 6, 7]), torch.tensor([0, 0, 0]), attend, [2, 0])
    alone = torch.cat([model(torch.tensor([[token]]))[0] for token in (7, 5)])
    torch.testing.assert_close(scores, alone, atol=1e-4, rtol=0)
    assert seen == [(layer, (3, 6, 16), (3, 2, 16)) for layer in range(3)]
    assert packed.scores(torch.tensor([5]), torch.tensor([0]), attend, []).shape == (0, 97)


@pytest.mark.parametrize(("pack", "levels", "group"), [("int8", 254, 64), ("int4", 15, 32)])
def test_weights_are_rounded_to_the_nearest_level(pack: str, levels: int, group: int) -> None:
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    bias = torch.arange(48.0).bfloat16()
    found = PACKS[pack](weight, None)(torch.eye(64).bfloat16()).t().float()
    groups = weight.float().unflatten(1, (-1, group))
    if pack == "int8":
        step = 2 * groups.abs().amax(2, keepdim=True) / levels
    else:
        step = (groups.amax(2, keepdim=True) - groups.amin(2, keepdim=True)) / levels
    off = (found.unflatten(1, (-1, group)) - groups).abs() / step
    assert 0.4 < off.max() < {"int8": 1.0, "int4": 0.55}[pack]  # half a level, and what bf16 rounds
    assert off.mean() == pytest.approx(0.25, abs=0.1)
    shifted = PACKS[pack](weight, bias)(torch.zeros(2, 64).bfloat16())
    assert torch.equal(shifted, bias.expand(2, -1))


@with_fbgemm
def test_a_matrix_of_any_size_is_rounded_to_16_bits_and_multiplied_in_32() -> None:
    generator, sizes = torch.Generator().manual_seed(0), (1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 64, 70)
    for rows in sizes:
        for columns in sizes:
            weight, bias = (torch.randn(shape, generator=generator) for shape in ((rows, columns), (1, rows)))
            one = PACKS["fp16"](weight, bias[0])
            assert torch.equal(PACKS["fp16"](weight, None)(torch.eye(columns)).t(), weight.half().float())
            for texts in (1, 3, 16):
                x = torch.randn(texts, columns, generator=generator)
                wanted = F.linear(x.double(), weight.half().double(), bias[0].double()).float()
                torch.testing.assert_close(one(x), wanted, atol=3e-5, rtol=0)
    assert torch.equal(one(torch.zeros(1, 70)), bias)  # which keeps its 32 bits


@with_fbgemm
def test_only_weights_that_16_bits_can_hold_are_packed() -> None:
    weight = torch.tensor([[65_504.0, 2**-24], [-65_504.0, -0.0]])
    packed = PACKS["fp16"](weight, torch.tensor([1e6, 1 / 3]))
    wanted = weight.t() + torch.tensor([1e6, 1 / 3])  # a bias may be larger
    assert torch.equal(packed(torch.eye(2)), wanted)
    for wrong in (65_505.0, -1e5, math.inf, -math.inf, math.nan):
        model = network(ROUNDED)
        model.lm_head.weight[5, 7] = wrong
        before = model.lm_head.weight.clone()
        assert refuse(model, "fp16") == (
            f"fp16 holds numbers up to 65,504, and a weight is {abs(wrong):g}: take plain"
        )
        assert torch.equal(model.lm_head.weight.nan_to_num(), before.nan_to_num())


@with_fbgemm
def test_answers_of_16_bits_are_those_of_the_rounded_network_in_the_engine_too() -> None:
    model = network(CONFIGS["tied llama"])
    engine = inference.Engine(inference.Packed(model, "fp16"), blocks=12, most_running=2, budget=7)
    requests = [engine.submit(inference.Request(prompt, 20, 3)) for prompt in PROMPTS]
    engine.run()
    assert [one.answer for one in requests] == inference.replies(halved(model), PROMPTS, end=3, most=20)


@pytest.mark.parametrize("pack", [pytest.param("fp16", marks=with_fbgemm), "int8", "int4"])
def test_a_rounded_network_is_near_the_network(pack: str) -> None:
    model = network(ROUNDED).to(torch.float32 if pack == "fp16" else torch.bfloat16)
    ids = list(range(3, 40))
    scores = {
        name: inference.Decoder(inference.Packed(model, name), 64).read(ids, rows=len(ids)).float()
        for name in ("plain", pack)
    }
    off = (scores["plain"] - scores[pack]).std() / scores["plain"].std()
    least, most = {"fp16": (1e-5, 1e-3), "int8": (0.002, 0.03), "int4": (0.002, 0.3)}[pack]
    assert least < off < most


def test_the_network_is_not_kept() -> None:
    model = network(CONFIGS["llama"])
    packed = inference.Packed(model)
    shared = model.lm_head.weight.data_ptr()
    before = inference.Decoder(packed, 8).read([1, 2])
    assert shared in {cell.cell_contents.data_ptr() for cell in packed._head.__closure__ if _is_tensor(cell)}
    reference = weakref.ref(model)
    del model
    assert reference() is None
    assert torch.equal(inference.Decoder(packed, 8).read([1, 2]), before)


def _is_tensor(cell: object) -> bool:
    return isinstance(cell.cell_contents, torch.Tensor)


def refuse(model: models.Transformer, pack: str) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        inference.Packed(model, pack)
    return str(caught.value)


def test_what_a_pack_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(ROUNDED)
    assert refuse(model, "int3") == (
        "pack is 'int3': take one of plain, transposed, onednn, fp16, int8, int4"
    )
    for pack in ("int8", "int4"):
        assert refuse(model, pack) == (
            f"{pack} needs torch.bfloat16, and the network is torch.float32: call model.to(torch.bfloat16) first"
        )
    for pack in ("onednn", "fp16"):
        for dtype in (torch.bfloat16, torch.float16, torch.float64):
            assert refuse(network(ROUNDED).to(dtype), pack) == (
                f"{pack} needs torch.float32, and the network is {dtype}: call model.to(torch.float32) first"
            )
    for pack in ("onednn", "fp16", "int8", "int4"):
        with pytest.raises(
            ValueError, match=f"^{pack} computes on a CPU, and the network is on meta: take plain$"
        ):
            PACKS[pack](torch.empty(64, 64, device="meta"), None)
    assert refuse(network(CONFIGS["llama"]).bfloat16(), "int8").startswith(
        "int8 cannot pack 80 x 48: it divides"
    )
    odd = models.TransformerConfig(1, 32, 40, 4, 2, 80)
    assert refuse(network(odd).bfloat16(), "int4").startswith(
        "int4 cannot pack 32 x 40: it divides rows by 16"
    )
    model.layers[1].mlp.up_proj = torch.nn.Identity()
    assert refuse(model, "plain") == (
        "a layer is Identity, not nn.Linear: bring the network back to plain layers first"
    )
    for pack, name in (("int8", "_weight_int8pack_mm"), ("int4", "_convert_weight_to_int4pack_for_cpu")):
        monkeypatch.delattr(torch, name)
        assert refuse(network(ROUNDED).bfloat16(), pack) == (
            f"{pack} needs {name}, which PyTorch {torch.__version__} lacks: take another pack"
        )
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert "built without oneDNN" in refuse(network(ROUNDED), "onednn")


def test_a_pytorch_that_does_not_multiply_with_fbgemm_refuses_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    here = SimpleNamespace(engine="qnnpack", supported_engines=["qnnpack", "none"])
    monkeypatch.setattr(torch.backends, "quantized", here)
    cause = "fp16 needs fbgemm, and PyTorch multiplies with qnnpack here: "
    assert refuse(network(ROUNDED), "fp16") == cause + "take another pack, such as plain"
    here.supported_engines = ["qnnpack", "x86", "fbgemm"]
    cure = "set torch.backends.quantized.engine = 'fbgemm' first"
    assert refuse(network(ROUNDED), "fp16") == cause + cure
    here.engine = "fbgemm"
    names = ["linear_prepack_fp16", "linear_dynamic_fp16"]
    for missing, other in (names, names[::-1]):
        monkeypatch.setattr(torch.ops, "quantized", SimpleNamespace(**{other: print}))
        assert refuse(network(ROUNDED), "fp16").startswith(f"fp16 needs {missing}, which PyTorch ")


# ---------------------------------------------------------------------------------------- decoder


def decoder(name: str = "llama", capacity: int = 70) -> inference.Decoder:
    return inference.Decoder(inference.Packed(network(CONFIGS[name])), capacity)


def test_a_text_goes_on_from_where_it_was_cut() -> None:
    one = decoder()
    first = one.read([1, 2, 3, 4, 5], rows=5)
    assert one.length == 5
    one.length = 2
    torch.testing.assert_close(one.read([3, 4]), first[3:4], atol=1e-5, rtol=0)
    other = one.read([9])
    one.length = 0
    torch.testing.assert_close(one.read([1, 2, 3, 4, 9]), other, atol=1e-5, rtol=0)
    for length in (6, -1, 2.0):
        with pytest.raises(ValueError, match=r"^length is .*: take a whole number from 0 to 5$"):
            one.length = length


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.3}])
def test_drawn_tokens_are_those_of_generate(options: dict[str, float]) -> None:
    model, settings = network(CONFIGS["llama"]), {"most": 30, "temperature": 1.5, **options}
    wanted = inference.generate(
        model, torch.tensor([[1, 2]]), generator=torch.Generator().manual_seed(3), **settings
    )
    found = decoder().generate([1, 2], generator=torch.Generator().manual_seed(3), **settings)
    assert [*found] == [int(token) for token in wanted]


def test_wrong_reads_are_refused_and_change_nothing() -> None:
    one = decoder(capacity=6)
    before = one.read([1, 2, 3])
    wrong = {
        "no token to read": ([], 1),
        "token 97: tokens are whole numbers from 0 to 96": ([1, 97], 1),
        "token -1: tokens": ([-1], 1),
        "token 1.0: tokens": ([1.0], 1),
        "7 tokens do not fit into 6": ([1] * 4, 1),
        "rows is 3: take a whole number from 1 to 2": ([1, 2], 3),
        "rows is 0": ([1, 2], 0),
    }
    for why, (ids, rows) in wrong.items():
        with pytest.raises(ValueError, match=f"^{why}[^\n]*$"):
            one.read(ids, rows=rows)
    assert one.length == 3
    one.length = 2
    torch.testing.assert_close(one.read([3]), before, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"^65 tokens do not fit into 64: "):
        decoder("gpt2").read([1] * 65)
    for capacity in (0, 2.5, math.inf):
        with pytest.raises(ValueError, match=r"^capacity is .*: take a whole number of at least 1$"):
            inference.Decoder(one.packed, capacity)
