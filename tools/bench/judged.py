"""What chapters 8 and 9 claim, as ratios: smaller networks, paired comparisons, leaks."""

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from bigmodel_helpers import compression, data, evaluation, measure, runtime, training
from bigmodel_helpers.compression import quantization
from bigmodel_helpers.models import pretrained
from bigmodel_helpers.training import optim
from tools.bench.figure import Figure, are_real, figure


def smaller(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 8: four bits a weight, trained with the rounding in place: bytes saved, and accuracy lost."""
    if not are_real("smaller", train):
        return
    device = runtime.best_device()
    original = pretrained.load("cifar10_resnet").model.to(device, memory_format=torch.channels_last)
    student = trained_as_rounded(copy.deepcopy(original), train.subset(4000))
    with tempfile.TemporaryDirectory() as folder:
        packed, whole = Path(folder, "packed"), Path(folder, "whole")
        size = quantization.save(student, packed, 4, 32)
        best = quantization.load(copy.deepcopy(original), packed)
        torch.save(original.state_dict(), whole)
        ratio = whole.stat().st_size / size
    yield figure("bytes", "bytes, 32 bits over 4 bits in groups of 32", "x", [ratio], floor=4, goal=6.5)
    test = data.Batches(data.load_cifar10()[1].subset(5000), 250, device=device, channels_last=True)
    lost = evaluation.mean_difference(right(original, test), right(best, test))
    low, middle, high = (100 * value for value in (lost.low, lost.value, lost.high))
    what = "test accuracy lost with 4 bits in groups of 32, trained so"
    yield Figure("bits_lost", what, "points", middle, low, high, 1, 1, 0.5, True)


def trained_as_rounded(model: nn.Module, images: data.ImageSet) -> nn.Module:
    """Train `model` as chapter 8 does, each weight rounded to 4 bits on its way into the layer."""
    device, augment = runtime.best_device(), data.Augment(flip=True, shift=2)
    compression.add_fake_quantize(model, 4, 32)
    batches = data.Batches(images, 125, shuffle=True, augment=augment, device=device, channels_last=True)
    training.fit(
        model,
        batches,
        torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9, nesterov=True),
        steps=len(batches),
        schedule=optim.triangle(warmup=0.1),
        dtype=runtime.autocast_dtype(device),
        progress=False,
    )
    return compression.merge_fake_quantize(model)


def right(model: nn.Module, batches: data.Batches) -> torch.Tensor:
    """Return for each image whether the model names it right."""
    logits, labels = evaluation.predict(model, batches, dtype=runtime.autocast_dtype(batches.images.device))
    return logits.argmax(dim=1) == labels


def half_channels(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 8: a network whose blocks lost half of their channels against the whole one, 32 bits, folded."""
    device = runtime.best_device()
    runtime.keep_freed_memory()
    whole = pretrained.load("cifar10_resnet").model.to(device)
    x = torch.randn(32, 3, 32, 32, device=device).to(memory_format=torch.channels_last)

    def runner(model: nn.Module) -> partial:
        folded = compression.fold_batch_norm(model).to(memory_format=torch.channels_last)
        return torch.inference_mode()(partial(folded, x))

    half = compression.remove_channels(whole, 0.5)
    ratio = measure.compare(runner(half), runner(whole), repeats=9, warmup=2, device=device)
    what = "images/s, half of the channels inside the blocks over all"
    yield figure("half_channels", what, "x", list(ratio.values), floor=1.2, goal=1.7)


def pairing(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 9: how much longer the interval of a difference is when nobody notices that the images are the same."""
    if not are_real("pairing", train):
        return
    device = runtime.best_device()
    dtype = runtime.autocast_dtype(device)
    model = pretrained.load("cifar10_resnet").model.to(device, memory_format=torch.channels_last)
    test, ratios = data.load_cifar10()[1], []
    for seed in range(3):
        some = test.subset(1500, seed=seed)
        logits = []
        for pictures in (some.images, some.images.flip(3).contiguous()):
            asked = data.Batches(replace(some, images=pictures), 250, device=device, channels_last=True)
            logits.append(evaluation.predict(model, asked, dtype=dtype)[0])
        a, b = ((each.argmax(dim=1) == some.labels).double() for each in (logits[0], sum(logits)))
        paired = evaluation.mean_difference(b, a)
        unrelated = 2 * 1.96 * float((a.var() + b.var()) / len(a)) ** 0.5
        ratios.append(unrelated / (paired.high - paired.low))
    what = "length of the interval of a difference, as if unrelated over paired"
    yield figure("pairing", what, "x", ratios, floor=1.5, goal=2.5)


def twins(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 9: three views of each photo dealt at random; errors on new photos over errors on the leaky test."""
    if not are_real("twins", train):
        return
    ratios = []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(train), generator=generator)[:1600]
        x, y = frames(train.images[order], generator), train.labels[order].repeat_interleave(3)
        mine = torch.arange(len(x)) < 1200
        judge = torch.rand(len(x), generator=generator) < 0.25
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(100):
            optimizer.zero_grad()
            F.cross_entropy(net(x[mine & ~judge]), y[mine & ~judge]).backward()
            optimizer.step()
        wrong = net(x).argmax(dim=1) != y
        ratios.append(float(wrong[~mine].float().mean() / wrong[mine & judge].float().mean()))
    what = "errors on new photos over errors on a test that holds twins of the training"
    yield figure("twins", what, "x", ratios, floor=1.5, goal=2)


def frames(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return three views of each image, one after the other, moved and with noise, as 8 x 8 pixels."""
    views = torch.stack([data.shift(images, 2, generator).float() for _ in range(3)], dim=1).flatten(0, 1)
    noisy = views + 8 * torch.randn(views.shape, generator=generator)
    return F.avg_pool2d(noisy.round().clamp(0, 255) / 255 - 0.5, 4).flatten(1)
