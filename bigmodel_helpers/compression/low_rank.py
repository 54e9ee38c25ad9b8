"""A weight as the product of two smaller ones, by its singular values. Introduced in chapter 8."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return B (O, rank) and A (rank, I) whose product is nearest to `matrix` (O, I) of all of that rank.

    Nearest in the sum of squared differences (Eckart and Young 1936). Both factors get the roots of the singular
    values.

    Raises:
        ValueError: the rank is not between 1 and the smaller side.
    """
    if not 1 <= rank <= min(matrix.shape):
        sides = " x ".join(map(str, matrix.shape))
        raise ValueError(f"rank {rank} does not fit a weight of {sides}: choose 1 to {min(matrix.shape)}")
    u, s, v = torch.linalg.svd(matrix.detach().float(), full_matrices=False)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).to(matrix.dtype), (root[:, None] * v[:rank]).to(matrix.dtype)


def _rank_for(weight: Tensor, share: float) -> int:
    """Return the largest rank whose two factors hold at most `share` of the numbers of `weight`, at least 1."""
    outputs, inputs = weight.flatten(1).shape
    return max(1, min(int(share * outputs * inputs / (outputs + inputs)), outputs, inputs))


def factorize(layer: nn.Linear | nn.Conv2d, rank: int) -> nn.Sequential:
    """Return two layers that do about what `layer` does: `rank` channels between them.

    A linear layer becomes two linear layers. A k x k convolution becomes one with `rank` filters, followed by a 1x1
    convolution that mixes them. The second layer has the bias.

    Raises:
        ValueError: the rank does not fit the weight, see `truncated_svd`, or the convolution has groups.

    >>> [layer.weight.shape for layer in compression.factorize(nn.Linear(8, 6), 2)]
    [torch.Size([2, 8]), torch.Size([6, 2])]
    """
    b, a = truncated_svd(layer.weight.flatten(1), rank)
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        first = nn.Linear(layer.in_features, rank, bias=False)
        second = nn.Linear(rank, layer.out_features, bias=bias)
    elif layer.groups > 1:
        raise ValueError(f"a convolution with {layer.groups} groups has no single matrix: leave it as it is")
    else:
        first = nn.Conv2d(
            layer.in_channels,
            rank,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            bias=False,
            padding_mode=layer.padding_mode,
        )
        second = nn.Conv2d(rank, layer.out_channels, 1, bias=bias)
    pair = nn.Sequential(first, second).to(layer.weight).train(layer.training)
    with torch.no_grad():
        first.weight.copy_(a.view_as(first.weight))
        second.weight.copy_(b.view_as(second.weight))
        if bias:
            second.bias.copy_(layer.bias)
    return pair


def factorize_layers(model: nn.Module, share: float, *, skip: Iterable[str] = ()) -> nn.Module:
    """Factorize each linear layer and convolution of `model` to about `share` of its numbers; returns the model.

    A layer of which no rank is small enough to save anything is left alone, as are those in `skip`, convolutions
    with groups, and attention's own projections, which PyTorch reads as bare weights.

    Raises:
        ValueError: `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}: choose how much to keep, between 0 and 1")
    inside_attention = {
        f"{name}.out_proj"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.MultiheadAttention)
    }
    left = set(skip) | inside_attention
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, nn.Linear | nn.Conv2d) or name in left or getattr(layer, "groups", 1) > 1:
            continue
        rank, (outputs, inputs) = _rank_for(layer.weight, share), layer.weight.flatten(1).shape
        if rank * (outputs + inputs) <= share * outputs * inputs:
            model.set_submodule(name, factorize(layer, rank))
    return model
