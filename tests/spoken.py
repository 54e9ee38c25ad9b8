"""What the package ships of speech, decoded once for all tests, and sounds that are made up."""

import io
from functools import cache

import numpy as np
import soundfile
import torch
from torch import Generator, Tensor

from bigmodel_helpers.data import DIGITS, SpeechSet, load_speech


@cache
def spoken(part: str) -> SpeechSet:
    """Return `load_speech(part)`, the same each time: nobody changes its sounds."""
    return load_speech(part)


def generator(seed: int = 0) -> Generator:
    """Return a generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def noise(samples: int, seed: int = 0) -> Tensor:
    """Return white noise, as loud as speech."""
    return 0.1 * torch.randn(samples, generator=generator(seed))


def tone(samples: int, hertz: float = 1000) -> Tensor:
    """Return a tone that fades in and out."""
    time = torch.arange(samples) / 16_000
    return 0.5 * torch.sin(2 * torch.pi * hertz * time) * torch.hann_window(samples)


def wav(sound: Tensor, rate: int = 16_000) -> bytes:
    """Return the bytes of a WAV file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.asarray(sound), rate, format="WAV")
    return buffer.getvalue()


def made_up(words: tuple[str, ...] = DIGITS, voices: int = 2, strings: int = 2) -> SpeechSet:
    """Return a set of tones: in each voice each word and some strings of digits; a voice has a loudness."""
    sounds, texts, names = [], [], []
    for voice in range(voices):
        said = [*words, *(" ".join(DIGITS[(voice + i + j) % 10] for j in range(3)) for i in range(strings))]
        for number, text in enumerate(said):
            sounds.append((1 + voice) / voices * tone(6000 * (1 + text.count(" ")), 300 + 100 * number))
            texts.append(text)
            names.append(f"voice {voice}")
    return SpeechSet(tuple(sounds), tuple(texts), tuple(names), "made up")
