"""Sounds as a network should meet them: faster, fainter, in noise, over a telephone. Introduced in chapter 16."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

ROUND = 1600  # samples


def pad_sounds(
    sounds: Sequence[Tensor], samples: int | None = None, generator: Generator | None = None
) -> Tensor:
    """Return sounds as rows of one tensor, with silence around or after them. Introduced in chapter 16.

    Args:
        sounds: float32 (samples,) each.
        samples: length of a row; a longer sound is cut to its middle, a shorter one stands in the middle. None: the
            rows are as long as the longest sound, rounded up to tenths of a second (which makes Fourier transforms
            fast), and each sound stands at the beginning.
        generator: on the CPU; each sound stands at a random place of its row.

    Returns:
        float32 (sounds, samples).

    Raises:
        ValueError: there is no sound, `samples` is below 1, or a sound has another shape or dtype.

    >>> data.pad_sounds([torch.ones(2), torch.ones(1)], 4)
    tensor([[0., 1., 1., 0.],
            [0., 1., 0., 0.]])
    """
    if not len(sounds):
        raise ValueError("no sound: pass one at least")
    if samples is not None and samples < 1:
        raise ValueError(f"rows of {samples} samples: take 1 or more, or None")
    for sound in sounds:
        if sound.ndim != 1 or not sound.is_floating_point():
            raise ValueError(f"a sound of {sound.dtype}, shape {tuple(sound.shape)}: pass floats (samples,)")
    length = samples or -(-max(map(len, sounds)) // ROUND) * ROUND
    rows = torch.zeros(len(sounds), length)
    for row, sound in zip(rows, sounds, strict=True):
        cut = max(0, len(sound) - length) // 2
        sound = sound[cut : cut + length]
        start = (length - len(sound)) // 2 if samples else 0
        if generator is not None:
            start = int(torch.randint(0, length - len(sound) + 1, (), generator=generator))
        row[start : start + len(sound)] = sound
    return rows


def add_noise(rows: Tensor, ratios: Tensor, generator: Generator) -> Tensor:
    """Return sounds in noise whose spectrum falls, at random, between white (flat) and brown (6 dB an octave).

    Introduced in chapter 16.

    Args:
        rows: float32 (sounds, samples).
        ratios: (sounds,), power of the sound over power of the noise, in decibels. The power of a sound is the mean
            square of its samples above a hundredth of the loudest; silence stays silent.
        generator: on the CPU.
    """
    noise = torch.fft.rfft(torch.randn(rows.shape, generator=generator))
    slopes = torch.rand(len(rows), 1, generator=generator)
    noise = torch.fft.irfft(noise / torch.arange(1, noise.shape[1] + 1) ** slopes, rows.shape[1])
    loud = rows.abs() > 0.01 * rows.abs().amax(1, keepdim=True)
    power = (rows**2 * loud).sum(1) / loud.sum(1).clamp(min=1)
    strength = power / 10 ** (ratios / 10) / (noise**2).mean(1)
    return rows + noise * strength.sqrt()[:, None]


@dataclass(frozen=True)
class SoundChanges:
    """Change sounds at random, so that a network learns what does not matter. Introduced in chapter 16.

    Attributes:
        speed: by how many octaves a sound is played faster or slower at most; pitch and tempo change together.
        gain: by how many decibels it is made fainter at most.
        noise: the worst ratio of sound to noise in decibels, where the best is 30; None for no noise. A fifth of the
            sounds stays clean.
        band: where the frequencies of half of the sounds are cut, at worst, as a share of all; None for nowhere.
        place: whether each sound is put at a random place of its row.

    >>> data.SoundChanges()([torch.zeros(100)], torch.Generator().manual_seed(0), 1000).shape
    torch.Size([1, 1000])
    """

    speed: float = 0.35
    gain: float = 20.0
    noise: float | None = 0.0
    band: float | None = 0.4
    place: bool = True

    def __post_init__(self) -> None:
        for name, low, high in (("speed", 0, 4), ("gain", 0, 200), ("noise", -100, 30), ("band", 0, 1)):
            value = getattr(self, name)
            if not (value is None and name in ("noise", "band")) and not low <= value <= high:
                raise ValueError(f"{name} is {value}: take a number from {low} to {high}")

    def __call__(self, sounds: Sequence[Tensor], generator: Generator, samples: int | None = None) -> Tensor:
        """Return the changed sounds as rows, float32 (sounds, samples), see `pad_sounds`.

        Args:
            sounds: float32 (samples,) each.
            generator: on the CPU.
            samples: length of a row; None for that of the longest sound, which begins its row.
        """
        return self.rows(self.played(sounds, generator), generator, samples)

    def played(self, sounds: Sequence[Tensor], generator: Generator) -> list[Tensor]:
        """Return the sounds faster or slower, float32 of other lengths."""
        factors = 2 ** (self.speed * (2 * torch.rand(len(sounds), generator=generator) - 1))
        return [
            F.interpolate(sound[None, None], max(1, round(len(sound) / factor)), mode="linear")[0, 0]
            if len(sound)
            else sound
            for sound, factor in zip(sounds, factors.tolist(), strict=True)
        ]

    def rows(self, sounds: Sequence[Tensor], generator: Generator, samples: int | None = None) -> Tensor:
        """Return the sounds as rows with all changes but that of speed, float32 (sounds, samples)."""
        rows = pad_sounds(sounds, samples, generator if self.place and samples else None)
        draws = torch.rand(5, len(rows), generator=generator)
        rows = rows * 10 ** (-self.gain * draws[0] / 20)[:, None]
        if self.noise is not None:
            ratios = self.noise + (30 - self.noise) * draws[1]
            noisy = add_noise(rows, ratios, generator)
            rows = torch.where(draws[2, :, None] < 0.8, noisy, rows)
        if self.band is not None:
            waves = torch.fft.rfft(rows)
            ends = torch.where(draws[3] < 0.5, self.band + (1 - self.band) * draws[4], 1) * waves.shape[1]
            waves[torch.arange(waves.shape[1]) >= ends[:, None]] = 0
            rows = torch.fft.irfft(waves, rows.shape[1])
        return rows
