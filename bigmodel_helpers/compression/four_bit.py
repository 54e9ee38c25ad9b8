"""Linear layers whose frozen weight takes 4.5 bits a number; gradients pass through. Introduced in chapter 12."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigmodel_helpers.compression.quantization import quantize
from bigmodel_helpers.models._parametrized import refuse_shared_weight

GROUP = 32


class _Linear(torch.autograd.Function):
    """x @ W.T with W unpacked in both passes, so that no full weight is kept between them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scale)
        return F.linear(x, _unpacked(codes, scale, x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        codes, scale = ctx.saved_tensors
        return gradient @ _unpacked(codes, scale, gradient.dtype), None, None


def _unpacked(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight (O, I) that codes (O * I / 32, 16), two in a byte, and scales (O, I / 32) stand for."""
    low, high = (codes & 15).to(dtype), (codes >> 4).to(dtype)
    values = torch.cat([low, high], 1).sub_(8).mul_(scale.reshape(-1, 1).to(dtype))
    return values.view(len(scale), -1)


class Linear4bit(nn.Module):
    """A linear layer with a frozen weight of 4 bits a number and a bfloat16 scale for each 32: 4.5 bits.

    Args:
        layer: whose weight is rounded as `quantize` does it; its bias is kept as it is, frozen.

    Raises:
        ValueError: the inputs of the layer are no multiple of 32.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = layer.weight.shape
        if self.in_features % GROUP:
            raise ValueError(
                f"a layer of {self.in_features} inputs has no whole groups of {GROUP}: leave it out"
            )
        rounded = quantize(layer.weight, 4, GROUP, scale_dtype=torch.bfloat16)
        low, high = rounded.codes.chunk(2, 1)
        self.register_buffer("codes", low | high << 4)
        self.register_buffer("scale", rounded.scale.bfloat16().view(self.out_features, -1))
        self.bias = (
            None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = _Linear.apply(x, self.codes, self.scale)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def dequantize(self) -> Tensor:
        """Return the weight that is computed with, float32 (O, I)."""
        return _unpacked(self.codes, self.scale, torch.float32)


def to_four_bits(model: nn.Module, *, skip: Iterable[str] = ("lm_head",)) -> nn.Module:
    """Freeze `model` and put a `Linear4bit` in the place of each linear layer; returns the model.

    Layers in `skip` (names, with all that is in them) stay as they are. A tied output layer has to, because it is the
    embedding, too. Round first, then add adapters.

    Raises:
        ValueError: no layer is left to be rounded, or one shares its weight with another, is the model itself, or has
            inputs that are no multiple of 32; names it. Nothing has been changed then.
    """
    if isinstance(skip, str):
        raise TypeError(f"skip is one text: pass a list, such as [{skip!r}]")
    skip = tuple(skip)
    layers = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not any(name == one or name.startswith(f"{one}.") for one in skip)
    ]
    if not layers:
        raise ValueError("the model has no linear layer outside `skip`: nothing to round")
    rounded = {}
    for name, layer in layers:
        refuse_shared_weight(model, name, layer)
        try:
            rounded[name] = Linear4bit(layer)
        except ValueError as error:
            raise ValueError(f"{name or 'the model'}: {error}") from None
    model.requires_grad_(False)
    for name, layer in rounded.items():
        model.set_submodule(name, layer)
    return model
