"""Batches of spoken words and of strings of digits, without end. Introduced in chapter 16."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from bigmodel_helpers.data.sound_changes import SoundChanges, pad_sounds
from bigmodel_helpers.data.spectrograms import HOP, WINDOW, log_mel, mask_frames
from bigmodel_helpers.data.speech import DIGITS, SpeechSet

LETTERS = " " + "".join(sorted({*"".join(DIGITS)}))  #: What number 1, 2, ... of a CTC network stand for.
GAP = (-1200, 2400)  # samples between two words of a joined string, -75 to 150 ms: they may overlap


def steps_of(samples: int) -> int:
    """Return how many steps of 20 ms a sound has for `models.SpeechEncoder`: half as many as frames.

    >>> data.steps_of(16_000)
    49
    """
    return max(0, ((samples - WINDOW) // HOP + 1) // 2)


def join_words(sounds: Sequence[Tensor], generator: Generator) -> Tensor:
    """Return sounds one after the other, with short gaps or overlaps, at most half a sound. Introduced in chapter 16.

    Args:
        sounds: float32 (samples,) each.
        generator: on the CPU.
    """
    gaps = torch.randint(*GAP, (len(sounds) + 1,), generator=generator).tolist()
    place, places = abs(gaps[-1]), []
    for sound, gap in zip(sounds, gaps, strict=False):
        places.append(place)
        place += len(sound) + max(gap, -len(sound) // 2)
    joined = torch.zeros(
        max(at + len(sound) for at, sound in zip(places, sounds, strict=True)) + abs(gaps[-1])
    )
    for at, sound in zip(places, sounds, strict=True):
        joined[at : at + len(sound)] += sound
    return joined


def keyword_batches(
    spoken: SpeechSet,
    words: Sequence[str],
    changes: SoundChanges | None = None,
    *,
    batch_size: int = 64,
    mask: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (frames, labels) of single words in rows of one second, again and again in a new order.

    Introduced in chapter 16.

    Args:
        spoken: single words.
        words: the label of a word is its place here.
        changes: what is changed at random; None for nothing.
        batch_size: sounds in a batch; what is left of a pass is dropped.
        mask: hide bands and stretches, see `mask_frames`.
        seed: of order and changes.
        device: where the batches are wanted.

    Yields:
        frames float32 (batch_size, 98, 40), labels int64 (batch_size,).

    Raises:
        ValueError: `batch_size` is below 1 or above the number of sounds, or a text is none of `words`.
    """
    words = [*words]
    if not 1 <= batch_size <= len(spoken):
        raise ValueError(
            f"{len(spoken)} sounds for batches of {batch_size}: take a batch_size from 1 to that"
        )
    if unknown := sorted({*spoken.texts} - {*words}):
        raise ValueError(
            f"the texts {', '.join(map(repr, unknown[:3]))} are none of the words: leave them out"
        )
    labels = torch.tensor([words.index(text) for text in spoken.texts])
    generator = torch.Generator().manual_seed(seed)
    while True:
        for chosen in torch.randperm(len(spoken), generator=generator).split(batch_size):
            if len(chosen) == batch_size:
                sounds = [spoken.sounds[i] for i in chosen]
                rows = changes(sounds, generator, 16_000) if changes else pad_sounds(sounds, 16_000)
                frames = log_mel(rows)
                frames = mask_frames(frames, generator) if mask else frames
                yield frames.to(device), labels[chosen].to(device)


def string_batches(
    spoken: SpeechSet,
    changes: SoundChanges | None = None,
    *,
    batch_size: int = 24,
    longest: int = 5,
    joined: float = 0.75,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield batches of strings of digits for `training.ctc_loss`. Introduced in chapter 16.

    Args:
        spoken: single digits and strings of digits; other single words are left out.
        changes: what is changed at random; None for nothing.
        batch_size: strings in a batch.
        longest: most digits of a string that is joined from single ones of one voice.
        joined: share of such strings; the others were spoken as a whole.
        seed: of all choices.
        device: where the batches are wanted.

    Yields:
        frames float32 (batch_size, frames, 40); steps int64 (batch_size,); letters int64 (all,), numbers in `LETTERS`
        plus 1; lengths int64 (batch_size,), letters of each.

    Raises:
        ValueError: a number is out of range, there are no single digits to join, or, with `joined` below 1, no
            strings, or strings of others.
    """
    if batch_size < 1 or longest < 1 or not 0 <= joined <= 1:
        raise ValueError(
            f"batch_size {batch_size}, longest {longest}, joined {joined}: take 1 or more, 1 or more, and from 0 to 1"
        )
    takes: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    whole = spoken.keep(lambda text, voice: " " in text)
    for sound, text, voice in zip(spoken.sounds, spoken.texts, spoken.voices, strict=True):
        if text in DIGITS:
            takes[voice][text].append(sound)
    if (joined > 0 and not takes) or (joined < 1 and not len(whole)):
        raise ValueError(
            f"{len(spoken)} sounds, {len(whole)} of them strings, single digits in {len(takes)} voices: pass both, "
            "or joined=1 for no strings, or joined=0 for strings only"
        )
    if unknown := {word for text in whole.texts for word in text.split(" ")} - {*DIGITS}:
        raise ValueError(
            f"strings of {', '.join(sorted(unknown)[:3])}: pass strings of digits, with single spaces"
        )
    voices, generator = sorted(takes), torch.Generator().manual_seed(seed)

    def draw(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    while True:
        sounds, texts = [], []
        for _ in range(batch_size):
            if float(torch.rand((), generator=generator)) < joined:
                of = takes[voices[draw(len(voices))]]
                known = [digit for digit in DIGITS if digit in of]
                words = [known[draw(len(known))] for _ in range(1 + draw(longest))]
                sounds.append(join_words([of[word][draw(len(of[word]))] for word in words], generator))
                texts.append(" ".join(words))
            else:
                chosen = draw(len(whole))
                sounds.append(whole.sounds[chosen])
                texts.append(whole.texts[chosen])
        sounds = changes.played(sounds, generator) if changes else sounds
        steps = torch.tensor([steps_of(len(sound)) for sound in sounds])
        rows = changes.rows(sounds, generator) if changes else pad_sounds(sounds)
        letters = torch.tensor([1 + LETTERS.index(letter) for text in texts for letter in text])
        lengths = torch.tensor([len(text) for text in texts])
        yield log_mel(rows).to(device), steps.to(device), letters.to(device), lengths.to(device)
