"""Where a picture comes from: files, bytes, file objects, arrays, and what is handed in by mistake or malice."""

import io
import os
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from awkward_files import ORANGE, POSTSCRIPT, layered_psd, png, scene
from PIL import EpsImagePlugin, Image

from bigmodel_helpers.data import ImageError, read_image, to_picture
from bigmodel_helpers.data.images import FORMATS


def refusal(source: object) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source)
    text = str(caught.value)
    assert text.isprintable(), text
    assert len(text) < 1000
    return text


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list:
    """What Pillow gave to Ghostscript, which is not started here."""
    calls = []

    def ghostscript(*details: object) -> None:
        calls.append(details)
        raise OSError("not here")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    return calls


def test_no_file_starts_a_program(started: list, tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(POSTSCRIPT)
    for source in (file, str(file), POSTSCRIPT, bytearray(POSTSCRIPT), io.BytesIO(POSTSCRIPT)):
        assert "PostScript is a program, not pixels: export it as PNG" in refusal(source)
    assert started == []
    with Image.open(file) as opened:
        assert opened.format == "EPS"
        assert "EPS" in refusal(opened)
    assert started == []
    with Image.open(file) as opened, pytest.raises(OSError, match="not here"):
        opened.load()
    assert len(started) == 1, "the trap does not work"


def test_drawings_are_not_opened() -> None:
    """Pillow has the system draw them, on Windows."""
    head = b"\xd7\xcd\xc6\x9a" + bytes(4) + b"\x09\0\x09\0" + b"\x48\0" + bytes(6) + b"\1\0\t\0" + bytes(30)
    assert "WMF and EMF are drawings, not pixels" in refusal(head)


def test_every_format_on_the_list_is_known_to_pillow() -> None:
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)
    assert not {"EPS", "WMF", "IPTC", "MPEG", "HDF5"} & set(FORMATS)


def test_layers_and_frames() -> None:
    assert read_image(layered_psd()).getpixel((0, 0)) == ORANGE
    with Image.open(io.BytesIO(layered_psd())) as opened:
        assert read_image(opened).getpixel((0, 0)) == ORANGE
        opened.seek(2)
        assert read_image(opened).getpixel((0, 0)) == (9, 9, 9)
        assert opened.tell() == 2
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), color) for color in (ORANGE, (0, 200, 0))]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert read_image(buffer).getpixel((0, 0)) == ORANGE
    with Image.open(buffer) as opened:
        opened.seek(1)
        assert read_image(opened).getpixel((0, 0)) == (0, 200, 0)
        assert opened.tell() == 1


def test_the_limit_of_pillow_is_named_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    file = png((20, 20), 8, 0, bytes(21 * 20))
    with pytest.raises(ImageError, match=r"raise PIL\.Image\.MAX_IMAGE_PIXELS and max_pixels"):
        read_image(file, max_pixels=1000)
    assert Image.MAX_IMAGE_PIXELS == 100
    Image.MAX_IMAGE_PIXELS = None
    assert read_image(file, max_pixels=400).size == (20, 20)
    with pytest.raises(ImageError, match=r"raise max_pixels$"):
        read_image(file, max_pixels=399)


def test_an_icon_cannot_hide_its_size() -> None:
    """Its header has one byte for the width; the PNG inside says what it likes."""
    inside = png((600, 600), 8, 2, bytes(1801 * 600))
    head = b"\0\0\1\0\1\0" + bytes([16, 16, 0, 0, 1, 0, 32, 0])
    icon = head + len(inside).to_bytes(4, "little") + (22).to_bytes(4, "little") + inside
    assert read_image(icon).size == (600, 600)
    with pytest.raises(ImageError, match="600 x 600 pixels are too many"):
        read_image(icon, max_pixels=300)


class Pipe(io.RawIOBase):
    """Gives bytes in small pieces and cannot go back; without content it never ends."""

    def __init__(self, content: bytes | None) -> None:
        self.content = None if content is None else io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        piece = bytes(len(buffer)) if self.content is None else self.content.read(min(len(buffer), 100))
        buffer[: len(piece)] = piece
        return len(piece)


def test_file_objects_are_read_and_left_open(tmp_path: Path) -> None:
    scene().save(tmp_path / "a.png")
    content, wanted = (tmp_path / "a.png").read_bytes(), read_image(tmp_path / "a.png").tobytes()
    at_end = io.BytesIO()
    scene().save(at_end, "PNG")
    with (tmp_path / "a.png").open("rb") as file:
        for source in (file, at_end, Pipe(content), memoryview(content), bytearray(content)):
            assert read_image(source).tobytes() == wanted
        assert not file.closed
    assert not at_end.closed


def test_members_of_archives_are_file_objects(tmp_path: Path) -> None:
    scene().save(tmp_path / "a.png")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "a.png", "a.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.write(tmp_path / "a.png", "a.png")
    with tarfile.open(tmp_path / "a.tar.gz", "r|gz") as stream:
        assert read_image(stream.extractfile(stream.next())).size == (60, 40)
    with zipfile.ZipFile(tmp_path / "a.zip") as packed, packed.open("a.png") as member:
        assert read_image(member).size == (60, 40)
    for name in ("a.tar.gz", "a.zip"):
        assert "an archive, not a picture: unpack it first" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("start", "cure"),
    [
        (b"version https://git-lfs.github.com/spec/v1", "run git lfs pull"),
        (b"\0\0\0\x18ftypisom", "a video, not a picture"),
        (b"\xef\xbb\xbf<!DOCTYPE html>", "a web page, not a picture"),
        (b'<?xml version="1.0"?>\n<SVG/>', "SVG is a drawing"),
    ],
)
def test_other_things_are_called_by_their_name(start: bytes, cure: str) -> None:
    assert cure in refusal(start.ljust(5000))


def test_file_objects_that_give_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    file.write_text("text", encoding="utf-8")
    with file.open(encoding="utf-8") as opened:
        assert "opened as text: open it with 'rb'" in refusal(opened)
    assert "closed before it was read: open it again" in refusal(opened)
    with file.open("ab") as opened:
        assert "open it with 'rb'" in refusal(opened)
    assert refusal(io.BytesIO()) == "the file object: empty: get it again"
    assert refusal(b"") == "the bytes: empty: get it again"
    assert refusal(Pipe(b"")) == "the file object: empty: get it again"
    assert "not a picture" in refusal(Pipe(b"hello"))
    monkeypatch.setattr("bigmodel_helpers.data._files.MOST_BYTES", 2**22)
    assert "perhaps without end" in refusal(Pipe(None))


def test_arrays_are_read_like_files(tmp_path: Path) -> None:
    scene().save(tmp_path / "a.png")
    wanted = np.asarray(read_image(tmp_path / "a.png"))
    locked = wanted.copy()
    locked.flags.writeable = False
    flipped = np.ascontiguousarray(wanted[::-1, ::-1])[::-1, ::-1]  # negative strides
    for array in (
        wanted,
        locked,
        flipped,
        np.asfortranarray(wanted),
        wanted / 255,
        (wanted / 255).astype("f4"),
    ):
        np.testing.assert_array_equal(np.asarray(read_image(array)), wanted)
    clear = np.dstack([wanted, np.zeros(wanted.shape[:2], np.uint8)])
    assert read_image(clear, background=(1, 2, 3)).getcolors() == [(2400, (1, 2, 3))]
    gray = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for array in (gray, gray[:, :, None], np.dstack([gray, np.full_like(gray, 255)])):
        np.testing.assert_array_equal(np.asarray(read_image(array)), gray[:, :, None].repeat(3, axis=2))
    tensor = torch.from_numpy(wanted.copy()).permute(2, 0, 1)
    for pixels in (tensor, tensor / 255, (tensor / 255).requires_grad_()):
        np.testing.assert_array_equal(np.asarray(read_image(pixels)), wanted)


@pytest.mark.parametrize(
    ("pixels", "cure"),
    [
        (np.zeros((3, 40, 50), np.uint8), r"pass \(H, W\), \(H, W, 3\) or \(H, W, 4\)"),
        (np.zeros(7, np.uint8), "shape"),
        (np.zeros((2, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 4), bool), "pass uint8"),
        (np.zeros((4, 4, 3), np.int64), "pass uint8"),
        (np.zeros((4, 4, 3), np.complex64), "pass uint8"),
        (np.full((4, 4, 3), 128.0), "pass 0 to 1"),
        (np.full((4, 4, 3), np.nan), "pass 0 to 1"),
        (torch.zeros(3, 0, 0), "no pixels"),
        (torch.full((3, 4, 4), float("nan")), "pass 0 to 1"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), "pass uint8"),
        (torch.zeros(()), "shape"),
        (torch.zeros(3, 4, 4).to_sparse(), "dense values"),
        (torch.zeros(3, 4, 4, device="meta"), "dense values"),
    ],
)
def test_pixels_without_a_certain_meaning(pixels: np.ndarray | torch.Tensor, cure: str) -> None:
    with pytest.raises(ImageError, match=cure):
        read_image(pixels)


def test_only_tensors_become_pictures() -> None:
    with pytest.raises(TypeError, match="call read_image"):
        to_picture(np.zeros((3, 4, 4), np.uint8))


def test_half_precision_tensors_become_pictures() -> None:
    pixels = torch.full((3, 4, 4), 0.5, dtype=torch.bfloat16)
    assert to_picture(pixels).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("thing", [None, 3, 2.5, [1, 2], {"a": 1}, object()])
def test_what_is_no_picture_at_all_is_a_type_error(thing: object) -> None:
    with pytest.raises(TypeError, match="is no picture"):
        read_image(thing)


@pytest.mark.parametrize(
    ("path", "cure"),
    [
        ("", "an empty name"),
        ("x" * 100_000, "check the path"),
        ("x\0y.jpg", "check the path"),
        ("\ud800.jpg", "check the path"),
        ("two\nlines\x1b[31m.jpg", "check the path"),
        ("https://example.org/cat.jpg", "a URL: download it first"),
        (Path("https://example.org/cat.jpg"), "a URL: download it first"),
        ("data:image/png;base64," + "A" * 10_000, "a URL: download it first"),
        ("~nobody-of-that-name/cat.jpg", "no such file"),
    ],
)
def test_names_that_lead_nowhere(path: str | Path, cure: str) -> None:
    assert cure in refusal(path)


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    scene().save(tmp_path / "a.png")
    assert read_image("~/a.png").size == read_image(Path("~/a.png")).size == (60, 40)


@pytest.mark.parametrize(
    "make", [lambda path: path.symlink_to("gone.jpg"), lambda path: path.symlink_to(path)]
)
def test_links_that_lead_nowhere(make: Callable[[Path], None], tmp_path: Path) -> None:
    try:
        make(tmp_path / "link.jpg")
    except OSError:  # Windows lets few people make links
        return
    assert "check the path" in refusal(tmp_path / "link.jpg")


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    files = [Path(name) for name in ("/dev/zero", "/dev/random") if Path(name).exists()]
    if hasattr(os, "mkfifo"):
        files.append(tmp_path / "pipe.jpg")
        os.mkfifo(files[-1])
    for file in files:
        assert "a pipe or a device, not a file" in refusal(file)


def test_a_forbidden_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", forbidden)
    assert "may not be read: change its rights" in refusal(tmp_path / "a.jpg")


def test_pictures_that_are_closed_or_damaged(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        scene().save(tmp_path / name)
        with Image.open(tmp_path / name) as opened:
            pass
        assert name in refusal(opened)
        assert "closed before it was read: open it again" in refusal(opened)
    closed = scene()
    closed.close()
    assert refusal(closed) == "the picture: closed before it was read: open it again"
    content = (tmp_path / "a.jpg").read_bytes()
    with Image.open(io.BytesIO(content[:-200])) as opened:
        assert "damaged (" in refusal(opened)


def test_a_note_of_the_camera_that_cannot_be_read() -> None:
    buffer = io.BytesIO()
    scene().save(buffer, "JPEG", exif=b"Exif\0\0no such thing", quality=95)
    assert read_image(buffer).size == (60, 40)


def test_threads_leave_the_warnings_as_they_were(tmp_path: Path) -> None:
    scene().save(tmp_path / "a.png")
    with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("error")
        before = [*warnings.filters]
        for _ in range(20):
            list(pool.map(read_image, [tmp_path / "a.png"] * 50))
        assert warnings.filters == before
