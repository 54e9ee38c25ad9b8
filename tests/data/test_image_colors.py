"""The same pixels give the same colors, whatever mode, profile or transparency their file has."""

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from awkward_files import color_profile, png
from PIL import Image, ImageCms

from bigmodel_helpers.data import read_image

NOISE = np.random.default_rng(0).integers(0, 256, (40, 1500, 3), np.uint8)
RGB, L = Image.fromarray(NOISE), Image.fromarray(NOISE[:, :, 0])
WIDE, LINEAR, PRINT = (color_profile(space) for space in ("RGB ", "GRAY", "CMYK"))
BLUE = (1, 2, 200)


def converted(picture: Image.Image, icc: bytes) -> np.ndarray:
    """What color management itself makes of the pixels."""
    return np.asarray(
        ImageCms.profileToProfile(
            picture,
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    )


def with_profile(picture: Image.Image, icc: bytes) -> Image.Image:
    picture = picture.copy()
    picture.info["icc_profile"] = icc
    return picture


FEW = RGB.quantize(64)
CLEAR = Image.fromarray(np.arange(60000, dtype=np.uint32).astype(np.uint8).reshape(40, 1500))  # all opacities
DEEP = Image.fromarray(NOISE[:, :, 0].astype(np.uint16) * 257)


def glass(picture: Image.Image, alpha: Image.Image | int = 255) -> Image.Image:
    picture = picture.copy()
    picture.putalpha(alpha)
    return picture


@pytest.mark.parametrize(
    ("picture", "icc", "colors"),
    [
        (RGB, WIDE, RGB),
        (glass(RGB), WIDE, RGB),
        (glass(RGB).convert("RGBa"), WIDE, RGB),
        (FEW, WIDE, FEW.convert("RGB")),
        (FEW.convert("PA"), WIDE, FEW.convert("RGB")),
        (RGB.convert("RGBX"), WIDE, RGB),
        (RGB.convert("YCbCr"), WIDE, RGB.convert("YCbCr").convert("RGB")),
        (RGB.convert("CMYK"), PRINT, RGB.convert("CMYK")),
        (L, LINEAR, L),
        (glass(L), LINEAR, L),
        (glass(L).convert("La"), LINEAR, L),
        (DEEP, LINEAR, L),
        (DEEP.convert("I"), LINEAR, L),
        (Image.fromarray(NOISE[:, :, 0].astype(np.float32) / 255), LINEAR, L),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_a_profile_is_applied_in_every_mode(
    picture: Image.Image, icc: bytes, colors: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigmodel_helpers.data.images.TILE", 999)  # less than a row
    wanted, plain = converted(colors, icc), np.asarray(colors.convert("RGB"))
    assert np.abs(wanted.astype(int) - plain).max() > 15, "the profile changes nothing"
    np.testing.assert_array_equal(np.asarray(read_image(with_profile(picture, icc))), wanted)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_files_with_alpha_keep_their_profile(kind: str, tmp_path: Path) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    glass(RGB).save(tmp_path / "glass", kind, icc_profile=WIDE, **options)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "glass")), converted(RGB, WIDE))


def test_sixteen_bits_with_alpha_keep_a_gray_profile() -> None:
    """Pillow calls such a file RGBA, which a gray profile does not fit."""
    row = struct.pack(">4H", 40 * 257, 65535, 200 * 257, 65535)
    file = png((2, 1), 16, 4, b"\0" + row, (b"iCCP", b"gray\0\0" + zlib.compress(LINEAR)))
    wanted = converted(Image.fromarray(np.array([[40, 200]], np.uint8)), LINEAR)
    np.testing.assert_array_equal(np.asarray(read_image(file)), wanted)


def test_color_and_opacity_do_not_mix() -> None:
    """The profile belongs to the picture, not to the background."""
    read = np.asarray(read_image(with_profile(glass(RGB, CLEAR), WIDE), background=BLUE)).astype(int)
    opacity = np.asarray(CLEAR)[:, :, None] / 255
    wanted = converted(RGB, WIDE) * opacity + np.array(BLUE) * (1 - opacity)
    assert np.abs(read - wanted).max() <= 1


@pytest.mark.parametrize(
    ("bits", "color", "row", "clear", "wanted"),
    [
        (1, 0, b"\x40", (1,), [(0, 0, 0), BLUE]),
        (1, 0, b"\x40", (0,), [BLUE, (255, 255, 255)]),
        (2, 0, b"\x60", (2,), [(85, 85, 85), BLUE]),
        (4, 0, b"\x5a", (10,), [(85, 85, 85), BLUE]),
        (8, 0, b"\x07\x09", (9,), [(7, 7, 7), BLUE]),
        (16, 0, struct.pack(">2H", 1000, 1001), (1001,), [(4, 4, 4), BLUE]),
        (16, 0, struct.pack(">2H", 0, 65535), (0,), [BLUE, (255, 255, 255)]),
        (8, 2, bytes([1, 2, 3, 4, 5, 6]), (4, 5, 6), [(1, 2, 3), BLUE]),
        (16, 2, struct.pack(">6H", 258, 515, 772, 4660, 4608, 0), (4660, 4608, 0), [(1, 2, 3), BLUE]),
    ],
)
def test_the_transparent_color_of_a_png(
    bits: int, color: int, row: bytes, clear: tuple[int, ...], wanted: list[tuple[int, int, int]]
) -> None:
    file = png((2, 1), bits, color, b"\0" + row, (b"tRNS", struct.pack(f">{len(clear)}H", *clear)))
    picture = read_image(file, background=BLUE)
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == wanted


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_either_order_of_bytes(mode: str) -> None:
    order = ">u2" if mode == "I;16B" else "<u2"
    picture = Image.frombytes(mode, (256, 1), np.arange(0, 65536, 257).astype(order).tobytes())
    assert np.asarray(read_image(picture))[0, :, 0].tolist() == list(range(256))


def zeros(size: tuple[int, int], bits: int, color: int, channels: int) -> bytes:
    return png(size, bits, color, bytes((size[0] * bits * channels // 8 + 1) * size[1]), level=1)


def on_its_side(size: tuple[int, int]) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", size).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


LARGE = {
    "16-bit gray": zeros((4400, 4400), 16, 0, 1),
    "RGBA": zeros((4400, 4400), 8, 6, 4),
    "gray with alpha": zeros((4400, 4400), 8, 4, 2),
    "narrow": zeros((44, 440_000), 16, 0, 1),
    "turned": on_its_side((4400, 4400)),
}
MEASURE = """
import json, sys
from pathlib import Path
from bigmodel_helpers import measure
from bigmodel_helpers.data import read_image
files = [Path(name).read_bytes() for name in sys.argv[1:]]
print(json.dumps([min(measure.peak_memory(lambda: read_image(f), "cpu") for _ in range(2)) for f in files]))
"""


@pytest.fixture(scope="module")
def bytes_needed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Measure in a process of its own: in this one, earlier tests have set how memory is given back."""
    folder = tmp_path_factory.mktemp("large")
    for name, content in LARGE.items():
        (folder / name).write_bytes(content)
    command = [sys.executable, "-c", MEASURE, *(str(folder / name) for name in LARGE)]
    done = subprocess.run(command, capture_output=True, check=True, encoding="utf-8")
    return dict(zip(LARGE, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", LARGE)
def test_a_large_picture_takes_ten_bytes_per_pixel(name: str, bytes_needed: dict[str, int]) -> None:
    assert 0 < bytes_needed[name] < 10 * 19_000_000
