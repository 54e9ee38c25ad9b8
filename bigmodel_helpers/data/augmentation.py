"""Images as a network takes them: mirrored, moved, cut out, normalized, batch by batch. Introduced in chapter 4."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cache

import torch
from torch import Generator, Tensor

MEAN = (0.4914, 0.4822, 0.4465)  #: Mean of the pixels of CIFAR-10, 0 to 1, per channel.
STD = (0.2470, 0.2435, 0.2616)  #: Standard deviation of the same.


@cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return 255 times the values, (1, 3, 1, 1); kept, because each copy to a GPU makes it wait."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1) * 255


def _three(name: str, values: Sequence[float]) -> tuple[float, ...]:
    """Return a mean or a standard deviation as a tuple that `_per_channel` takes."""
    try:
        numbers = () if isinstance(values, Set) else tuple(map(float, values))  # a set has no order
    except (TypeError, ValueError):
        numbers = ()
    lowest = 1e-6 if name == "std" else 0
    if len(numbers) != 3 or not all(lowest <= number <= 1 for number in numbers):
        shown = numbers or type(values).__name__
        raise ValueError(f"{name} {shown}: pass a number per color, three in all, for pixels from 0 to 1")
    return numbers


def normalize(
    images: Tensor,
    dtype: torch.dtype = torch.float32,
    *,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Tensor:
    """Turn uint8 images (B, 3, H, W) into numbers with mean about 0 and spread about 1 per channel.

    The arithmetic is float32, whatever `dtype` is asked for.

    Args:
        images: uint8 (B, 3, H, W).
        dtype: format of the result.
        mean: mean of the training images of the network that is to see these; pixels count from 0 to 1.
        std: standard deviation of the same, above 0. `Pretrained.batches` knows both.

    Raises:
        ValueError: the images have another shape, or `mean` or `std` is not three such numbers.

    >>> data.normalize(torch.zeros(8, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([8, 3, 32, 32])
    """
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3:
        channels = shape[1] if len(shape) > 1 else 0
        raise ValueError(f"{channels} channels: normalize takes color images (B, 3, H, W), not {shape}")
    middle = _per_channel(_three("mean", mean), images.device)
    return (
        images.to(torch.float32, copy=True)
        .sub_(middle)
        .div_(_per_channel(_three("std", std), images.device))
        .to(dtype)
    )


def mirror(images: Tensor, which: Tensor) -> Tensor:
    """Mirror left and right the images where the bool tensor `which` (B,) is true."""
    return torch.where(which[:, None, None, None], images.flip(3), images)


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror each image left and right with probability 1/2.

    `images` is uint8 or float (B, C, H, W); `generator` is on any device.
    """
    which = torch.rand(len(images), generator=generator, device=generator.device) < 0.5
    return mirror(images, which.to(images.device))


def shift(images: Tensor, pixels: int, generator: Generator) -> Tensor:
    """Move each image by up to `pixels` in both directions; the gap is filled with the mirrored border.

    The same as padding with ``mode="reflect"`` and cropping at random, without the padded copy.

    Every move from -pixels to pixels is equally likely. `images` is uint8 or float (B, C, H, W); `generator` is
    on any device. A ValueError tells when the images are too small for `pixels`.
    """
    batch, channels, height, width = images.shape
    if not 0 <= pixels < min(height, width):
        raise ValueError(
            f"a shift by {pixels} pixels does not fit {height}x{width} images: use a smaller one"
        )
    moves = torch.randint(-pixels, pixels + 1, (2, batch, 1), generator=generator, device=generator.device)
    down, right = moves.to(images.device)
    rows, columns = _reflect(down, height), _reflect(right, width)  # (B, H), (B, W)
    places = (rows[:, :, None] * width + columns[:, None, :]).view(batch, 1, -1)
    return images.flatten(2).gather(2, places.expand(-1, channels, -1)).view_as(images)


def _reflect(move: Tensor, size: int) -> Tensor:
    """Return for each move (B, 1) the source index (B, size) of every place, mirrored at both borders."""
    index = (torch.arange(size, device=move.device) + move).abs()
    return (size - 1) - ((size - 1) - index).abs()


def cutout(images: Tensor, size: int, generator: Generator, mean: Sequence[float] = MEAN) -> Tensor:
    """Fill a square of each image with the color `mean` (zero after normalizing; DeVries and Taylor, 2017).

    The square's side is `size` pixels and its center any pixel, so a part of it may lie outside of the image.
    `images` is uint8 (B, 3, H, W); `generator` is on any device.
    """
    batch, _, height, width = images.shape
    place = torch.rand((2, batch, 1), generator=generator, device=generator.device).to(images.device)
    top, left = (place[0] * height).long() - size // 2, (place[1] * width).long() - size // 2  # (B, 1)
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    in_rows, in_columns = (rows >= top) & (rows < top + size), (columns >= left) & (columns < left + size)
    hole = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]  # (B, 1, H, W)
    color = _per_channel(_three("mean", mean), images.device).round().to(images.dtype)
    return torch.where(hole, color, images)


@dataclass(frozen=True)
class Augment:
    """The augmentation of a batch: mirror, move by up to `shift` pixels, cut out a square of side `cutout`.

    The square is filled with the color `mean`, three numbers from 0 to 1: that with which the images are normalized.
    Called with (images uint8 (B, 3, H, W), generator), it returns images of the same shape. 0 switches off.

    >>> data.Augment(shift=1)(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.Generator()).shape
    torch.Size([8, 3, 32, 32])
    """

    flip: bool = True
    shift: int = 2
    cutout: int = 0
    mean: Sequence[float] = MEAN

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        if self.flip:
            images = flip(images, generator)
        if self.shift:
            images = shift(images, self.shift, generator)
        if self.cutout:
            images = cutout(images, self.cutout, generator, self.mean)
        return images
