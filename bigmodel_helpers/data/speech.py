"""Spoken words that come with the package, and folders of one's own. Introduced in chapter 16."""

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

from torch import Tensor

from bigmodel_helpers.data._paths import expanded, shown
from bigmodel_helpers.data.sounds import read_sound

#: The ten digits in words.
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: Ten short commands.
COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
#: Digits and commands: the words of `load_speech`.
WORDS = DIGITS + COMMANDS
PARTS = ("train", "validation", "test", "person")
_ENDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf")


@dataclass(frozen=True)
class SpeechSet:
    """Sounds, what is said in them, and who says it. Introduced in chapter 16.

    Attributes:
        sounds: float32 (samples,) each, at 16,000 samples per second.
        texts: what is said, such as "seven" or "seven two two".
        voices: who says it.
        source: one sentence that says where the sounds come from.
    """

    sounds: tuple[Tensor, ...]
    texts: tuple[str, ...]
    voices: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        if not len(self.sounds) == len(self.texts) == len(self.voices):
            raise ValueError(
                f"{len(self.sounds)} sounds, {len(self.texts)} texts, {len(self.voices)} voices: pass one of each"
            )

    def __len__(self) -> int:
        return len(self.sounds)

    def keep(self, wanted: Callable[[str, str], bool]) -> "SpeechSet":
        """Return the sounds for which ``wanted(text, voice)`` is true, in their order.

        >>> data.load_speech("person").keep(lambda text, voice: text == "nine").texts
        ('nine',)
        """
        chosen = [i for i, pair in enumerate(zip(self.texts, self.voices, strict=True)) if wanted(*pair)]
        texts, voices = ([of[i] for i in chosen] for of in (self.texts, self.voices))
        return SpeechSet(tuple(self.sounds[i] for i in chosen), tuple(texts), tuple(voices), self.source)


def load_speech(part: str) -> SpeechSet:
    """Return spoken words and strings of digits: twenty words, ten of them digits, in many voices.

    A voice belongs to one part. `train`, `validation` and `test` were made by two free synthesizers, eSpeak NG and
    Flite; `person` is a person who says the ten digits, Allison Smith. What is shipped is compressed (Opus), but for
    `person`; the cards beside the files tell how they were made and under which licenses they may be passed on.

    Raises:
        ValueError: there is no such part.
        ModuleNotFoundError: soundfile is needed and not installed.

    >>> data.load_speech("person").texts[:3]
    ('zero', 'one', 'two')
    """
    if part not in PARTS:
        raise ValueError(f"no part {part!r}: choose from {', '.join(PARTS)}")
    folder = resources.files("bigmodel_helpers").joinpath("recordings")
    if part == "person":
        files = [folder.joinpath("allison", f"{digit}.wav").read_bytes() for digit in range(10)]
        sounds = tuple(read_sound(file) for file in files)
        return SpeechSet(
            sounds, DIGITS, ("allison",) * 10, "a person, Allison Smith (CC BY-SA 3.0), 10 digits"
        )
    sounds, texts, voices, whole, name = [], [], [], None, None
    for row in csv.DictReader(folder.joinpath("clips.csv").read_text(encoding="utf-8").splitlines()):
        if row["part"] != part:
            continue
        if row["voice"] != name:
            name = row["voice"]
            whole = read_sound(folder.joinpath("voices", f"{name}.opus").read_bytes())
        start = int(row["start"])
        sounds.append(whole[start : start + int(row["samples"])])
        texts.append(row["text"])
        voices.append(name)
    source = (
        f"{len(set(voices))} synthetic voices for {part}, {len(sounds):,} sounds, made by eSpeak NG and Flite"
    )
    return SpeechSet(tuple(sounds), tuple(texts), tuple(voices), source)


def speech_folder(path: str | os.PathLike[str], *, rate: int = 16_000) -> SpeechSet:
    """Return the sounds of a folder with one folder for each word, as Google's Speech Commands (Warden 2018).

    ``WORD/VOICE_nohash_0.wav`` is one sound of that data set; of another name, what stands before the first ``_`` is
    the voice. Folders whose names begin with ``_`` or ``.`` are left out, and so
    are files that do not end as WAV, FLAC, OGG, Opus, MP3, AIFF, AU or CAF do.

    Raises:
        FileNotFoundError: there is no such folder.
        SoundError: a sound cannot be read.
        ValueError: no folder in it has a sound.
    """
    root = expanded(path)
    if not str(path) or not root.is_dir():
        raise FileNotFoundError(f"{shown(path)!r} is no folder: pass one with a folder for each word")
    files = [
        file
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(("_", "."))
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in _ENDINGS and not file.name.startswith(".") and file.is_file()
    ]
    if not files:
        raise ValueError(f"{shown(root)} has no folders with sounds: put them in WORD/VOICE_1.wav")
    sounds = tuple(read_sound(file, rate=rate) for file in files)
    texts = tuple(file.parent.name for file in files)
    voices = tuple(file.stem.split("_")[0] for file in files)
    return SpeechSet(
        sounds, texts, voices, f"{len(files):,} sounds of the folder {shown(root.absolute().name)}"
    )
