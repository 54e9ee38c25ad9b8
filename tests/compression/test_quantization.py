"""Rounding to few bits: the derived bound, PyTorch's own rounding, training, packing, files."""

import copy
import json
import os
import stat
import sys

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from bigmodel_helpers import compression
from bigmodel_helpers.compression import quantization
from bigmodel_helpers.data import _files
from bigmodel_helpers.models import ByteLM, ResNet


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def values(seed: int, *shape: int) -> torch.Tensor:
    """Return numbers of random spread and center, some of them far from the others."""
    draw = generator(seed)
    spread, center = 10 ** torch.empty(2).uniform_(-3, 2, generator=draw)
    x = torch.randn(shape, generator=draw) * spread + center * torch.randn((), generator=draw)
    return torch.where(torch.rand(shape, generator=draw) < 0.02, 20 * x, x)


def small() -> ResNet:
    torch.manual_seed(0)
    return ResNet((1, 1), (8, 16), classes=4).eval()


X = torch.randn(3, 3, 16, 16, generator=generator(1))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group_size", [None, 1, 7, 16, 1000])
@pytest.mark.parametrize("symmetric", [True, False])
def test_no_error_is_above_the_bound_and_zero_stays_zero(bits, group_size, symmetric):
    for seed in range(10):
        x = values(seed, 5, 6, 3)
        x[0, 0, 0] = 0
        result = compression.quantize(x, bits, group_size, symmetric=symmetric)
        restored = result.dequantize()
        assert restored.shape == x.shape
        assert int(result.codes.max()) < 2**bits
        bound = result.error_bound()
        slack = 1e-5 * x.abs().max()  # float32
        assert ((x - restored).abs() <= bound + slack).all()
        assert restored[0, 0, 0] == 0


def test_the_bound_is_reached_so_it_is_not_too_wide():
    x = torch.linspace(-1, 1, 2001)[None]
    result = compression.quantize(x, 4)
    assert (x - result.dequantize()).abs().max() > 0.99 * result.error_bound().max()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_equal_to_pytorch(bits):
    x = values(3, 6, 40)
    top = 2 ** (bits - 1) - 1
    scale = x.abs().amax(1) / top
    theirs = torch.fake_quantize_per_channel_affine(x, scale, torch.zeros(6, dtype=torch.int32), 0, -top, top)
    assert torch.allclose(compression.quantize(x, bits).dequantize(), theirs, rtol=1e-5)
    whole = compression.quantize(x.reshape(1, -1), bits, symmetric=False)
    theirs = torch.fake_quantize_per_tensor_affine(
        x, float(whole.scale), int(whole.zero_point), 0, 2**bits - 1
    )
    assert torch.allclose(whole.dequantize().view_as(x), theirs, rtol=1e-5)


def test_rounding_twice_changes_nothing():
    x = values(4, 9, 50)
    once = compression.quantize(x, 4, 16).dequantize()
    assert torch.allclose(compression.quantize(once, 4, 16).dequantize(), once, rtol=1e-6)


def test_smaller_groups_and_more_bits_are_nearer():
    x = values(5, 32, 64)
    errors = [(x - compression.quantize(x, 4, size).dequantize()).norm() for size in (None, 32, 8)]
    assert errors == sorted(errors, reverse=True)
    errors = [(x - compression.quantize(x, bits).dequantize()).norm() for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("x", [torch.zeros(2, 3), torch.full((2, 3), -2.5), torch.tensor(3.0)])
def test_constant_tensors(x):
    for symmetric in (True, False):
        restored = compression.quantize(x, 8, symmetric=symmetric).dequantize()
        assert torch.allclose(restored, x, rtol=1e-5)


@pytest.mark.parametrize(
    ("x", "bits", "group_size", "words"),
    [
        (torch.ones(3), 1, None, "1 bits"),
        (torch.ones(3), 9, None, "9 bits"),
        (torch.ones(3), 4, 0, "groups of 0"),
        (torch.ones(0, 3), 4, None, "empty"),
        (torch.tensor([1.0, float("nan")]), 4, None, "not finite"),
        (torch.tensor([1.0, float("inf")]), 4, None, "not finite"),
    ],
)
def test_what_cannot_be_quantized(x, bits, group_size, words):
    with pytest.raises(ValueError, match=words):
        compression.quantize(x, bits, group_size)


def test_codes_scales_and_zero_points_say_what_the_values_are():
    scale, zero_point = torch.tensor([[0.5], [2.0]]), torch.tensor([[1.0], [0.0]])
    codes = torch.tensor([[0, 1, 3], [0, 1, 3]], dtype=torch.uint8)
    made = compression.Quantized(codes, scale, zero_point, 2, torch.Size([2, 3]))
    assert made.dequantize().tolist() == [[-0.5, 0, 1], [0, 2, 6]]
    assert made.error_bound().tolist() == [[0.25] * 3, [1.0] * 3]


def test_fake_quantize_rounds_forward_and_passes_the_gradient():
    w = values(6, 4, 10).requires_grad_()
    rounded = quantization._FakeQuantize(4, 5)(w)
    (gradient,) = torch.autograd.grad((3 * rounded).sum(), w)
    assert torch.equal(gradient, torch.full_like(w, 3))
    assert torch.equal(rounded, compression.quantize(w, 4, 5).dequantize())


def test_training_sees_the_rounded_weight_and_its_gradient_reaches_the_weight():
    layer = nn.Linear(6, 3, bias=False)
    plain = layer.weight.detach().clone()
    compression.add_fake_quantize(layer, 3)
    rounded = compression.quantize(plain, 3).dequantize()
    assert torch.allclose(layer.weight, rounded, atol=1e-7)
    x = torch.randn(5, 6, generator=generator(0))
    layer(x).square().sum().backward()
    wanted = rounded.clone().requires_grad_()
    (x @ wanted.T).square().sum().backward()
    assert torch.allclose(layer.parametrizations.weight.original.grad, wanted.grad, rtol=1e-4)


@pytest.mark.parametrize("build", [small, lambda: ByteLM(16, 1, 2, 8).eval()], ids=["resnet", "byte_lm"])
def test_freezing_keeps_the_answers_and_removes_the_rounding(build):
    model = build()
    x = X if isinstance(model, ResNet) else torch.arange(8)[None]
    names = set(model.state_dict())
    chosen = set(quantization._quantizable(model))
    assert chosen == {name for name, p in model.named_parameters() if p.ndim > 1}
    compression.add_fake_quantize(model, 3)
    with torch.no_grad():
        before = model(x)
        assert compression.merge_fake_quantize(model) is model
        assert torch.allclose(model(x), before, atol=1e-5)
    assert set(model.state_dict()) == names
    for name in chosen:
        for row in model.get_parameter(name).flatten(1):
            assert len(row.detach().abs().div(row.abs().max()).mul(3).round(decimals=3).unique()) <= 4


def test_skipped_weights_are_left_alone():
    model = small()
    head = model.head.weight.detach().clone()
    compression.add_fake_quantize(model, 2, skip=["head.weight"])
    assert torch.equal(model.head.weight, head)
    with pytest.raises(ValueError, match="nothing to quantize"):
        compression.add_fake_quantize(nn.BatchNorm2d(3), 4)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 1001])
def test_packing_is_undone_and_takes_no_more_bytes_than_needed(bits, count):
    codes = torch.randint(2**bits, (count,), generator=generator(bits)).to(torch.uint8)
    packed = compression.pack(codes, bits)
    assert len(packed) == -(-count * bits // 8)
    assert torch.equal(quantization._unpack(packed, bits, count), codes)
    with pytest.raises(ValueError, match="ask for fewer"):
        quantization._unpack(packed, bits, count + 8)


@pytest.mark.parametrize(("bits", "group_size"), [(8, None), (4, None), (4, 16), (3, 10), (2, 7)])
def test_file_holds_the_rounded_network_in_few_bytes(tmp_path, bits, group_size):
    model = small()
    file = tmp_path / "model.safetensors"
    size = quantization.save(model, file, bits, group_size)
    assert size == file.stat().st_size
    again = quantization.load(ResNet((1, 1), (8, 16), classes=4).eval(), file)
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for p in quantization._quantizable(rounded).values():
            p.copy_(compression.quantize(p, bits, group_size, scale_dtype=torch.bfloat16).dequantize())
        assert torch.allclose(again(X), rounded(X), atol=2e-3 * float(rounded(X).abs().max()))
    for name, p in again.named_parameters():
        wanted = rounded.get_parameter(name).detach()
        assert torch.allclose(p, wanted, atol=5e-3 * float(wanted.abs().max()) + 1e-8), name  # rounded scales
    with safe_open(file, "pt") as opened:
        stored = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    for name, p in quantization._quantizable(model).items():
        per_row = p[0].numel() if group_size is None else -(-p[0].numel() // group_size) * group_size
        assert stored[f"{name}.codes"].numel() == -(-len(p) * per_row * bits // 8)


@pytest.mark.parametrize(("bits", "group_size"), [(8, None), (4, 16), (3, 10)])
def test_what_was_trained_as_rounded_is_stored_with_the_same_codes(tmp_path, bits, group_size):
    model = compression.merge_fake_quantize(compression.add_fake_quantize(small(), bits, group_size))
    quantization.save(model, tmp_path / "a.safetensors", bits, group_size)
    again = quantization.load(small(), tmp_path / "a.safetensors")
    for name, p in quantization._quantizable(model).items():
        assert torch.allclose(again.get_parameter(name), p, rtol=2**-8, atol=0), name


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("bits", [3, 8])
def test_error_bound_holds_after_the_file_whatever_the_size_of_the_weights(tmp_path, size, bits):
    layer = nn.Linear(40, 6, bias=False)
    with torch.no_grad():
        layer.weight.copy_(size * values(7, 6, 40) / values(7, 6, 40).abs().max())
    quantization.save(layer, tmp_path / "a.safetensors", bits, 16)
    again = quantization.load(copy.deepcopy(layer), tmp_path / "a.safetensors")
    rounded = compression.quantize(layer.weight, bits, 16, scale_dtype=torch.bfloat16)
    assert torch.allclose(again.weight, rounded.dequantize(), rtol=1e-6)
    assert ((again.weight - layer.weight).abs() <= 1.0001 * rounded.error_bound()).all()


def test_tied_weights_are_both_rounded(tmp_path):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    wanted = compression.quantize(model[0].weight, 3, scale_dtype=torch.bfloat16).dequantize()
    quantization.save(model, tmp_path / "a.safetensors", 3)
    again = quantization.load(model, tmp_path / "a.safetensors")
    assert torch.allclose(again[0].weight, wanted)
    assert again[1].weight is again[0].weight


def test_a_weight_that_is_computed_from_others_is_refused(tmp_path):
    model = compression.add_fake_quantize(small(), 4)
    for again in (
        lambda: compression.add_fake_quantize(model, 4),
        lambda: quantization.save(model, tmp_path / "a", 4),
    ):
        with pytest.raises(ValueError, match="parametrized"):
            again()


def test_values_beyond_float16_are_refused(tmp_path):
    model = small()
    model.blocks[0].norm1.running_var[0] = 1e6
    with pytest.raises(ValueError, match=r"norm1.running_var holds values"):
        quantization.save(model, tmp_path / "a.safetensors", 4)
    assert not (tmp_path / "a.safetensors").exists()


def test_file_of_something_else_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(2)}, file)
    with pytest.raises(ValueError, match="no quantized weights"):
        quantization.load(small(), file)
    quantization.save(small(), file, 4)
    for other in (ResNet((1, 1), (8, 12), classes=4), ResNet((1,), (8,), classes=4), nn.Linear(3, 2)):
        with pytest.raises(ValueError, match="build the model it was made of"):
            quantization.load(other, file)


FACTS = {
    "no JSON": "{",
    "a list": "[4, 16]",
    "no bits": '{"group_size": 16}',
    "a word": '{"bits": "4", "group_size": 16}',
    "too many bits": '{"bits": 64, "group_size": 16}',
    "half a value": '{"bits": 4, "group_size": 0.5}',
    "no group": '{"bits": 4, "group_size": 0}',
    "too deep": "[" * 100_000,
}


@pytest.mark.parametrize("kind", FACTS)
def test_a_header_that_save_did_not_write_is_refused(tmp_path, kind):
    file = tmp_path / "odd.safetensors"
    save_file({"weight.codes": torch.ones(2)}, file, {"quantization": FACTS[kind]})
    with pytest.raises(ValueError, match=r"^odd\.safetensors holds no quantized weights") as caught:
        quantization.load(nn.Linear(3, 2), file)
    assert "\n" not in str(caught.value)


def test_tensors_that_do_not_fit_are_refused(tmp_path):
    file, model = tmp_path / "odd.safetensors", nn.Linear(3, 2)
    quantization.save(model, file, 4)
    stored = load_file(file)
    header = {"quantization": '{"bits": 4, "group_size": null}'}
    for name, value in {
        "weight.codes": torch.zeros(10**6, dtype=torch.uint8),
        "weight.scale": torch.zeros(2),
        "weight.codes ": torch.ones(2),
    }.items():
        save_file(stored | {name: value}, file, header)
        with pytest.raises(ValueError, match=r"^odd.safetensors does not fit .*build the model"):
            quantization.load(model, file)
    save_file(stored | {"weight.codes": stored["weight.codes"].float()}, file, header)
    with pytest.raises(ValueError, match=r"does not fit weight of the model"):
        quantization.load(model, file)
    del stored["weight.scale"]
    save_file(stored, file, header)
    with pytest.raises(ValueError, match=r"does not fit weight of the model"):
        quantization.load(model, file)


def test_files_of_other_kinds_are_refused_by_name(tmp_path):
    for content in (b"", b"half", b"PK\3\4", b"\xff" * 100):
        (tmp_path / "model.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"^model.pt holds no quantized weights"):
            quantization.load(nn.Linear(3, 2), tmp_path / "model.pt")
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(FileNotFoundError, match="no such file: give one"):
            quantization.load(nn.Linear(3, 2), path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask to speak of")
def test_a_failed_save_leaves_the_old_file_and_the_umask_says_who_reads(tmp_path, monkeypatch):
    file, before = tmp_path / "model.safetensors", os.umask(0o027)
    try:
        quantization.save(small(), file, 4)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    whole = file.read_bytes()

    def full_disk(*_, **__):
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(_files, "save_file", full_disk)
    with pytest.raises(OSError, match=r"cannot write .*model.safetensors .*MB are free there"):
        quantization.save(small(), file, 8)
    assert file.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [file]


def test_file_says_how_it_was_made(tmp_path):
    file = tmp_path / "model.safetensors"
    quantization.save(small(), file, 4, 16, skip=["head.weight"])
    with safe_open(file, "pt") as opened:
        facts = json.loads(opened.metadata()["quantization"])
        assert "head.weight" in opened.keys()  # noqa: SIM118
    assert facts == {"bits": 4, "group_size": 16, "skip": ["head.weight"]}
    again = quantization.load(small(), file)
    assert torch.equal(again.head.weight, small().head.weight.half().float())
