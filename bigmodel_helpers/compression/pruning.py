"""Fewer weights: zeros where they matter least, or whole channels removed. Introduced in chapter 8."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bigmodel_helpers.models import ResidualBlock
from bigmodel_helpers.models._parametrized import merge


def magnitude_masks(model: nn.Module, sparsity: float) -> dict[str, Tensor]:
    """Return for each linear layer and convolution which weights to keep: all but the smallest in size.

    One threshold for the whole model: layers with larger weights keep more of them. (Han et al. 2015,
    arXiv:1506.02626, took one for each layer.)

    Args:
        model: layers in it are found by name; biases and norms are kept whole.
        sparsity: share of the weights to drop, 0 to less than 1.

    Returns:
        By name of the layer, bool in the shape of its weight.

    Raises:
        ValueError: `sparsity` is out of range, or the model has no such layer.

    >>> int(compression.magnitude_masks(nn.Sequential(nn.Linear(10, 10)), sparsity=0.9)["0"].sum())
    10
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)}
    if not 0 <= sparsity < 1 or not layers:
        raise ValueError(
            f"sparsity {sparsity} of {len(layers)} layers: choose 0 to less than 1, and a model with linear layers "
            "or convolutions"
        )
    sizes = torch.cat([layer.weight.detach().abs().flatten() for layer in layers.values()])
    dropped = torch.zeros(len(sizes), dtype=torch.bool, device=sizes.device)
    dropped[sizes.argsort(stable=True)[: round(sparsity * len(sizes))]] = True
    parts = (~dropped).split([layer.weight.numel() for layer in layers.values()])
    return {
        name: part.view_as(layer.weight) for (name, layer), part in zip(layers.items(), parts, strict=True)
    }


class _Mask(nn.Module):
    """A parametrization that multiplies a weight with a mask: what is dropped stays 0 and gets no gradient.

    Args:
        mask: bool, in the shape of the weight.
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def add_masks(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """Put the masks of `magnitude_masks` on the layers, so that training keeps the zeros; returns the model."""
    for name, mask in masks.items():
        parametrize.register_parametrization(model.get_submodule(name), "weight", _Mask(mask))
    return model


def merge_masks(model: nn.Module) -> nn.Module:
    """Write the zeros into the weights and remove the masks; returns the model."""
    for layer in model.modules():
        if parametrize.is_parametrized(layer, "weight") and isinstance(
            layer.parametrizations.weight[-1], _Mask
        ):
            merge(layer, "weight")
    return model


def channel_importance(block: ResidualBlock) -> Tensor:
    """Return (C,), how much each inner channel of a residual block can matter.

    The size of the scale that the first batch norm gives the channel, times the norm of the weights with which the
    second convolution reads it.
    """
    read = block.conv2.weight.detach().flatten(2).norm(dim=(0, 2))
    return block.norm1.weight.detach().abs() * read


def remove_channels(model: nn.Module, share: float) -> nn.Module:
    """Return a copy of `model` whose residual blocks have fewer inner channels: smaller convolutions, not zeros.

    The channels between the two convolutions of a block are seen by nobody else, so they can go without changing the
    shape of any other layer. The least important go first (`channel_importance`).

    Args:
        model: holds `ResidualBlock` modules.
        share: of the inner channels of each block to remove, 0 to less than 1; at least one is kept.

    Raises:
        ValueError: `share` is out of range, or the model has no residual block.
    """
    pruned = copy.deepcopy(model)
    blocks = [module for module in pruned.modules() if isinstance(module, ResidualBlock)]
    if not 0 <= share < 1 or not blocks:
        raise ValueError(
            f"share {share} of {len(blocks)} residual blocks: choose 0 to less than 1, and a model with such blocks"
        )
    for block in blocks:
        channels = block.conv1.out_channels
        kept = channel_importance(block).topk(max(1, round((1 - share) * channels))).indices.sort().values
        block.conv1 = _smaller(block.conv1, block.conv1.weight[kept])
        block.conv2 = _smaller(block.conv2, block.conv2.weight[:, kept])
        norm = nn.BatchNorm2d(len(kept), block.norm1.eps, block.norm1.momentum).to(block.norm1.weight)
        norm.load_state_dict(
            {name: value[kept] if value.ndim else value for name, value in block.norm1.state_dict().items()}
        )
        block.norm1 = norm.train(block.norm1.training)
    return pruned


def _smaller(conv: nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    """Return a convolution like `conv` with `weight`, which may have other numbers of channels."""
    outputs, inputs = weight.shape[:2]
    new = nn.Conv2d(inputs, outputs, conv.kernel_size, conv.stride, conv.padding, bias=False).to(weight)
    with torch.no_grad():
        new.weight.copy_(weight)
    return new.train(conv.training)
