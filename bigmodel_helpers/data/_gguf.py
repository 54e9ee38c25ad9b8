"""GGUF files, the format of llama.cpp, read without trust in any number that they say.

The reader of the package `gguf` makes an array of each word of a vocabulary (3 s and 160 MB for 49,000), and goes on
for as long as a damaged file says. What is taken from the package is the kinds of tensors.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bigmodel_helpers.data._paths import shown, whole_file

_NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}  # as `struct` names them
_TEXT, _LIST = 8, 9
_LONGEST = 2**21  # bytes of a text or entries of a list, twice the largest known vocabulary


class Entry(NamedTuple):
    """A tensor in a GGUF file: `shape` begins with the innermost size, `data` is uint8 (rows, bytes)."""

    name: str
    shape: tuple[int, ...]
    tensor_type: Any
    data: np.ndarray


def fields(path: str | Path) -> dict[str, Any]:
    """Return the fields of a GGUF file by name: numbers, texts, and lists of them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, cut off or no GGUF file.
    """
    return _header(whole_file(path, "GGUF file"))[0]


def read(path: str | Path) -> tuple[dict[str, Any], list[Entry]]:
    """Return the fields of a GGUF file, and its tensors as views of it: their values are not loaded yet.

    Raises:
        ModuleNotFoundError: the package `gguf` is not installed.
        FileNotFoundError, ValueError: as `fields`.
    """
    try:
        import gguf
    except ModuleNotFoundError:
        raise ModuleNotFoundError("the weights of a GGUF file need gguf: pip install gguf") from None
    path = whole_file(path, "GGUF file")
    found, tensors, end = _header(path)
    alignment = found.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise _damaged(path, f"its alignment is {shown(alignment)}")
    content = np.memmap(path, np.uint8, "r")
    entries = []
    for name, (shape, number, offset) in tensors.items():
        try:
            kind = gguf.GGMLQuantizationType(number)
            values, size = gguf.GGML_QUANT_SIZES[kind]
            width, rest = divmod(shape[0], values)
            start = -(-end // alignment) * alignment + offset
            stop = start + math.prod(shape[1:]) * width * size
            if rest or not 0 < stop - start <= len(content) - start:
                raise ValueError(f"the shape {shape} does not fit")
            entries.append(Entry(name, shape, kind, content[start:stop].reshape(-1, width * size)))
        except (ValueError, LookupError) as error:
            raise _damaged(path, f"tensor {shown(name)}: {error}") from None
    return found, entries


def _damaged(path: Path, why: object) -> ValueError:
    return ValueError(f"{shown(path.name)}: damaged or no GGUF file ({why}): get it again")


def _header(path: Path) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]], int]:
    """Return the fields; shape, kind and place of each tensor; and where all that ends."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        header = _Header(content)
        try:
            return *header.read(), header.place
        except struct.error:
            raise _damaged(path, "it ends too early") from None
        except ValueError as error:
            raise _damaged(path, error) from None


class _Header:
    """Reads one value after the other; `struct` itself refuses a place past the end."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.place = content, 0

    def read(self) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
        magic, version, tensor_count, field_count = self.numbers("4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"it begins with {magic!r}, version {version}: GGUF of 2 and 3 can be read")
        found: dict[str, Any] = {}
        for _ in range(field_count):
            _put(found, self.text(), self.value())
        tensors: dict[str, tuple[Any, ...]] = {}
        for _ in range(tensor_count):
            name, (sizes,) = self.text(), self.numbers("I")
            if not 0 < sizes <= 4:
                raise ValueError(f"tensor {shown(name)} has {sizes:,} sizes instead of 1 to 4")
            _put(tensors, name, (self.numbers(f"{sizes}Q"), *self.numbers("IQ")))
        return found, tensors

    def numbers(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self.content, self.place)
        self.place += struct.calcsize(f"<{form}")
        return values

    def text(self) -> str:
        (size,) = self.numbers("Q")
        return self.numbers(f"{_known(size, 'text')}s")[0].decode()

    def value(self) -> Any:
        (kind,) = self.numbers("I")
        return self.several(*self.numbers("IQ")) if kind == _LIST else self.several(kind, 1)[0]

    def several(self, kind: int, count: int) -> list[Any]:
        if kind == _TEXT:
            return [self.text() for _ in range(_known(count, "list"))]
        if kind not in _NUMBERS:
            raise ValueError(f"a value is of the unknown kind {kind}")
        return list(self.numbers(f"{_known(count, 'list')}{_NUMBERS[kind]}"))


def _known(length: int, what: str) -> int:
    if length > _LONGEST:
        raise ValueError(f"a {what} of length {length:,} is longer than any known")
    return length


def _put(found: dict[str, Any], name: str, value: Any) -> None:
    if name in found:
        raise ValueError(f"{shown(name)} is in it twice")
    found[name] = value
