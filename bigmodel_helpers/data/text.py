"""A text corpus without a download: the source code of Python's own standard library. Introduced in chapter 8."""

import hashlib
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from bigmodel_helpers.data._seeds import refuse_other_order, seeded

# Installed packages, tests, tables that a program wrote, and parts that not every installation has.
SKIPPED = frozenset(
    [
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "distutils",
        "encodings",
        "pydoc_data",
        "tkinter",
        "turtledemo",
        "ensurepip",
        "__pycache__",
    ]
)


@dataclass(frozen=True)
class Corpus:
    """Text as bytes, split by file.

    Attributes:
        train: uint8 (N,), the bytes of all training files, one after the other.
        valid: uint8 (M,), the bytes of the validation files; no file is in both parts.
        source: one sentence that names the text and its size.
    """

    train: Tensor
    valid: Tensor
    source: str


def standard_library(folder: str | Path | None = None) -> Corpus:
    """Return the ``.py`` files of Python's standard library, about a tenth of them for validation.

    The hash of a file's path decides its part, so a file is on the same side in every version of Python and on
    every system. The text itself differs from version to version: `Corpus.source` names it. Tests, generated
    tables and optional parts (`SKIPPED`) are left out.

    Args:
        folder: where the files are; None for the running Python's.

    Raises:
        FileNotFoundError: the folder lacks files for one of the parts.
    """
    library, files = _python_files(folder)
    train, valid = (
        _join(path for name, path in files if (_place(name) < 0.1) is side) for side in (False, True)
    )
    sizes = f"{len(train) / 1e6:.1f} MB for training, {len(valid) / 1e6:.1f} MB for validation"
    return Corpus(train, valid, f"source code of {library}: {sizes}")


def _python_files(folder: str | Path | None) -> tuple[str, list[tuple[str, Path]]]:
    """Return what the library is called, and its files in order, each with its name: its path within the folder."""
    root = Path(os.__file__).parent if folder is None else Path(folder)
    files = []
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        parts = path.relative_to(root).parts
        if SKIPPED.isdisjoint(parts) and not parts[0].startswith(("config-", "_sysconfigdata", "__phello__")):
            files.append(("/".join(parts), path))
    if len({_place(name) < 0.1 for name, _ in files}) < 2:
        raise FileNotFoundError(
            f"{root} has too few .py files: this Python comes without its source; "
            "use one from python.org, conda or your system, or name a folder"
        )
    return f"Python {platform.python_version()}'s standard library" if folder is None else root.name, files


def _place(name: str) -> float:
    """Return a number from 0 to below 1 that depends on nothing but `name`."""
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).digest()
    return (digest[0] % 10 + int.from_bytes(digest[1:7]) / 2**48) / 10


def _lines(path: Path) -> bytes:
    return path.read_bytes().replace(b"\r\n", b"\n")


def _join(paths: Iterable[Path]) -> Tensor:
    return torch.frombuffer(bytearray(b"\n".join(map(_lines, paths))), dtype=torch.uint8)


def windows(
    text: Tensor, length: int, batch_size: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Cut `batch_size` windows at random places out of `text`: a batch for a language model.

    Args:
        text: integers (N,), such as `Corpus.train`; N is more than `length`.
        length: tokens per window, T.
        batch_size: windows, B.
        generator: draws the places; None for PyTorch's global one.

    Returns:
        inputs and targets, int64 (B, T), on the device of `text`: a target is the token that follows its input.

    Raises:
        ValueError: `text` is too short, or a number is less than 1.

    >>> inputs, targets = text.windows(torch.arange(9), length=8, batch_size=1)
    >>> inputs.tolist(), targets.tolist()
    ([[0, 1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4, 5, 6, 7, 8]])
    """
    if length < 1 or batch_size < 1 or len(text) <= length:
        raise ValueError(
            f"cannot cut {batch_size} windows of {length} tokens and their targets out of {len(text)} tokens: "
            "use numbers of at least 1 and a longer text"
        )
    device = generator.device if generator is not None else None
    starts = torch.randint(len(text) - length, (batch_size, 1), generator=generator, device=device)
    steps = torch.arange(length + 1, device=text.device)
    tokens = text[starts.to(text.device, non_blocking=True) + steps].long()
    return tokens[:, :-1], tokens[:, 1:]


class Windows:
    """Batches of windows for a language model, without end. Introduced in chapter 8.

    The places depend only on the seed and the number of the batch: a resumed run sees the same windows.

    Yields (inputs, targets), int64 (B, T) on `device`, see `windows`.

    Args:
        text: integers (N,), such as `Corpus.train`.
        length: tokens per window, T.
        batch_size: windows, B.
        seed: of the places; ranks that train together take different ones.

    Raises:
        ValueError: `text` is too short, or a number is less than 1.
    """

    def __init__(
        self, text: Tensor, length: int, batch_size: int, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        windows(text, length, batch_size, torch.Generator())  # refuses what does not fit
        self.text, self.length, self.batch_size, self.seed = text.to(device), length, batch_size, seed
        self.index = 0  # batches yielded so far

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in count(self.index):
            self.index = index + 1
            yield windows(self.text, self.length, self.batch_size, seeded(self.seed, index))

    def state_dict(self) -> dict[str, int]:
        """Return how many batches were yielded, and what decides the order."""
        return {"index": self.index, **self._order()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a place that `state_dict` returned.

        Raises:
            ValueError: the place is in another order.
        """
        refuse_other_order(state, self._order())
        self.index = state["index"]

    def _order(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("seed", "length", "batch_size")} | {
            "tokens": len(self.text)
        }
