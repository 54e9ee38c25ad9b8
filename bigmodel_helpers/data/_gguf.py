"""GGUF, the files of llama.cpp: fields and tensors, without trusting any size that a file states.

The reader of the package `gguf` goes through a list of the stated length, also where the file has long ended; here
each size is compared with the file first. What a tensor's bytes mean is left to that package.
"""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

_NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8"}
_NUMBERS |= {12: "<f8"}
_TEXT, _LIST = 8, 9
_LONGEST_LIST = 2**20  # four times the largest vocabulary
_LONGEST_NAME = 999


class GGUF:
    """An open GGUF file.

    Attributes:
        fields: number, text, or list of numbers or texts, by name.
        shapes: of each tensor, by name, the size that varies slowest first.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: the package `gguf` is not installed.
        ValueError: it is damaged, cut off, or no GGUF file.
    """

    def __init__(self, file: str | Path) -> None:
        file = Path(file)
        try:
            import gguf
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "GGUF files need the package gguf, which is not installed: pip install gguf"
            ) from None
        if not file.is_file():
            raise FileNotFoundError(f"{file} is not there: check the path")
        self.name, self._place = file.name, 0
        self.fields: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._kinds: dict[str, gguf.GGMLQuantizationType] = {}
        self._bytes: dict[str, np.ndarray] = {}
        try:
            self._data = np.memmap(file, np.uint8, "r").view(np.ndarray)
            self._read_header()
        except ValueError as error:
            raise ValueError(f"{self.name} is damaged or no GGUF file ({error}): get it again") from None

    def read(self, name: str) -> np.ndarray:
        """Return a tensor in fp32, a copy, unpacked where it is quantized.

        Raises:
            ValueError: it is of a kind that cannot be unpacked, such as integers.
        """
        import gguf

        kind, shape = self._kinds[name], self.shapes[name]
        rows = self._bytes[name].reshape(prod(shape[:-1]), -1)  # unpacked in groups, which saves memory
        try:
            return gguf.dequantize(rows, kind).astype(np.float32).reshape(shape)
        except NotImplementedError:
            raise ValueError(
                f"{self.name}: {name!r} is of the kind {kind.name}, which cannot be unpacked: get another file"
            ) from None

    def _read_header(self) -> None:
        if self._take("u1", 4).tobytes() != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self._number("<u4")
        if version not in (2, 3):
            raise ValueError(f"version {version}, and 2 and 3 are known")
        tensors, fields = self._number("<u8"), self._number("<u8")
        for _ in range(fields):
            name = self._new_name(self.fields)
            self.fields[name] = self._value(self._number("<u4"))
        found = [self._tensor() for _ in range(tensors)]
        alignment = self.fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"an alignment of {alignment!r}")
        begin = -(-self._place // alignment) * alignment
        for name, place, size in found:
            self._place = begin + place
            self._bytes[name] = self._take("u1", size)

    def _tensor(self) -> tuple[str, int, int]:
        """Read what the header says of one tensor, and return its name, place and number of bytes."""
        import gguf

        name, count = self._new_name(self.shapes), self._number("<u4")
        if not 1 <= count <= 4:
            raise ValueError(f"{name!r} has {count:,} dimensions, and 1 to 4 are possible")
        shape = tuple(self._take("<u8", count)[::-1].tolist())
        kind = self._kinds[name] = gguf.GGMLQuantizationType(self._number("<u4"))
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if 0 in shape or shape[-1] % block:
            raise ValueError(f"{name!r} has the shape {shape}, and {kind.name} wants rows of {block}")
        self.shapes[name] = shape
        return name, self._number("<u8"), prod(shape) // block * size

    def _take(self, kind: str, count: int = 1) -> np.ndarray:
        end = self._place + count * np.dtype(kind).itemsize
        if end > len(self._data):
            raise ValueError(f"it ends at byte {len(self._data):,}, before what it announces")
        found = self._data[self._place : end].view(kind)
        self._place = end
        return found

    def _number(self, kind: str) -> Any:
        return self._take(kind)[0].item()

    def _text(self) -> str:
        return self._take("u1", self._number("<u8")).tobytes().decode()

    def _new_name(self, known: dict[str, Any]) -> str:
        name = self._text()
        if len(name) > _LONGEST_NAME or name in known:
            raise ValueError(f"the name {name[:99]!r} is too long or twice in it")
        return name

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind != _LIST:
            return self._number(_kind(kind))
        kind, count = self._number("<u4"), self._number("<u8")
        if count > _LONGEST_LIST:
            raise ValueError(f"a list of {count:,}, and {_LONGEST_LIST:,} are many")
        if kind == _TEXT:
            return [self._text() for _ in range(count)]
        return self._take(_kind(kind), count).tolist()


def _kind(number: int) -> str:
    if number not in _NUMBERS:
        raise ValueError(f"a field of the unknown kind {number}")
    return _NUMBERS[number]
