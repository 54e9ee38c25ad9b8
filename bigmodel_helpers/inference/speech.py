"""Sounds in, words out. Introduced in chapter 16."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import IO, Any, TypeAlias

import torch
from torch import Tensor, nn

from bigmodel_helpers import models
from bigmodel_helpers.data import DIGITS, LETTERS, WORDS, SoundError, log_mel, pad_sounds, read_sound
from bigmodel_helpers.data._paths import own_name, shown
from bigmodel_helpers.inference._sources import files_of
from bigmodel_helpers.inference.photos import Prediction, Predictions
from bigmodel_helpers.inference.transcribing import ctc_beam

Sound: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes] | tuple[Any, int]
SECOND = 16_000  # samples; what `KeywordNet` was trained on
LONGEST = 30.0  # seconds of a string of digits
SHORTEST = 800  # samples of a word
QUIET = 1e-4  # between the lowest and the highest sample: below, nothing was recorded


@dataclass(frozen=True)
class Utterance:
    """What was understood of one sound, or why nothing could be.

    Attributes:
        name: the file, or the place in the input where there is none.
        text: what was said.
        problem: None, or one line that says why the sound could not be read.
    """

    name: str
    text: str = ""
    problem: str | None = None

    def __str__(self) -> str:
        return self.problem or f"{shown(self.name)}  {self.text}"


def classify_speech(
    sounds: Sound | Iterable[Sound], *, words: Iterable[str] = WORDS, top: int = 3, batch_size: int = 32
) -> Predictions:
    """Say which of twenty words, digits and short commands, each sound is. Introduced in chapter 16.

    A sound is shortened to what stands around its loudest second. One that cannot be read, or in which nothing is
    heard, ends nothing: it has a row that says why. The network was trained on synthetic voices; chapter 16 measures
    how far that carries.

    Args:
        sounds: one or many of: a file, a pattern such as ``"recordings/*.wav"``, a folder, the bytes of a file, a
            file object open in binary mode, or (samples, rate), see `data.read_sound`.
        words: those that may be answered, of `data.WORDS`; ``data.DIGITS`` for digits only.
        top: how many words to name.
        batch_size: sounds that go through the network together.

    Raises:
        FileNotFoundError: `sounds` is one pattern, and no file fits it.
        ValueError: `top` or `batch_size` is not positive, or one of `words` is unknown.
        TypeError: something among the sounds is none of the above.

    >>> inference.classify_speech((torch.zeros(16_000), 16_000))[0].problem
    'sound 0: nothing is heard in it: record it again, nearer to the microphone'
    """
    wanted = [*dict.fromkeys(words)]
    if top < 1 or batch_size < 1:
        raise ValueError(f"top and batch_size must be at least 1, not {top} and {batch_size}")
    if not wanted or (unknown := [word for word in wanted if word not in WORDS]):
        raise ValueError(f"words {wanted if not wanted else unknown}: choose from {', '.join(WORDS)}")
    network, facts = _network("keywords"), models.listener_card("keywords")
    source = (
        f"keywords, {facts['parameters'] / 1e6:.1f} M parameters, trained for this book on synthetic voices"
    )
    places = torch.tensor([WORDS.index(word) for word in wanted])
    found: list[Prediction] = []
    for chunk in _batches(_read(sounds), batch_size):
        heard = [_loudest_second(sound) for _, sound in chunk if isinstance(sound, Tensor)]
        rows: Iterator[Tensor] = iter(())
        if heard:
            with torch.inference_mode():
                frames = log_mel(pad_sounds(heard, SECOND)).to(_device(network))
                rows = iter(network(frames)[:, places].softmax(1).cpu())
        for name, sound in chunk:
            if isinstance(sound, str):
                found.append(Prediction(name, problem=sound))
                continue
            values, order = next(rows).sort(descending=True)
            labels = tuple(wanted[i] for i in order[:top].tolist())
            found.append(Prediction(name, labels, tuple(values[:top].tolist())))
    return Predictions(found, source, "sound")


def transcribe_digits(sounds: Sound | Iterable[Sound], *, width: int = 8) -> list[Utterance]:
    """Write down the digits that are said in each sound, in words. Introduced in chapter 16.

    Args:
        sounds: as in `classify_speech`, up to 30 seconds each.
        width: of the beam search.

    Raises:
        FileNotFoundError: `sounds` is one pattern, and no file fits it.
        TypeError: something among the sounds is no sound.
    """
    network, found = _network("digit_strings"), []
    for name, sound in _read(sounds, longest=LONGEST):
        if isinstance(sound, str):
            found.append(Utterance(name, problem=sound))
            continue
        with torch.inference_mode():
            scores = network(log_mel(pad_sounds([sound])).to(_device(network)))[0].cpu()
        found.append(Utterance(name, ctc_beam(scores, LETTERS, width=width, words=DIGITS)))
    return found


@cache
def _network(name: str) -> nn.Module:
    """Return the network that this module keeps for itself: whoever trains one has another."""
    return models.load_listener(name)


def _device(network: nn.Module) -> torch.device:
    return next((weight.device for weight in network.parameters()), torch.device("cpu"))


def _read(sounds: Sound | Iterable[Sound], longest: float = 600.0) -> Iterator[tuple[str, Tensor | str]]:
    """Yield name and samples of each sound; in place of one that cannot be used, the line that says why."""
    for index, (name, source) in enumerate(_named(sounds)):
        name = name or f"sound {index}"
        try:
            if isinstance(source, SoundError):
                raise source
            sound = read_sound(source, longest=longest)
            if float(sound.amax() - sound.amin()) < QUIET:
                raise SoundError("nothing is heard in it: record it again, nearer to the microphone")
            if len(sound) < SHORTEST:
                raise SoundError("shorter than 50 ms, no word is: record it again, as a whole")
            yield name, sound
        except SoundError as error:
            text = str(error)
            yield name, text if shown(name) in text else f"{shown(name)}: {text}"


def _named(sounds: Any) -> Iterator[tuple[str | None, Any]]:
    if isinstance(sounds, str | os.PathLike):
        yield from files_of(sounds, SoundError, alone=True, kind="sounds")
        return
    if isinstance(sounds, bytes | bytearray | memoryview | tuple) or hasattr(sounds, "read"):
        sounds = [sounds]
    if not isinstance(sounds, Iterable) or isinstance(sounds, dict):
        raise TypeError(f"a {type(sounds).__name__} is no sound: pass files, their bytes, or (samples, rate)")
    for one in sounds:
        if isinstance(one, str | os.PathLike):
            yield from files_of(one, SoundError, alone=False, kind="sounds")
        else:
            yield own_name(one) if hasattr(one, "read") else None, one


def _loudest_second(sound: Tensor) -> Tensor:
    """Return the second with the most power, the whole of a shorter sound."""
    if len(sound) <= SECOND:
        return sound
    power = torch.cat([sound.new_zeros(1), sound.double().square().cumsum(0)])
    start = int((power[SECOND:] - power[:-SECOND]).argmax())
    return sound[start : start + SECOND]


def _batches(
    items: Iterator[tuple[str, Tensor | str]], size: int
) -> Iterator[list[tuple[str, Tensor | str]]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
