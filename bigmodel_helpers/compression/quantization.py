"""Weights as small whole numbers: rounding, training with rounding, packed files. Introduced in chapter 8."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bigmodel_helpers.data._files import save_tensors
from bigmodel_helpers.models._parametrized import merge

GroupSize = int | None


@dataclass(frozen=True)
class Quantized:
    """A tensor as codes, whole numbers of few bits: value = scale * (code - zero_point), one pair a group.

    Attributes:
        codes: uint8 (G, K): G groups of K values, 0 to 2**bits - 1. Where K does not divide a row, padded.
        scale: float32 (G, 1), the step from one code to the next.
        zero_point: float32 (G, 1), the code of the value 0, a whole number.
        bits: of a code.
        shape: of the tensor.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: int
    shape: torch.Size

    def dequantize(self) -> Tensor:
        """Return the values that the codes stand for: float32, in the shape of the tensor."""
        values = self.scale * (self.codes.float() - self.zero_point)
        rows, columns = _matrix_shape(self.shape)
        return values.view(rows, -1)[:, :columns].reshape(self.shape)

    def error_bound(self) -> Tensor:
        """Return half a step, the largest rounding error there can be, for each value: in the shape of the tensor."""
        rows, columns = _matrix_shape(self.shape)
        steps = self.scale.expand(self.codes.shape).reshape(rows, -1)
        return steps[:, :columns].reshape(self.shape) / 2


def quantize(
    x: Tensor,
    bits: int,
    group_size: GroupSize = None,
    *,
    symmetric: bool = True,
    scale_dtype: torch.dtype = torch.float32,
) -> Quantized:
    """Round `x` to codes, with one scale for each row or for each group of a row.

    A row is what belongs to one output of a layer: of a linear weight (O, I) or a convolution's (O, C, H, W), the
    numbers of one o. ``x[None]`` puts the whole tensor on one scale.

    Args:
        x: float, with one dimension or more.
        bits: of a code, 2 to 8.
        group_size: values that share a scale; None for whole rows. A last group that is too short is filled with 0.
        symmetric: codes lie evenly around 0, whose zero point is 2**(bits - 1). Otherwise the range from the smallest
            to the largest value, 0 included, is used fully (affine quantization).
        scale_dtype: the scales are rounded to this format before they are used.

    Raises:
        ValueError: `bits` or `group_size` is out of range, or `x` is empty or not finite.

    >>> compression.quantize(torch.tensor([-7.0, 0.2, 7.0]), bits=4).dequantize()
    tensor([-7.,  0.,  7.])
    """
    if not 2 <= bits <= 8 or (group_size is not None and group_size < 1):
        raise ValueError(
            f"{bits} bits in groups of {group_size}: choose 2 to 8 bits, and groups of 1 or more"
        )
    if x.numel() == 0 or not x.isfinite().all():
        raise ValueError(f"a tensor of shape {tuple(x.shape)} is empty or not finite: it cannot be quantized")
    return _quantize(x, bits, group_size, symmetric, scale_dtype)


def _quantize(
    x: Tensor,
    bits: int,
    group_size: GroupSize,
    symmetric: bool = True,
    scale_dtype: torch.dtype = torch.float32,
) -> Quantized:
    groups = _in_groups(x.detach().float(), group_size)
    if symmetric:
        top = 2 ** (bits - 1) - 1
        scale = groups.abs().amax(1, keepdim=True) / top
        zero_point = torch.full_like(scale, top + 1)
        lowest, highest = 1, 2 * top + 1
    else:
        low, high = groups.amin(1, keepdim=True).clamp(max=0), groups.amax(1, keepdim=True).clamp(min=0)
        lowest, highest = 0, 2**bits - 1
        scale = (high - low) / highest
    scale = torch.where(scale > 0, scale, 1.0).to(scale_dtype).float()
    if not symmetric:
        zero_point = (-low / scale).round()
    codes = ((groups / scale).round() + zero_point).clamp(lowest, highest)
    return Quantized(codes.to(torch.uint8), scale, zero_point, bits, x.shape)


def _matrix_shape(shape: torch.Size) -> tuple[int, int]:
    rows = shape[0] if len(shape) > 1 else 1
    return rows, shape.numel() // rows


def _in_groups(x: Tensor, group_size: GroupSize) -> Tensor:
    """Return `x` as (groups, values of a group), rows filled up with zeros."""
    matrix = x.reshape(_matrix_shape(x.shape))
    size = group_size or matrix.shape[1]
    return F.pad(matrix, (0, -matrix.shape[1] % size)).view(-1, size)


class _FakeQuantize(nn.Module):
    """A parametrization: the layer computes with the rounded weight, the gradient passes the rounding unchanged.

    This is the straight-through estimator (Bengio et al. 2013, arXiv:1308.3432), the core of quantization-aware
    training (Jacob et al. 2018, arXiv:1712.05877). Symmetric, see `quantize`.
    """

    def __init__(self, bits: int, group_size: GroupSize = None) -> None:
        super().__init__()
        self.bits, self.group_size = bits, group_size

    def forward(self, weight: Tensor) -> Tensor:
        rounded = _quantize(weight, self.bits, self.group_size).dequantize().to(weight.dtype)
        return rounded + (weight - weight.detach())


def _quantizable(model: nn.Module, skip: Iterable[str] = ()) -> dict[str, Tensor]:
    """Return the weights with two dimensions or more, by name, but for those in `skip`.

    These are the weights of linear layers and convolutions, embeddings, and attention's projections. Biases and norms
    are small; they stay as they are.

    Raises:
        ValueError: there is none, or a weight is computed from others (a mask, an adapter, rounding).
    """
    left = set(skip)
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise ValueError("a weight of the model is parametrized: merge masks, adapters, rounding first")
    found = {name: p for name, p in model.named_parameters() if p.ndim > 1 and name not in left}
    if not found:
        raise ValueError("the model has no weight of two dimensions outside `skip`: nothing to quantize")
    return found


def add_fake_quantize(
    model: nn.Module, bits: int, group_size: GroupSize = None, *, skip: Iterable[str] = ()
) -> nn.Module:
    """Let the model compute with rounded weights (those of two dimensions or more), for training; returns the model.

    Raises:
        ValueError: there is nothing to quantize.
    """
    for name in _quantizable(model, skip):
        layer, _, kind = name.rpartition(".")
        parametrize.register_parametrization(
            model.get_submodule(layer), kind, _FakeQuantize(bits, group_size)
        )
    return model


def merge_fake_quantize(model: nn.Module) -> nn.Module:
    """Replace each weight with its rounded value and remove the parametrization; returns the model."""
    for layer in list(model.modules()):
        for kind in list(getattr(layer, "parametrizations", ())):
            if isinstance(layer.parametrizations[kind][-1], _FakeQuantize):
                merge(layer, kind)
    return model


def pack(codes: Tensor, bits: int) -> Tensor:
    """Return codes (any shape, each below 2**bits) as one string of bits: uint8 (M,), the first code lowest."""
    places = torch.arange(8, dtype=torch.uint8, device=codes.device)
    digits = (codes.reshape(-1, 1).to(torch.uint8) >> places[:bits]) & 1
    digits = F.pad(digits.flatten(), (0, -digits.numel() % 8)).view(-1, 8)
    return (digits << places).sum(1, dtype=torch.uint8)


def _unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the first `count` codes of what `pack` made: uint8 (count,).

    Raises:
        ValueError: fewer codes were packed.
    """
    if 8 * len(packed) < bits * count:
        raise ValueError(
            f"{len(packed)} bytes hold {8 * len(packed) // bits} codes, not {count}: ask for fewer"
        )
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    digits = ((packed[:, None] >> places) & 1).flatten()[: bits * count]
    return (digits.view(count, bits) << places[:bits]).sum(1, dtype=torch.uint8)


def save(
    model: nn.Module, file: str | Path, bits: int, group_size: GroupSize = None, *, skip: Iterable[str] = ()
) -> int:
    """Write `model` with packed weights to a safetensors file and return the file's size in bytes.

    Weights of two dimensions or more become codes, symmetric, with a bfloat16 scale for each group (its range is that
    of float32). Other floating-point numbers, and what is in `skip`, are stored as float16; integer buffers are not
    stored. `load` reads it.

    Raises:
        ValueError: there is nothing to quantize, a weight is parametrized, or a value does not fit into float16.
    """
    _quantizable(model, skip)
    left, stored = set(skip), {}
    shared = dict(model.named_parameters(remove_duplicate=False))
    for name, value in model.state_dict().items():
        if name in shared and value.ndim > 1 and name not in left:
            rounded = quantize(value, bits, group_size, scale_dtype=torch.bfloat16)
            stored[f"{name}.codes"] = pack(rounded.codes, bits).cpu()
            stored[f"{name}.scale"] = rounded.scale.bfloat16().cpu()
        elif value.is_floating_point():
            stored[name] = value.half().cpu().contiguous()
            if not stored[name].isfinite().all():
                raise ValueError(f"{name} holds values that float16 cannot: no file was written")
    facts = {"bits": bits, "group_size": group_size, "skip": sorted(set(skip))}
    return save_tensors(file, stored, {"quantization": json.dumps(facts)}).stat().st_size


def load(model: nn.Module, file: str | Path) -> nn.Module:
    """Fill `model` with the values that a file of `save` stands for; returns the model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one of `save`, or does not fit the model.
    """
    stored, bits, group_size = _read(Path(file))
    for name, value in model.state_dict().items():
        if f"{name}.codes" in stored:
            padded = _in_groups(torch.empty(value.shape, device="meta"), group_size).shape
            scale = stored.pop(f"{name}.scale", torch.empty(0)).float()
            packed = stored.pop(f"{name}.codes")
            size = -(-padded.numel() * bits // 8)
            if scale.shape != (padded[0], 1) or packed.shape != (size,) or packed.dtype != torch.uint8:
                raise ValueError(
                    f"{Path(file).name} does not fit {name} of the model: build the model it was made of"
                )
            codes = _unpack(packed, bits, padded.numel()).view(padded)
            zero_point = torch.full_like(scale, 2 ** (bits - 1))
            stored[name] = Quantized(codes, scale, zero_point, bits, value.shape).dequantize()
        elif name in stored:
            stored[name] = stored[name].to(value.dtype)
        elif not value.is_floating_point():
            stored[name] = value
    try:
        model.load_state_dict(stored)
    except RuntimeError as error:
        raise ValueError(
            f"{Path(file).name} does not fit the model ({str(error).splitlines()[-1].strip()}): "
            "build the model it was made of"
        ) from None
    return model


def _read(file: Path) -> tuple[dict[str, Tensor], int, GroupSize]:
    """Return what `save` stored: tensors, bits and the size of a group; the file is not trusted."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file: give one that quantization.save wrote")
    try:
        with safe_open(file, "pt") as opened:
            facts = json.loads((opened.metadata() or {})["quantization"])
            bits, group_size = facts["bits"], facts["group_size"]
            whole = type(bits) is int and type(group_size) in (int, type(None))
            if not whole or not 2 <= bits <= 8 or (group_size is not None and group_size < 1):
                raise ValueError(f"{bits} bits in groups of {group_size}")
            stored = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{file.name} holds no quantized weights ({error}): make it with quantization.save"
        ) from error
    return stored, bits, group_size
