"""GGUF files: what llama.cpp's own package writes is read back, and no stated size is believed."""

import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from bigmodel_helpers.data._gguf import GGUF

KINDS = [gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def field(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, *sizes: int, kind: int = 0, place: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, place)


def gguf_bytes(*parts: bytes, tensors: int = 0, fields: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields) + b"".join(parts)


def test_every_field_and_every_tensor_is_what_was_written(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    file = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    wanted = {"general.architecture": "llama", "a.words": ["one", "zwei", "三", ""], "a.kinds": [1, 3, -1]}
    wanted |= {"a.whole": 7, "a.part": 0.5, "a.yes": True, "a.far": -(2**40), "a.scores": [0.5, -2.0]}
    writer.add_array("a.words", wanted["a.words"])
    writer.add_array("a.kinds", wanted["a.kinds"])
    writer.add_uint32("a.whole", wanted["a.whole"])
    writer.add_float32("a.part", wanted["a.part"])
    writer.add_bool("a.yes", wanted["a.yes"])
    writer.add_int64("a.far", wanted["a.far"])
    writer.add_array("a.scores", wanted["a.scores"])
    values = {kind: random.standard_normal((3, 5, 64), dtype=np.float32) for kind in KINDS}
    for kind, value in values.items():
        writer.add_tensor(kind.name, gguf.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    opened = GGUF(file)
    assert opened.fields == wanted
    assert opened.shapes == {kind.name: (3, 5, 64) for kind in KINDS}
    for kind, value in values.items():
        found = opened.read(kind.name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, gguf.dequantize(gguf.quantize(value, kind), kind))
    found[:] = 0  # a copy, not the file
    assert opened.read(KINDS[-1].name).any()


HUGE = struct.pack("<Q", 2**60)
DAMAGED = {
    "empty": (b"", "empty"),
    "another format": (b"PK\3\4" + bytes(60), "does not begin with GGUF"),
    "half a header": (gguf_bytes()[:15], "ends at byte 15"),
    "version 1": (gguf_bytes(version=1), "version 1, and 2 and 3 are known"),
    "big endian": (gguf_bytes(version=3 << 24), "version 50331648"),
    "too many fields": (gguf_bytes(fields=2**63), "ends at byte"),
    "too many fields, zeros": (gguf_bytes(bytes(10_000), fields=2**63), "twice"),
    "too many tensors": (gguf_bytes(tensors=2**63), "ends at byte"),
    "too many tensors, zeros": (gguf_bytes(bytes(10_000), tensors=2**63), "0 dimensions"),
    "a long name": (gguf_bytes(HUGE, bytes(99), fields=1), "ends at byte"),
    "a name of 1,000 letters": (gguf_bytes(field("a" * 1000, 0, b"1"), fields=1), "too long"),
    "a long text": (gguf_bytes(field("a", 8, HUGE), fields=1), "ends at byte"),
    "a long list": (gguf_bytes(field("a", 9, struct.pack("<I", 5) + HUGE), fields=1), "a list of 1,152,92"),
    "a long list of texts": (
        gguf_bytes(field("a", 9, struct.pack("<I", 8) + HUGE), fields=1),
        "a list of 1,152,92",
    ),
    "a list that runs out": (
        gguf_bytes(field("a", 9, struct.pack("<IQ", 5, 2**19)), fields=1),
        "ends at byte",
    ),
    "lists in lists": (
        gguf_bytes(field("a", 9, struct.pack("<IQ", 9, 1) * 5000), fields=1),
        "unknown kind 9",
    ),
    "an unknown kind of field": (gguf_bytes(field("a", 77, b"1"), fields=1), "unknown kind 77"),
    "a field twice": (gguf_bytes(field("a", 0, b"1") * 2, fields=2), "'a' is too long or twice"),
    "no UTF-8": (
        gguf_bytes(struct.pack("<Q", 1), b"\xff", struct.pack("<I", 0), b"1", fields=1),
        "codec can't",
    ),
    "a tensor twice": (gguf_bytes(tensor("a", 1) * 2, bytes(64), tensors=2), "'a' is too long or twice"),
    "a tensor of no size": (gguf_bytes(tensor("a"), bytes(64), tensors=1), "0 dimensions"),
    "a tensor of many sizes": (gguf_bytes(tensor("a", *[1] * 5), bytes(64), tensors=1), "5 dimensions"),
    "a size of 0": (gguf_bytes(tensor("a", 0, 4), bytes(64), tensors=1), "shape (4, 0)"),
    "an unknown kind of tensor": (gguf_bytes(tensor("a", 1, kind=99), bytes(64), tensors=1), "99 is not a"),
    "half a block": (gguf_bytes(tensor("a", 33, kind=8), bytes(99), tensors=1), "Q8_0 wants rows of 32"),
    "a large tensor": (gguf_bytes(tensor("a", 2**20, 2**20), bytes(64), tensors=1), "ends at byte"),
    "sizes beyond 64 bits": (gguf_bytes(tensor("a", *[2**63] * 4), bytes(64), tensors=1), "ends at byte"),
    "a far tensor": (gguf_bytes(tensor("a", 1, place=2**63), bytes(64), tensors=1), "ends at byte"),
    "an alignment of 0": (
        gguf_bytes(field("general.alignment", 4, bytes(4)), fields=1),
        "an alignment of 0",
    ),
    "an alignment in words": (
        gguf_bytes(field("general.alignment", 8, text("32")), fields=1),
        "alignment of '32'",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_in_one_line_and_takes_no_memory(name: str, tmp_path: Path) -> None:
    content, why = DAMAGED[name]
    file = tmp_path / "odd.gguf"
    file.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"^odd\.gguf is damaged or no GGUF file \([^\n]*\): get") as caught:
        GGUF(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert why in str(caught.value)
    assert len(str(caught.value)) < 300
    assert peak < 2**20 + 2 * len(content)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A file with a text, a list and a tensor of 64 numbers."""
    parts = [field("words", 9, struct.pack("<IQ", 8, 2) + text("one") + text("two")), tensor("a", 32, 2)]
    header = gguf_bytes(*parts, tensors=1, fields=1)
    file = tmp_path / "whole.gguf"
    file.write_bytes(header + bytes(-len(header) % 32) + np.arange(64, dtype=np.float32).tobytes())
    return file


def test_a_file_cut_anywhere_is_refused(whole: Path) -> None:
    content = whole.read_bytes()
    assert GGUF(whole).read("a")[1, 31] == 63
    for end in range(len(content)):
        whole.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"^whole\.gguf is damaged"):
            GGUF(whole)


def test_any_byte_of_the_header_may_be_wrong(whole: Path) -> None:
    content = whole.read_bytes()
    refused = 0
    for place in range(len(content) - 256):
        for value in (0, 127, 255):
            whole.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            try:
                opened = GGUF(whole)
                for name in opened.shapes:
                    opened.read(name)
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error)
    assert refused > 100


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    file = tmp_path / "whole.gguf"
    file.write_bytes(gguf_bytes(tensor("a", 4, kind=26), bytes(99), tensors=1))
    with pytest.raises(ValueError, match=r"^whole\.gguf: 'a' is of the kind I32, which cannot be unpacked"):
        GGUF(file).read("a")


@pytest.mark.parametrize("make", [lambda file: None, Path.mkdir], ids=["nothing", "a folder"])
def test_a_file_that_is_not_there_is_named(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "model.gguf")
    with pytest.raises(FileNotFoundError, match=r"model\.gguf is not there: check the path"):
        GGUF(tmp_path / "model.gguf")


def test_what_is_not_installed_is_named(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModuleNotFoundError, match=r"^GGUF files need .*: pip install gguf$"):
        GGUF(whole)
