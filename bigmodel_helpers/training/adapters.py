"""Low-rank adapters of linear layers and convolutions (Hu et al. 2021, arXiv:2106.09685). Introduced in chapter 6."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bigmodel_helpers.models._parametrized import merge


class LowRank(nn.Module):
    """Adds scale * B @ A to a frozen weight: A is (rank, I * kernel), B is (O, rank) and starts at zero.

    For a linear weight (O, I) or a convolution's (O, I, H, W). Used as a parametrization of that weight, so that the
    layer itself stays PyTorch's.

    Args:
        weight: the weight to adapt.
        rank: number of directions that can change.
        alpha: the update is scaled by alpha / rank.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        outputs, inputs = weight.flatten(1).shape
        if not 1 <= rank <= min(outputs, inputs):
            raise ValueError(
                f"rank {rank} does not fit a weight of {outputs} x {inputs}: choose 1 to {min(outputs, inputs)}"
            )
        self.scale = alpha / rank
        self.a = nn.Parameter(torch.empty(rank, inputs, dtype=weight.dtype, device=weight.device))
        self.b = nn.Parameter(torch.zeros(outputs, rank, dtype=weight.dtype, device=weight.device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.scale * (self.b @ self.a)).view_as(weight)


def add_lora(
    model: nn.Module, rank: int = 4, *, alpha: float | None = None, skip: Iterable[str] = ("head", "fc")
) -> nn.Module:
    """Freeze `model` and put an adapter on each linear layer and convolution; returns the model.

    Where a weight is smaller than `rank` allows, its adapter gets the largest rank that fits. Layers in `skip`
    (names, with all that is in them) get no adapter and are trained whole: the new head, usually.

    Args:
        model: changed in place.
        rank: of each adapter.
        alpha: see `LowRank`; None for `rank`, a scale of 1.
        skip: names of layers.

    Raises:
        ValueError: the model has an adapter already, or no layer to adapt.
    """
    if lora_modules(model):
        raise ValueError("the model has adapters already: merge or remove them first")
    skip = tuple(skip)
    layers = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and not _inside(name, skip)
    ]
    if not layers:
        raise ValueError("the model has no linear layer or convolution outside `skip`: nothing to adapt")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_inside(name, skip))
    for _, layer in layers:
        fits = min(rank, *layer.weight.flatten(1).shape)
        adapter = LowRank(layer.weight, fits, alpha * fits / rank if alpha is not None else fits)
        parametrize.register_parametrization(layer, "weight", adapter)
    return model


def lora_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of `model` that have an adapter, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if parametrize.is_parametrized(layer, "weight")
        and isinstance(layer.parametrizations.weight[0], LowRank)
    }


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what was trained: adapters, the parameters outside them that are not frozen, and all buffers.

    This is the file to keep beside the pretrained weights: ``model.load_state_dict(state, strict=False)`` on the
    same network with adapters of the same rank brings it back.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    trained |= {name for name, _ in model.named_buffers()}
    return {name: value.detach() for name, value in model.state_dict().items() if name in trained}


def merge_lora(model: nn.Module) -> nn.Module:
    """Add each adapter to its weight and remove it; the model computes the same, at its old size and speed."""
    for layer in lora_modules(model).values():
        merge(layer, "weight")
    return model


def _inside(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
