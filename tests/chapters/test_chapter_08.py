"""Chapter 8: its hand-written code against the package's, in settings that it does not show."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from chapter_code import chapter_namespace
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.optim.swa_utils import update_bn

from bigmodel_helpers import compression, evaluation, measure, models, training

STEM = "08_optimization"
CELLS = [
    "damage",
    "damage-more",
    "difference-by-hand",
    "file-size",
    "affine-by-hand",
    "group-by-hand",
    "ste-by-hand",
    "qat-by-hand",
    "masks-by-hand",
    "heal-by-hand",
    "narrow-by-hand",
    "distill-by-hand",
    "front-find",
    "ex-08-bits-solution",
    "ex-08-bitmap-solution",
    "ex-08-energy-solution",
    "ex-08-soft-solution",
]
CHECKS = {f"check_{name}": lambda: None for name in ("bits", "bitmap", "energy", "soft")}
NAMES = {
    "torch": torch,
    "nn": nn,
    "F": F,
    "math": math,
    "copy": copy,
    "prune": prune,
    "parametrize": parametrize,
    "update_bn": update_bn,
    "load_file": load_file,
    "save_file": save_file,
    "compression": compression,
    "evaluation": evaluation,
    "models": models,
    "training": training,
    "real": False,
    "scale": 0.25,
    "add": lambda *_: None,
    "gap": lambda *_: SimpleNamespace(value=0.0),
}


@pytest.fixture(scope="module")
def chapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chapter")
    return chapter_namespace(STEM, CELLS, **NAMES, **CHECKS, original=network(), folder=folder)


def network() -> models.ResNet:
    torch.manual_seed(0)
    model = models.ResNet((1, 2), (8, 16), classes=5).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
    return model


def values(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X = values(1, 3, 3, 16, 16)


@torch.no_grad()
def damaged(damage) -> torch.Tensor:
    model = network()
    damage(model)
    return model(X)


@torch.no_grad()
def test_the_damages_of_the_puzzle_are_what_the_package_does(chapter):
    wanted = network()
    for name, mask in compression.magnitude_masks(wanted, 0.5).items():
        wanted.get_submodule(name).weight.mul_(mask)
    assert torch.allclose(damaged(chapter["half_zero"]), wanted(X), atol=0.05)
    wanted = network()
    for w in chapter["matrices"](wanted):
        w.copy_(compression.quantize(w, 4).dequantize())
    assert torch.allclose(damaged(chapter["fifteen_values"]), wanted(X), atol=1e-5)
    wanted = compression.remove_channels(network(), 0.25)
    assert torch.allclose(damaged(chapter["fewer_channels"]), wanted(X), atol=1e-5)
    wanted = compression.factorize_layers(network(), 0.7, skip=["head", "stem.0"])
    assert torch.allclose(damaged(chapter["thin"]), wanted(X), atol=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_affine_rounding(chapter, bits):
    for seed in range(5):
        x = values(seed, 40) * 3 + seed
        codes, scale, zero_point = chapter["affine"](x, bits)
        ours = compression.quantize(x, bits, symmetric=False)
        assert torch.equal(codes, ours.codes[0].float())
        assert math.isclose(scale, float(ours.scale), rel_tol=1e-6)
        assert zero_point == int(ours.zero_point)


@pytest.mark.parametrize(("bits", "group"), [(2, 5), (4, 64), (8, 1000)])
def test_rounding_in_groups(chapter, bits, group):
    w = values(2, 6, 4, 3, 3)
    wanted = compression.quantize(w, bits, group).dequantize()
    assert torch.allclose(chapter["rounded"](w, bits, group), wanted, atol=1e-6)


def test_difference(chapter):
    before, after = values(3, 500) < 1, values(4, 500) < 0.9
    mean, low, high = chapter["difference"](after, before)
    ours = evaluation.mean_difference(after, before)
    assert math.isclose(float(mean), ours.value)
    assert math.isclose(float(low), ours.low, abs_tol=1e-4)
    assert math.isclose(float(high), ours.high, abs_tol=1e-4)


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
def test_masks(chapter, sparsity):
    model = network()
    ours = compression.magnitude_masks(model, sparsity)
    by_hand = chapter["masks"](chapter["matrices"](model), sparsity)
    assert all(map(torch.equal, by_hand, ours.values()))


def test_narrower_blocks(chapter):
    model = network()
    ours = compression.remove_channels(model, 0.5)
    for old, new in zip(model.blocks, ours.blocks, strict=True):
        kept = compression.channel_importance(old).topk(len(new.norm1.weight)).indices.sort().values
        x = values(5, 2, old.conv1.in_channels, 8, 8)
        assert torch.equal(chapter["narrower"](old, kept)(x), new(x))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 5.0])
def test_distillation(chapter, temperature):
    z, t = values(6, 7, 10), values(7, 7, 10)
    ours = training.distillation_loss(z, t, temperature) / len(z)
    assert torch.isclose(chapter["distill"](z, t, temperature), ours, rtol=1e-4)


def test_front_holds_what_nothing_beats(chapter):
    pairs = [(8, 0.9), (4, 0.9), (4, 0.8), (2, 0.7), (1, 0.75), (16, 0.95)]
    entries = [SimpleNamespace(bytes=size, score=score) for size, score in pairs]
    front = chapter["pareto_front"](entries)
    assert [(e.bytes, e.score) for e in front] == [(1, 0.75), (4, 0.9), (16, 0.95)]


def test_statistics_measured_anew(chapter):
    norm = nn.BatchNorm2d(3)
    x = 4 * values(8, 20, 3, 5, 5) - 2
    chapter["measured_anew"](norm, x)
    assert torch.allclose(norm.eval()(x).mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(norm(x).std((0, 2, 3)), torch.ones(3), atol=1e-3)


def test_a_model_comes_back_from_its_file_and_its_size_is_that_of_the_numbers(chapter):
    model = network()
    numbers = sum(v.numel() for v in model.state_dict().values() if v.is_floating_point())
    same, size = chapter["through_file"](model, torch.float32)
    with torch.no_grad():
        assert torch.equal(same(X), model(X))
    rounded, half_size = chapter["through_file"](model, torch.float16)
    assert torch.equal(rounded.head.weight, model.head.weight.half().float())
    assert size - half_size == pytest.approx(2 * numbers, rel=0.02)
    assert measure.parameters(model) < numbers < 1.1 * measure.parameters(model)


def test_exercises(chapter):
    x = values(9, 50)
    assert chapter["bits_for"](x, float(x.abs().max()) / 2) == 2
    assert chapter["bitmap_bytes"](torch.eye(4)) == 2 + 8
    low = values(10, 20, 3) @ values(11, 3, 30)
    assert chapter["rank_for_error"](low, 1e-3) == 3
    assert chapter["rank_for_error"](low, 0.99) == 1
    assert float(chapter["matching"](x[None] + 7, x[None])) == pytest.approx(0, abs=1e-9)
