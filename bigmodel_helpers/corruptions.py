"""Images made worse on purpose, in five severities, to test a model under shift. From chapter 9."""

import io
from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from bigmodel_helpers.images import to_picture, to_pixels

_NOISE = (8, 14, 20, 28, 38)  # standard deviation in gray levels of 0 to 255
_BLUR = (0.4, 0.6, 0.8, 1.1, 1.5)  # standard deviation in pixels
_JPEG = (60, 40, 25, 15, 8)  # quality
_BRIGHTNESS = (20, 40, 60, 80, 100)  # gray levels added
_CONTRAST = (0.75, 0.6, 0.45, 0.3, 0.2)  # share of the distance from the mean of the image that is left


def _noise(images: Tensor, level: int) -> Tensor:
    noise = torch.randn(images.shape, generator=Generator().manual_seed(level))
    return images + _NOISE[level] * noise


def _blur(images: Tensor, level: int) -> Tensor:
    places = torch.arange(-4.0, 5.0)
    kernel = torch.exp(-(places**2) / (2 * _BLUR[level] ** 2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 9)
    padded = F.pad(images, (4, 4, 4, 4), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)


def _jpeg(images: Tensor, level: int) -> Tensor:
    results = []
    for image in images.to(torch.uint8):
        file = io.BytesIO()
        to_picture(image).save(file, "JPEG", quality=_JPEG[level])
        results.append(to_pixels(Image.open(file)))
    return torch.stack(results).float()


def _brightness(images: Tensor, level: int) -> Tensor:
    return images + _BRIGHTNESS[level]


def _contrast(images: Tensor, level: int) -> Tensor:
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + _CONTRAST[level] * (images - mean)


CORRUPTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "JPEG": _jpeg,
    "brightness": _brightness,
    "contrast": _contrast,
}


def corrupt(images: Tensor, kind: str, severity: int) -> Tensor:
    """Return corrupted copies of images; the same call gives the same pixels (after Hendrycks and Dietterich 2019).

    Args:
        images: uint8 (N, 3, H, W) on the CPU.
        kind: a key of `CORRUPTIONS`: noise, blur, JPEG, brightness or contrast.
        severity: 1 (weak) to 5 (strong).

    Returns:
        uint8 of the same shape.

    Raises:
        ValueError: the kind or the severity is unknown, or the images are not uint8 in that shape.
    """
    if kind not in CORRUPTIONS or severity not in range(1, 6):
        raise ValueError(f"{kind!r} of severity {severity}: choose {', '.join(CORRUPTIONS)}, and 1 to 5")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}: pass uint8 (N, 3, H, W)")
    return CORRUPTIONS[kind](images.float(), severity - 1).round().clamp(0, 255).to(torch.uint8)
