"""From sound to a picture of it: which pitches sound when. Introduced in chapter 16."""

import math
from functools import cache

import torch
from torch import Generator, Tensor

RATE = 16_000  #: samples per second of all sounds in this room
WINDOW = 400  #: samples of a frame, 25 ms
HOP = 160  #: samples from one frame to the next, 10 ms
MELS = 40  #: numbers of a frame
LOWEST = 20.0  # hertz, about where hearing begins
QUIETEST = 1e-6  # what is added to each power before the logarithm


def mel_filters(mels: int = MELS, window: int = WINDOW, rate: int = RATE) -> Tensor:
    """Return triangles that sum the powers of neighboring frequencies, as wide as the ear's own steps.

    The mel scale is ``2595 log10(1 + f / 700)`` (O'Shaughnessy 1987); the corners of the triangles are equally far
    apart on it, from 20 Hz to half of `rate`. Introduced in chapter 16.

    Args:
        mels: number of triangles.
        window: samples of a frame.
        rate: samples per second.

    Returns:
        float32 (window // 2 + 1, mels).

    Raises:
        ValueError: there are so many triangles that one of them lies between two frequencies and would be empty.

    >>> data.mel_filters().shape
    torch.Size([201, 40])
    """
    lowest, highest = (2595 * math.log10(1 + frequency / 700) for frequency in (LOWEST, rate / 2))
    corners = 700 * (10 ** (torch.linspace(lowest, highest, mels + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, window // 2 + 1, dtype=torch.float64)[:, None]
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (frequencies - left) / (middle - left)
    falling = (right - frequencies) / (right - middle)
    filters = torch.minimum(rising, falling).clamp(min=0)
    if not filters.any(0).all():
        raise ValueError(
            f"{mels} mels are too many for a window of {window} samples: take fewer or a longer window"
        )
    return filters.float()


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # else the first call decides that no later one has gradients
        return torch.hann_window(WINDOW, device=device), mel_filters().to(device)


def log_mel(sound: Tensor) -> Tensor:
    """Return the logarithm of the power in 40 bands of pitch, a frame each 10 ms. Introduced in chapter 16.

    Frame number i is made from the samples ``160 i`` to ``160 i + 399``, so a sound that arrives in pieces gives the
    same frames. What is left at the end is dropped.

    Args:
        sound: float (samples,) or (batch, samples) at 16,000 samples per second.

    Returns:
        float32 (frames, 40) or (batch, frames, 40); natural logarithms, about -14 for silence.

    Raises:
        ValueError: the sound is shorter than a frame, or has another shape or dtype.

    >>> data.log_mel(torch.zeros(16_000)).shape
    torch.Size([98, 40])
    """
    if sound.ndim not in (1, 2) or not sound.is_floating_point():
        raise ValueError(
            f"a sound of {sound.dtype}, shape {tuple(sound.shape)}: pass floats (samples,) or (batch, samples)"
        )
    if sound.shape[-1] < WINDOW:
        raise ValueError(f"a sound of {sound.shape[-1]} samples is shorter than a frame of {WINDOW}: pad it")
    hann, filters = _constants(sound.device)
    waves = torch.stft(sound.float(), WINDOW, HOP, window=hann, center=False, return_complex=True)
    power = waves.real**2 + waves.imag**2
    return torch.log(power.transpose(-1, -2) @ filters + QUIETEST)


def mask_frames(
    frames: Tensor,
    generator: Generator,
    *,
    bands: int = 2,
    band: int = 8,
    stretches: int = 2,
    stretch: int = 15,
) -> Tensor:
    """Return log-mel frames with some bands of pitch and some stretches of time replaced by the mean (SpecAugment).

    Park et al. 2019, without warping. Each place and width is drawn for each sound of the batch. Introduced in
    chapter 16.

    Args:
        frames: float (batch, frames, mels).
        generator: on the CPU.
        bands: how many bands.
        band: their largest width, in mels; a width is drawn from 0 to this.
        stretches: how many stretches.
        stretch: their longest length, in frames; at most a quarter of a sound is drawn.
    """
    batch, steps, mels = frames.shape
    hidden = torch.zeros(batch, steps, mels, dtype=torch.bool, device=frames.device)
    for size, widest, count, shape in (
        (mels, band, bands, (batch, 1, mels)),
        (steps, min(stretch, steps // 4), stretches, (batch, steps, 1)),
    ):
        places = torch.arange(size)
        for _ in range(count):
            width = torch.randint(0, widest + 1, (batch, 1), generator=generator)
            start = (torch.rand(batch, 1, generator=generator) * (size - width + 1)).long()
            hidden |= ((places >= start) & (places < start + width)).view(shape).to(frames.device)
    return torch.where(hidden, frames.mean((1, 2), keepdim=True), frames)
