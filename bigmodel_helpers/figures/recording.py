"""A recorder on the page: the reader says words, and gets a WAV file of each. Introduced in chapter 16.

It is HTML with a script of its own, so it works in the built book without a kernel as well as in a notebook. What
is recorded stays in the browser until the reader saves it.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from html import escape
from pathlib import Path

MOST_WORDS = 100
SECONDS = (0.3, 10)  # the shortest and the longest recording
RATES = (8_000, 48_000)  # the lowest and the highest
_PAGE = Path(__file__).with_name("_recorder.html")

# What some system refuses in the name of a file, and the names that Windows keeps for devices.
_REFUSED = re.compile(
    r'[<>:"/\\|?*]|^[ .]|[ .]$|^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)', re.IGNORECASE | re.ASCII
)


def _names_a_file(word: object) -> bool:
    """Say whether ``word.wav`` is the name of a file on Linux, macOS and Windows."""
    if not isinstance(word, str) or not 0 < len(word.encode(errors="replace")) <= 100:
        return False
    return word.isprintable() and not _REFUSED.search(word)


class Recorder:
    """A recorder of words, made by `recorder`; a notebook shows it when it is the last value of a cell.

    Introduced in chapter 16.

    Attributes:
        words: what the reader says, in this order; each is also the name of a file.
        seconds: how long each recording is.
        rate: the samples per second of the files.
    """

    def __init__(self, words: tuple[str, ...], seconds: float, rate: int) -> None:
        self.words, self.seconds, self.rate = words, seconds, rate

    @property
    def html(self) -> str:
        """The recorder as it stands on a page: the words, what to do where no script runs, style and script."""
        files = [f"{word}.wav" for word in self.words]
        names = ", ".join([*files[:2], *(["..."] if len(files) > 2 else [])])
        each = f"one WAV file per word ({names})" if len(files) > 1 else f"into the WAV file {names}"
        return (
            f'<div class="recorder" data-words="{escape(json.dumps(self.words))}" data-seconds="{self.seconds:g}" '
            f'data-rate="{self.rate}"><div>The recorder does not run here: <span>record with the recorder of '
            f"your computer or phone, {escape(each)}</span>.</div></div>\n{_PAGE.read_text(encoding='utf-8')}"
        )

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        shown = ", ".join([*self.words[:3], *(["..."] if len(self.words) > 3 else [])])
        return f"A recorder of {len(self.words)} word{'s' * (len(self.words) > 1)}: {shown}"


def recorder(words: Sequence[str], *, seconds: float = 1.5, rate: int = 16_000) -> Recorder:
    """Make a recorder with which the reader records words in the browser, with a kernel or without.

    It shows one word after the other, records each for `seconds` from the microphone, plays it back, and saves all
    recordings as one ZIP file with a WAV file per word (mono, 16 bits per sample). Nothing leaves the browser.

    Introduced in chapter 16.

    Args:
        words: at most 100 words that can be names of files, such as ``zero``, which becomes ``zero.wav``.
        seconds: the length of each recording, 0.3 to 10.
        rate: the samples per second of the files, 8,000 to 48,000, whatever the microphone delivers.

    Raises:
        ValueError: there is no word, a word comes twice or can be no name of a file, or a number is out of range.
    """
    if isinstance(words, str):
        raise ValueError(f"words is the text {words!r}: give a list of words")
    chosen = tuple(words)
    if not chosen:
        raise ValueError("there is no word to record: name at least one")
    if len(chosen) > MOST_WORDS:
        raise ValueError(f"there are {len(chosen)} words: a recorder takes at most {MOST_WORDS}")
    seen = set()
    for word in chosen:
        if not _names_a_file(word):
            raise ValueError(f"{word!r} can be no name of a file: write a short word of letters and digits")
        same = unicodedata.normalize("NFC", word).casefold()  # on macOS and Windows one file
        if same in seen:
            raise ValueError(f"the word {word!r} comes twice, or in small and capital letters: give it once")
        seen.add(same)
    if not SECONDS[0] <= seconds <= SECONDS[1]:
        raise ValueError(f"a recording cannot take {seconds} seconds: choose {SECONDS[0]} to {SECONDS[1]}")
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(
            f"rate {rate} is out of range: choose {RATES[0]:,} to {RATES[1]:,} samples per second"
        )
    return Recorder(chosen, float(seconds), int(rate))
