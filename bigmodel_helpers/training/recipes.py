"""Training recipes that a chapter has built up, in one call. Introduced in chapter 4."""

import math
from functools import partial
from typing import Any

import torch
from torch import nn

from bigmodel_helpers.data import Augment, Batches, ImageSet, normalize
from bigmodel_helpers.models import ResNet, SpeedNet
from bigmodel_helpers.runtime import autocast_dtype, best_device, keep_freed_memory, seed_everything
from bigmodel_helpers.training._run import Run
from bigmodel_helpers.training.callbacks import Grow
from bigmodel_helpers.training.loop import fit
from bigmodel_helpers.training.losses import cross_entropy
from bigmodel_helpers.training.optim import Muon, triangle

Optimizers = list[torch.optim.Optimizer]


def speednet_optimizers(model: SpeedNet, batch_size: int) -> Optimizers:
    """Return Muon for the kernels and Nesterov SGD for biases and head, with learning rates after Jordan (2024).

    He takes batches of 2,000. Muon's step does not shrink with the gradient, so with smaller batches, whose
    gradients are noisier, its rate is lowered by the square root. His rates for SGD are for the sum of the losses
    of a batch; the loss is a mean here, so they grow with `batch_size`. `torch.optim.SGD` lets weight decay run
    through the momentum, which makes it 1 / (1 - momentum) times as strong: what is given here is so much smaller.
    """
    groups = [
        {"params": _trained(model, 1), "lr": 0.053 * batch_size, "weight_decay": 6e-6},
        {"params": _trained(model, 2), "lr": 0.67 * batch_size, "weight_decay": 4.5e-7},
    ]
    return [_muon(model, batch_size), torch.optim.SGD(groups, momentum=0.85, nesterov=True)]


def resnet_optimizers(model: ResNet, batch_size: int) -> Optimizers:
    """Return Muon for the kernels and Nesterov SGD for norms and head, with learning rates for a mean loss."""
    groups = [{"params": _trained(model, 1)}, {"params": _trained(model, 2), "weight_decay": 5e-4}]
    return [_muon(model, batch_size), torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)]


def _muon(model: nn.Module, batch_size: int) -> Muon:
    return Muon(_trained(model, 4), lr=0.24 * math.sqrt(batch_size / 2000), momentum=0.6)


def _trained(model: nn.Module, dimensions: int) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad and p.ndim == dimensions]


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
        batch_size: images per step; what is left of a pass is left out.
        widths: channels of the three blocks.
        small_until: share of the training, from its start, that is done on images of 24x24 pixels.
        seed: of the first weights, the order and the augmentation.
        device: None for the accelerator of this machine, or its CPU.
        options: passed on to `training.fit` (`evaluate`, `checkpoints`, `callbacks`, ...).
    """
    seed_everything(seed)
    model = SpeedNet(widths, len(train.classes))
    model.set_whitening(normalize(train.images[:5000]))
    recipe = {"schedule": triangle(warmup=0.0), "loss": partial(cross_entropy, label_smoothing=0.2)}
    augment = Augment(flip=False, shift=2)
    optimizers = partial(speednet_optimizers, model, batch_size)
    return _train(
        model, train, optimizers, augment, epochs, batch_size, small_until, seed, device, recipe | options
    )


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
        blocks: residual blocks in each stage.
        widths: channels of each stage.
        small_until: as all others, see `train_speednet`.
    """
    seed_everything(seed)
    model = ResNet(blocks, widths, len(train.classes))
    recipe = {"schedule": triangle(warmup=0.05), "loss": partial(cross_entropy, label_smoothing=0.1)}
    augment = Augment(flip=False, shift=4, cutout=8)
    optimizers = partial(resnet_optimizers, model, batch_size)
    return _train(
        model, train, optimizers, augment, epochs, batch_size, small_until, seed, device, recipe | options
    )


def _train(
    model: nn.Module,
    train: ImageSet,
    optimizers: Any,
    augment: Augment,
    epochs: int,
    batch_size: int,
    small_until: float,
    seed: int,
    device: torch.device | str | None,
    options: dict[str, Any],
) -> Run:
    """Train with mixed precision, pictures that are mirrored in every second pass, and small ones at first."""
    keep_freed_memory()
    device = torch.device(device) if device is not None else best_device()
    model.to(device=device, memory_format=torch.channels_last)
    batches = Batches(
        train,
        batch_size,
        shuffle=True,
        augment=augment,
        alternate_flip=True,
        device=device,
        channels_last=True,
        seed=seed,
        drop_last=True,
    )
    options["callbacks"] = [Grow(24, small_until), *options.get("callbacks", ())]
    steps = epochs * len(batches)
    return fit(model, batches, optimizers(), steps=steps, dtype=autocast_dtype(device), **options)
