"""Headers of GGUF files that are damaged, cut off, or lie about sizes."""

import struct
import sys
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from bigmodel_helpers.data import _gguf


def text(content: str | bytes) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(content)) + content


def field(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(
    name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0, sizes: int | None = None
) -> bytes:
    sizes = len(shape) if sizes is None else sizes
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", sizes, *shape, kind, offset)


def file_of(
    folder: Path, *parts: bytes, fields: int = 0, tensors: int = 0, head: bytes = b"GGUF\3\0\0\0"
) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(head + struct.pack("<QQ", tensors, fields) + b"".join(parts))
    return path


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A small file from llama.cpp's own writer, with each kind of field and three kinds of tensors."""
    path = tmp_path / "whole.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("a.text", "春 é")
    writer.add_bool("a.bool", True)
    for kind, value in (("uint8", 7), ("int8", -7), ("uint16", 65535), ("int16", -9), ("uint32", 2**32 - 1)):
        getattr(writer, f"add_{kind}")(f"a.{kind}", value)
    for kind, value in (
        ("int32", -(2**31)),
        ("uint64", 2**63),
        ("int64", -5),
        ("float32", 0.5),
        ("float64", 1e300),
    ):
        getattr(writer, f"add_{kind}")(f"a.{kind}", value)
    for name, values in {
        "texts": ["", "a", "é"],
        "ints": [3, -1],
        "floats": [0.5, 2.0],
        "bools": [True, False],
    }.items():
        writer.add_array(f"a.{name}", values)
    numbers = np.arange(6 * 64, dtype=np.float32).reshape(6, 64) / 7
    writer.add_tensor("plain", numbers)
    writer.add_tensor("half", numbers.astype(np.float16))
    q8 = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("packed", gguf.quantize(numbers, q8), raw_dtype=q8)
    writer.add_tensor("line", numbers[0])
    for step in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        step()
    return path


def test_fields_and_tensors_are_those_of_the_reader_of_llama_cpp(written: Path) -> None:
    theirs = gguf.GGUFReader(written)
    fields, entries = _gguf.read(written)
    expected = {
        name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")
    }
    assert fields == _gguf.fields(written) == expected
    assert len(fields) > 15
    assert [entry.name for entry in entries] == ["plain", "half", "packed", "line"]
    for entry, other in zip(entries, theirs.tensors, strict=True):
        assert (entry.name, entry.tensor_type) == (other.name, other.tensor_type)
        assert entry.shape == tuple(other.shape.tolist())
        ours, expected = (gguf.dequantize(each.data, each.tensor_type).ravel() for each in (entry, other))
        assert np.array_equal(ours, expected)


def test_a_file_cut_off_anywhere_is_refused_in_one_line(written: Path, tmp_path: Path) -> None:
    content = written.read_bytes()
    for length in (*range(1, 1200, 7), len(content) - 300, len(content) - 33):
        path = tmp_path / f"{length}.gguf"  # another file each time: Windows holds one that is mapped
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"\A\d+\.gguf: damaged or no GGUF file \(.+\): get it again\Z"):
            _gguf.read(path)


def test_a_changed_byte_gives_a_value_or_one_line(written: Path, tmp_path: Path) -> None:
    content, refused = written.read_bytes(), []
    for place in range(0, 1100, 5):
        path = tmp_path / f"{place}.gguf"
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            _gguf.read(path)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 60
    assert [line for line in refused if "\n" in line] == []


HUGE = 2**62
LIES = {
    "no magic": ((b"",), {"head": b"GGML\3\0\0\0"}, r"begins with b'GGML', version 3"),
    "old": ((b"",), {"head": b"GGUF\1\0\0\0"}, "version 1: GGUF of 2 and 3 can be read"),
    "big-endian": ((b"",), {"head": b"GGUF\0\0\0\3"}, "version 50331648"),
    "many fields": ((b"",), {"fields": HUGE}, "ends too early"),
    "many empty fields": ((bytes(10**6),), {"fields": HUGE}, "is in it twice"),
    "many tensors": ((b"",), {"tensors": HUGE}, "ends too early"),
    "many empty tensors": ((bytes(10**6),), {"tensors": HUGE}, "0 sizes instead of 1 to 4"),
    "long name": (
        (struct.pack("<Q", HUGE), b"abc"),
        {"fields": 1},
        "a text of length 4,611,686,018,427,387,904",
    ),
    "a name past the end": ((struct.pack("<Q", 2**20), b"abc"), {"fields": 1}, "ends too early"),
    "long list": (
        (field("a", 9, struct.pack("<IQ", 0, HUGE)), bytes(99)),
        {"fields": 1},
        "a list of length 4,611",
    ),
    "long list of texts": (
        (field("a", 9, struct.pack("<IQ", 8, 2**40)),),
        {"fields": 1},
        "a list of length 1,099",
    ),
    "list past the end": ((field("a", 9, struct.pack("<IQ", 6, 2**20)),), {"fields": 1}, "ends too early"),
    "list of lists": ((field("a", 9, struct.pack("<IQ", 9, 2)), bytes(99)), {"fields": 1}, "unknown kind 9"),
    "unknown kind": ((field("a", 77, bytes(99)),), {"fields": 1}, "unknown kind 77"),
    "no UTF-8": ((field("a", 8, text(b"\xff\xfe")),), {"fields": 1}, "can't decode byte 0xff"),
    "a name twice": ((field("a", 0, b"\1") * 2,), {"fields": 2}, "a is in it twice"),
    "a name of two lines": ((field("a\nb", 0, b"\1") * 2,), {"fields": 2}, r"a\\nb is in it twice"),
    "a tensor twice": ((tensor("w", (4,)) * 2, bytes(99)), {"tensors": 2}, "w is in it twice"),
    "large tensor": (
        (tensor("w", (2**40,)), bytes(99)),
        {"tensors": 1},
        r"tensor w: the shape \(1099511627776,\)",
    ),
    "a product that wraps": ((tensor("w", (2**32, 2**32)), bytes(99)), {"tensors": 1}, "does not fit"),
    "nothing times much": ((tensor("w", (2**60, 0)), bytes(99)), {"tensors": 1}, "does not fit"),
    "many dimensions": ((tensor("w", (1,), sizes=10**7), bytes(99)), {"tensors": 1}, "10,000,000 sizes"),
    "far away": ((tensor("w", (4,), offset=HUGE), bytes(99)), {"tensors": 1}, "tensor w: .* does not fit"),
    "kind of tensor": (
        (tensor("w", (4,), kind=999), bytes(99)),
        {"tensors": 1},
        "tensor w: 999 is not a valid",
    ),
    "half a block": ((tensor("w", (33,), kind=8), bytes(99)), {"tensors": 1}, "does not fit"),
    "alignment 0": (
        (field("general.alignment", 4, bytes(4)), tensor("w", (4,)), bytes(99)),
        {"fields": 1, "tensors": 1},
        "its alignment is",
    ),
    "alignment of text": (
        (field("general.alignment", 8, text("x")), tensor("w", (4,)), bytes(99)),
        {"fields": 1, "tensors": 1},
        "its alignment is",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_one_line_and_costs_no_memory(name: str, tmp_path: Path) -> None:
    parts, counts, cause = LIES[name]
    path = file_of(tmp_path, *parts, **counts)
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=rf"\Amodel\.gguf: damaged or no GGUF file \(.*{cause}.*\): get it again\Z"
        ):
            _gguf.read(path)
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_a_path_without_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(FileNotFoundError, match=r"\Amissing\.gguf: no such file: check the path\Z"):
        _gguf.fields(tmp_path / "missing.gguf")
    with pytest.raises(ValueError, match=r"\Aempty\.gguf: an empty file: get it again\Z"):
        _gguf.fields(tmp_path / "empty.gguf")
    with pytest.raises(ValueError, match=r": a folder, not a GGUF file: pass its files\Z"):
        _gguf.fields(tmp_path)
    with pytest.raises(ValueError, match=r"\A'': an empty name: pass the path of a GGUF file\Z"):
        _gguf.fields("")
    with pytest.raises(FileNotFoundError, match="a URL: download it first"):
        _gguf.fields("https://example.org/model.gguf")


def test_the_weights_need_a_package_that_is_named(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert _gguf.fields(written)["a.uint8"] == 7
    with pytest.raises(ModuleNotFoundError, match="pip install gguf"):
        _gguf.read(written)
