"""Training recipes that a chapter has built up, in one call. Introduced in chapter 4."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bigmodel_helpers.data import Augment, Batches, ImageSet, normalize
from bigmodel_helpers.models.resnet import ResNet
from bigmodel_helpers.models.speednet import SpeedNet
from bigmodel_helpers.optim import Muon, triangle
from bigmodel_helpers.runtime import autocast_dtype, best_device, keep_freed_memory, seed_everything
from bigmodel_helpers.training import Run, fit


class _MuonAndSGD(torch.optim.Optimizer):
    """Two optimizers that `fit` takes for one. Temporary: until `fit` takes a list of them."""

    def __init__(self, muon: Muon, sgd: torch.optim.SGD) -> None:
        self.parts, self.split = (muon, sgd), len(muon.param_groups)
        super().__init__([*muon.param_groups, *sgd.param_groups], {})

    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        """Step both; a closure is not supported."""
        groups = self.param_groups[: self.split], self.param_groups[self.split :]
        for part, part_groups in zip(self.parts, groups, strict=True):
            part.param_groups, part.state = part_groups, self.state
            part.step()


def speednet_optimizer(model: SpeedNet, batch_size: int) -> _MuonAndSGD:
    """Return Muon for the kernels and Nesterov SGD for biases and head, with learning rates after Jordan (2024).

    He takes batches of 2,000. Muon's step does not shrink with the gradient, so with smaller batches, whose
    gradients are noisier, its rate is lowered by the square root. His rates for SGD are for the sum of the losses
    of a batch; the loss is a mean here, so they grow with `batch_size`.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    kernel_rate = 0.24 * math.sqrt(batch_size / 2000)
    decay = 1 - 0.85  # SGD adds the decay to the gradient, and momentum sums it up
    muon = Muon([p for p in trained if p.ndim == 4], lr=kernel_rate, momentum=0.6)
    sgd = torch.optim.SGD(
        [
            {
                "params": [p for p in trained if p.ndim == 1],
                "lr": 0.053 * batch_size,
                "weight_decay": 4e-5 * decay,
            },
            {
                "params": [p for p in trained if p.ndim == 2],
                "lr": 0.67 * batch_size,
                "weight_decay": 3e-6 * decay,
            },
        ],
        momentum=0.85,
        nesterov=True,
    )
    return _MuonAndSGD(muon, sgd)


def grow(size: int, until: float) -> Callable[[Tensor, float], Tensor]:
    """Return a `prepare` for `fit`: images shrunk to `size` pixels a side up to progress `until`, then whole."""

    def prepare(images: Tensor, progress: float) -> Tensor:
        if progress >= until:
            return images
        return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)

    return prepare


def train_speednet(
    train: ImageSet,
    *,
    epochs: int,
    batch_size: int = 500,
    widths: tuple[int, int, int] = (64, 256, 256),
    small_until: float = 0.4,
    seed: int = 0,
    device: torch.device | str | None = None,
    **options: Any,
) -> Run:
    """Train a `SpeedNet` on `train` and return the run.

    Args:
        train: uint8 images (N, 3, 32, 32).
        epochs: passes over the images.
        small_until: share of the training, from its start, that is done on images of 24x24 pixels.
        seed: of the first weights, the order and the augmentation.
        device: None for the accelerator of this machine, or its CPU.
        options: passed on to `training.fit` (`evaluate`, `checkpoints`, `callbacks`, ...).
    """
    device = torch.device(device) if device is not None else best_device()
    keep_freed_memory()
    seed_everything(seed)
    model = SpeedNet(widths, len(train.classes))
    model.set_whitening(normalize(train.images[:5000]))
    model.to(device=device, memory_format=torch.channels_last)
    batches = Batches(
        train,
        batch_size,
        shuffle=True,
        augment=Augment(flip=False, shift=2),
        alternate_flip=True,
        device=device,
        channels_last=True,
        seed=seed,
        drop_last=True,
    )
    return fit(
        model,
        batches,
        speednet_optimizer(model, batch_size),
        epochs=epochs,
        schedule=triangle(warmup=0.0),
        label_smoothing=0.2,
        dtype=autocast_dtype(device),
        prepare=grow(24, small_until),
        **options,
    )


def resnet_optimizer(model: ResNet, batch_size: int) -> _MuonAndSGD:
    """Return Muon for the kernels and Nesterov SGD for norms and head, with learning rates for a mean loss."""
    trained = [p for p in model.parameters() if p.requires_grad]
    muon = Muon([p for p in trained if p.ndim == 4], lr=0.24 * math.sqrt(batch_size / 2000), momentum=0.6)
    sgd = torch.optim.SGD(
        [
            {"params": [p for p in trained if p.ndim == 1]},
            {"params": [p for p in trained if p.ndim == 2], "weight_decay": 5e-3 * (1 - 0.9)},
        ],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
    )
    return _MuonAndSGD(muon, sgd)


def train_resnet(
    train: ImageSet,
    *,
    epochs: int,
    blocks: tuple[int, ...] = (2, 2, 2),
    widths: tuple[int, ...] = (48, 96, 192),
    batch_size: int = 500,
    small_until: float = 0.5,
    seed: int = 0,
    device: torch.device | str | None = None,
    **options: Any,
) -> Run:
    """Train a CIFAR `ResNet` on `train` and return the run. The weights that chapter 5 uses were made so.

    Args:
        train: uint8 images (N, 3, 32, 32).
        epochs: passes over the images.
        blocks: residual blocks in each stage.
        widths: channels of each stage.
        small_until: share of the training, from its start, that is done on images of 24x24 pixels.
        seed: of the first weights, the order and the augmentation.
        device: None for the accelerator of this machine, or its CPU.
        options: passed on to `training.fit` (`evaluate`, `checkpoints`, `callbacks`, ...).
    """
    device = torch.device(device) if device is not None else best_device()
    keep_freed_memory()
    seed_everything(seed)
    model = ResNet(blocks, widths, len(train.classes))
    model.to(device=device, memory_format=torch.channels_last)
    batches = Batches(
        train,
        batch_size,
        shuffle=True,
        augment=Augment(flip=False, shift=4, cutout=8),
        alternate_flip=True,
        device=device,
        channels_last=True,
        seed=seed,
        drop_last=True,
    )
    return fit(
        model,
        batches,
        resnet_optimizer(model, batch_size),
        epochs=epochs,
        schedule=triangle(warmup=0.05),
        label_smoothing=0.1,
        dtype=autocast_dtype(device),
        prepare=grow(24, small_until),
        **options,
    )
