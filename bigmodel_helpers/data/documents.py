"""Text as documents, one a file: read, split by whole documents, and rid of copies. Introduced in chapter 11.

Copies are found by shingles, the runs of `words` words of a text; a shorter text is one shingle. Words are what white
space parts: text that is written without it, such as Chinese, is compared as a whole.
"""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bigmodel_helpers.data._listing import files_below, printable, root_folder
from bigmodel_helpers.data._paths import refusal
from bigmodel_helpers.data.text import _lines, _place, _python_files

_LARGEST = 2**30  # bytes of one document


@dataclass(frozen=True, repr=False)
class Documents:
    """Texts with their names (relative paths with ``/``), what was left out and why, and where they are from."""

    texts: tuple[str, ...]
    names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.texts, str) or not all(isinstance(text, str) for text in self.texts):
            raise ValueError("texts hold something else than texts: pass a tuple of str")
        if len(self.texts) != len(self.names):
            raise ValueError(f"{len(self.texts)} texts, {len(self.names)} names: give each text one")

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.texts)

    def __repr__(self) -> str:
        size = sum(len(text.encode(errors="replace")) for text in self.texts) / 1e6
        return f"Documents({len(self):,} documents, {size:.1f} MB, {len(self.skipped):,} skipped)"


def standard_library(folder: str | Path | None = None) -> Documents:
    """Return the files that `text.standard_library` reads, in the same order; that says what `folder` is."""
    library, files = _python_files(folder)
    return _gather(files, f"source code of {library}")


def folder(path: str | Path, endings: Sequence[str] = (".txt", ".md", ".py")) -> Documents:
    r"""Read the UTF-8 files with these endings in a folder and in its folders, sorted by name; lines end with ``\n``.

    Hidden files and folders, whose names begin with a dot, are not looked at.

    Raises:
        OSError: the folder does not exist or may not be read, or has no text that can be read.
        ValueError: there is no ending, or one without its dot.
    """
    wanted = () if isinstance(endings, str) else tuple(str(end).lower() for end in endings)
    if not wanted or not all(len(end) > 1 and end[0] == "." for end in wanted):
        raise ValueError(f"endings={endings!r}: pass a tuple of endings with their dots, such as ('.txt',)")
    root = root_folder(path)
    found, left_out = files_below(root)
    files = sorted((file.relative_to(root).as_posix(), file) for file in found)
    files = [(name, file) for name, file in files if name.lower().endswith(wanted)]
    left_out = [line.removeprefix(f"{root}{os.sep}") for line in left_out]
    read = _gather(files, f"text of {root.resolve().name}", left_out, least=1)
    if not len(read):
        why = f"; of {len(read.skipped)} left out the first is {read.skipped[0]}" if read.skipped else ""
        kinds = printable(f"{root} has no text in {', '.join(wanted)}")
        raise FileNotFoundError(f"{kinds}: name other endings or another folder{why}")
    return read


def _gather(
    files: Iterable[tuple[str, Path]], source: str, left_out: Iterable[str] = (), least: int = 0
) -> Documents:
    """Read named files, each of at least so many letters."""
    texts, names, skipped = [], [], [*left_out]
    for name, path in files:
        try:
            texts.append(_read(path, least))
            names.append(printable(name))
        except ValueError as error:
            skipped.append(f"{name}: {error}")
    return Documents(tuple(texts), tuple(names), tuple(map(printable, skipped)), printable(source))


def _read(path: Path, least: int) -> str:
    """Return the text of a file, or raise a ValueError with cause and cure."""
    try:
        if (size := path.stat().st_size) > _LARGEST:
            raise ValueError(f"{size:,} bytes, too many for one document: cut it into its documents")
        text = _lines(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        raise ValueError(refusal(error, path)) from None
    if "\0" in text:  # UTF-16 is full of it
        raise ValueError("not text in UTF-8: save it as UTF-8")
    if len(text) < least:
        raise ValueError("an empty file: get it again")
    return text


def split(documents: Documents, valid: float = 0.1) -> tuple[Documents, Documents]:
    """Return documents for training, and about the share `valid` for validation.

    The hash of its name decides the side of a document: it stays there when others come or go. With a tenth, sides
    are those of `text.standard_library`. Leave out copies before, see `without_copies`: their names differ.

    Raises:
        ValueError: `valid` is not between 0 and 1, or a side has no document.
    """
    if not 0 < valid < 1:
        raise ValueError(f"valid={valid} must be a share between 0 and 1, such as 0.1")
    held = [_place(name) < valid for name in documents.names]
    if len({*held}) < 2:
        counts = f"valid={valid} puts {sum(held)} of {len(held)} documents into validation"
        raise ValueError(f"{counts}, and both sides need some: use another share or more documents")
    train, valid = ([index for index, mine in enumerate(held) if mine is side] for side in (False, True))
    return _take(documents, train), _take(documents, valid)


def _take(documents: Documents, chosen: Sequence[int]) -> Documents:
    texts, names = (tuple(row[index] for index in chosen) for row in (documents.texts, documents.names))
    source = f"{documents.source}; {len(chosen)} of {len(documents)} documents"
    return Documents(texts, names, documents.skipped, source)


def without_copies(
    documents: Documents, shared: float = 0.5, words: int = 8
) -> tuple[Documents, list[tuple[str, str, float]]]:
    """Return the documents that copy no earlier one, and of each copy: its name, that of the earlier one, the share.

    A copy has at least the share `shared` of its different shingles in common with one document that is kept. This is
    exact, and linear in the text also where most documents begin with the same license.

    Raises:
        ValueError: a number is out of range.

    >>> twice = documents.Documents(texts=("To be, or not", "To be,  or not"), names=("a", "b"))
    >>> documents.without_copies(twice)[1]
    [('b', 'a', 1.0)]
    """
    if not 0 < shared <= 1:
        raise ValueError(f"shared={shared} must be a share above 0 and at most 1, such as 0.5")
    shingles = _shingles(documents.texts, words)
    spread = np.bincount(np.concatenate([[0], *shingles]))  # how many documents have it
    common = [{*mine[spread[mine] > 1].tolist()} for mine in shingles]
    holders = defaultdict(list)  # shingle -> the kept documents that have it
    kept, copies = [], []
    for index, mine in enumerate(common):
        size = len(shingles[index])
        least = max(1, math.ceil(shared * size - 1e-6))  # 0.1 * 30 is a little above 3
        # An original lacks at most `size - least` of the shingles: one of one more must be there. Rare ones have few.
        rarest = sorted(mine, key=lambda shingle: (spread[shingle], shingle))[: max(0, len(mine) - least + 1)]
        seen: set[int] = set()
        others = (other for shingle in rarest for other in holders[shingle] if other not in seen)
        original = next((o for o in others if seen.add(o) or len(mine & common[o]) >= least), None)
        if original is None:
            kept.append(index)
            for shingle in mine:
                holders[shingle].append(index)
        else:
            share = len(mine & common[original]) / size
            copies.append((documents.names[index], documents.names[original], share))
    return _take(documents, kept), copies


def overlap(documents: Documents, others: Documents, words: int = 8) -> Tensor:
    """Return the share of each document's different shingles that are anywhere in `others`, float (D,).

    For documents of validation and `others` of training it says how much of each the model has seen.
    """
    shingles = _shingles([*documents.texts, *others.texts], words)
    known = np.zeros(1 + max((int(mine.max()) for mine in shingles), default=0), dtype=bool)
    for theirs in shingles[len(documents) :]:
        known[theirs] = True
    return torch.tensor([float(known[mine].mean()) for mine in shingles[: len(documents)]])


def _shingles(texts: Sequence[str], words: int) -> list[np.ndarray]:
    """Return the different shingles of each text, as numbers that mean the same in all texts."""
    if not isinstance(words, Integral) or not 1 <= words <= 1000:
        raise ValueError(f"words={words!r} must be a whole number from 1 to 1,000, such as 8")
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(word, len(numbers) + 1) for word in text.split()] for text in texts]
    flat = np.array([number for row in rows for number in [*row, *[0] * words]], dtype=np.int64)
    runs = flat  # the number of the run of words that begins here: one word, then one more each time
    for shift in range(1, words):
        longer = runs * (len(numbers) + 1) + np.roll(flat, -shift)
        runs = np.unique(longer, return_inverse=True)[1]
    parts = np.split(runs, np.cumsum([len(row) + words for row in rows]))
    return [np.unique(part[: max(1, len(row) - words + 1)]) for part, row in zip(parts, rows, strict=False)]
