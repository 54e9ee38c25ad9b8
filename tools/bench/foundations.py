"""What chapters 1 to 3 claim, as ratios: compilation, memory, checkpointing, convolutions."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from bigmodel_helpers import data, evaluation, measure, runtime
from bigmodel_helpers.measure import budgets
from bigmodel_helpers.models import ByteLM, ConvNet, TransformerConfig
from tools.bench.figure import Figure, figure


def fused(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 1: eight operations on a large array, compiled into one loop and one after the other."""
    device = runtime.best_device()
    x = torch.randn(10_000_000, device=device)
    compiled = torch.compile(activation)
    ratio = measure.compare(partial(compiled, x), partial(activation, x), repeats=9, warmup=2, device=device)
    what = "numbers/s, an activation function of eight operations, compiled over eager"
    yield figure("fused", what, "x", list(ratio.values), floor=1.5, goal=2.2)


def activation(x: torch.Tensor) -> torch.Tensor:
    """Return the function of chapter 1's last section."""
    return 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.045 * x**3)))


def training_memory(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 1: the memory of two training steps against the sum of its four parts, worked out on paper."""
    device = runtime.best_device()
    sizes = TransformerConfig(6, 512, 2048, 8, 8, 256, positions=256, bias=True, gated=False)
    tokens = torch.randint(256, (4, 256), device=device)
    kept = budgets.activation_bytes(sizes, tokens.numel(), "fp32")
    derived = budgets.training_memory(budgets.parameters(sizes), kept, precision="fp32").total

    def two_steps() -> None:
        model = ByteLM(sizes.width, sizes.layers, sizes.heads, sizes.positions).to(device)
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
            optimizer.step()

    ratios = [measure.peak_memory(two_steps, device) / derived for _ in range(3)]
    what = "peak memory of training, a transformer of 19 M parameters, measured over the sum on paper"
    yield figure("training_memory", what, "x", ratios, floor=1.5, goal=1.2, less=True)


def checkpointing(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 2: a training step that keeps the input of each block only, against one that keeps everything."""
    device = runtime.best_device()
    blocks = nn.ModuleList(
        nn.Sequential(nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU()) for _ in range(16)
    ).to(device)
    x = torch.randn(2048, 512, device=device, requires_grad=True)

    def step(keep_all: bool) -> None:
        hidden = x
        for block in blocks:
            hidden = block(hidden) if keep_all else checkpoint(block, hidden, use_reentrant=False)
        hidden.square().mean().backward()
        blocks.zero_grad()
        x.grad = None

    plain, saving = partial(step, True), partial(step, False)
    plain()
    ratios = [measure.peak_memory(plain, device) / measure.peak_memory(saving, device) for _ in range(3)]
    what = "peak memory of a training step, 16 blocks, plain over checkpointed"
    yield figure("checkpoint_memory", what, "x", ratios, floor=1.3, goal=1.6)
    ratio = measure.compare(plain, saving, repeats=9, device=device)
    what = "time of a training step, 16 blocks, checkpointed over plain (on paper 1.33)"
    yield figure("checkpoint_time", what, "x", list(ratio.values), floor=1.5, goal=1.35, less=True)


def convolution(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 3: a convolution as a matrix product, and that of PyTorch, against loops over the places."""
    layer, x = nn.Conv2d(16, 32, 3, padding=1), torch.randn(8, 16, 64, 64)
    ways = {"loops": loops, "product": product}
    runs = {name: torch.no_grad()(partial(way, x, layer.weight, layer.bias)) for name, way in ways.items()}
    for name, what, run, floor, goal in (
        ("as_product", "one matrix product", runs["product"], 3, 10),
        ("conv2d", "nn.Conv2d", torch.no_grad()(partial(layer, x)), 20, 60),
    ):
        ratio = measure.compare(run, runs["loops"], repeats=9, device="cpu")
        what = f"convolutions/s, {what} over loops"
        yield figure(f"convolution_{name}", what, "x", list(ratio.values), floor=floor, goal=goal)


def loops(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return a 3 x 3 convolution, padded by one, place by place."""
    x = F.pad(x, (1, 1, 1, 1))
    height, width = x.shape[2] - 2, x.shape[3] - 2
    y = torch.empty(len(x), len(weight), height, width)
    for i in range(height):
        for j in range(width):
            patch = x[:, :, i : i + 3, j : j + 3]
            y[:, :, i, j] = torch.einsum("bcuv,ocuv->bo", patch, weight) + bias
    return y


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return the same as the product of a matrix of patches and a matrix of kernels."""
    patches = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
    images, channels, height, width = patches.shape[:4]
    matrix = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * 9)
    y = matrix @ weight.flatten(1).T + bias
    return y.view(images, height, width, -1).permute(0, 3, 1, 2)


def moved_pixels(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 3: what it costs a convolutional network that the pixels of all digits are moved by one rule."""
    digits, test = data.load_digits()
    rule = torch.randperm(digits.images[0].numel(), generator=torch.Generator().manual_seed(0))

    def moved(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, rule].view_as(images)

    def errors(seed: int, change: object) -> float:
        torch.manual_seed(seed)
        model = ConvNet(channels=1, size=digits.images.shape[-1])
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        images = change(digits.images / 255)
        for _ in range(40 if len(images) < 10_000 else 2):
            for batch in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(images[batch]), digits.labels[batch]).backward()
                optimizer.step()
        with torch.no_grad():
            return 1 - evaluation.accuracy(model.eval()(change(test.images / 255)), test.labels).value

    ratios = [errors(seed, moved) / errors(seed, lambda images: images) for seed in range(3)]
    what = "errors on digits, convolutional network, pixels moved over pixels in place"
    yield figure("moved_pixels", what, "x", ratios, floor=1.3, goal=3)
