"""Makes picture files that go wrong in practice: the name, the file, and what reading it must give."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageCms, PngImagePlugin

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n{} loop\n"
ORANGE, WHITE = (240, 120, 30), (255, 255, 255)
Expected = (
    tuple[tuple[int, int], tuple[int, int, int]] | str
)  # size and color at the top left, or part of the refusal


def scene(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    """A picture whose top left quarter is orange and whose rest is dark blue."""
    picture = Image.new("RGB", size, (10, 20, 60))
    picture.paste(ORANGE, (0, 0, size[0] // 2, size[1] // 2))
    return picture.convert(mode)


def make_all(folder: Path) -> dict[str, Expected]:
    """Write every file into `folder`; returns what is expected of each, by file name."""
    whole = ((60, 40), ORANGE)
    gray = (round(0.299 * 240 + 0.587 * 120 + 0.114 * 30),) * 3
    expected: dict[str, Expected] = {}

    def put(
        name: str, want: Expected, data: bytes | None = None, picture: Image.Image | None = None, **options
    ):
        if picture is not None:
            picture.save(folder / name, **options)
        else:
            (folder / name).write_bytes(data or b"")
        expected[name] = want

    for name in ("plain.png", "plain.bmp", "plain.jpg", "plain.tif", "plain.ppm", "plain.tga"):
        put(name, whole, picture=scene())
    put("progressive.jpg", whole, picture=scene(), progressive=True, quality=95)
    put("lossless.webp", whole, picture=scene(), lossless=True)
    put("capital.JPG", whole, picture=scene())
    put("wrong_suffix.jpg", whole, data=_bytes(scene(), "PNG"))
    put("name with spaces é.png", whole, picture=scene())

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        put(
            f"exif_{orientation}.jpg",
            whole,
            picture=_turned_back(scene(), orientation),
            exif=exif,
            quality=95,
            subsampling=0,
        )
    for mode, name in (("L", "gray.png"), ("L", "gray.jpg")):
        put(name, ((60, 40), gray), picture=scene(mode))
    put("one_bit.png", ((60, 40), WHITE), picture=Image.new("1", (60, 40), 1))
    put("palette.png", whole, picture=scene().quantize(8))
    put("cmyk.jpg", whole, picture=scene("CMYK"), quality=95)
    put("cmyk.tif", whole, picture=scene("CMYK"))
    if int(PIL.__version__.partition(".")[0]) >= 11:  # older ones cannot read what they write
        put("ycbcr.tif", whole, picture=scene("YCbCr"))

    clear = scene("RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 0))
    for name in ("alpha.png", "alpha.webp", "alpha.tif"):
        put(name, ((60, 40), WHITE), picture=clear, **({"lossless": True} if name.endswith("webp") else {}))
    put("gray_alpha.png", ((60, 40), WHITE), picture=Image.new("LA", (60, 40), (0, 0)))
    put("palette_transparent.gif", ((60, 40), WHITE), picture=Image.new("P", (60, 40), 0), transparency=0)
    half = Image.new("RGBA", (60, 40), (0, 0, 0, 128))
    put("half_transparent.png", ((60, 40), (127, 127, 127)), picture=half)

    deep = Image.fromarray(np.full((40, 60), 32896, np.uint16))  # 128 * 257
    put("16_bit_gray.png", ((60, 40), (128, 128, 128)), picture=deep)
    put("16_bit_gray.tif", ((60, 40), (128, 128, 128)), picture=deep)
    put("16_bit_rgb.png", ((2, 1), (128, 64, 255)), data=_png_16_bit_rgb((128, 64, 255)))
    floats = Image.fromarray(np.full((40, 60), 0.5, np.float32))
    put("float.tif", ((60, 40), (128, 128, 128)), picture=floats)
    put(
        "float_any_range.tif",
        "no certain scale",
        picture=Image.fromarray(np.full((40, 60), 900.0, np.float32)),
    )
    put("lab.tif", ((60, 40), (85, 96, 72)), picture=_lab())

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    put("srgb_profile.jpg", whole, picture=scene(), icc_profile=profile, quality=95)
    put("broken_profile.jpg", whole, picture=scene(), icc_profile=b"not a profile", quality=95)

    frames = [Image.new("RGB", (60, 40), color) for color in (ORANGE, (0, 0, 0), (9, 9, 9))]
    for name in ("animated.gif", "animated.png", "animated.webp", "pages.tif"):
        lossless = {"lossless": True} if name.endswith("webp") else {}
        put(name, whole, picture=frames[0], save_all=True, append_images=frames[1:], **lossless)

    put("one_pixel.png", ((1, 1), ORANGE), picture=Image.new("RGB", (1, 1), ORANGE))
    put("line.png", ((1, 5000), ORANGE), picture=Image.new("RGB", (1, 5000), ORANGE))
    put("large.png", ((4000, 3000), ORANGE), picture=Image.new("RGB", (4000, 3000), ORANGE))
    put("bomb.png", "too many", data=_bomb(60_000))
    put("bigger_than_allowed.png", "too many", data=_bomb(10_001))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    for name, kind in (("truncated.jpg", "JPEG"), ("truncated.png", "PNG"), ("truncated.gif", "GIF")):
        data = _bytes(noise, kind)
        put(name, "damaged", data=data[: len(data) // 2])
    data = bytearray(_bytes(noise, "PNG"))
    data[len(data) // 2] ^= 0xFF
    put("flipped_byte.png", "damaged", data=bytes(data))
    info = PngImagePlugin.PngInfo()
    info.add_text("long", "x" * 3_000_000, zip=True)
    put("text_bomb.png", "more than 1 MB of text", picture=scene(), pnginfo=info)
    put("layers.psd", ((6, 4), ORANGE), data=layered_psd())

    put("postscript.jpg", "PostScript is a program", data=POSTSCRIPT)
    put("drawing_wmf.png", "WMF and EMF are drawings", data=b"\xd7\xcd\xc6\x9a" + bytes(60))
    put("drawing_emf.png", "WMF and EMF are drawings", data=b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(60))
    for name, data in _of_a_rare_kind().items():
        put(name, "of a kind that Pillow cannot read", data=data)
    put("empty.jpg", "empty")
    put("header_only.jpg", "not a picture", data=b"\xff\xd8\xff\xe0")
    put("page.jpg", "not a picture", data=b"<!DOCTYPE html><html>404 not found</html>")
    put("archive.png", "not a picture", data=b"PK\x03\x04" + bytes(60))
    put("drawing.svg", "SVG is a drawing", data=b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    put("photo.heic", "HEIC needs a plugin", data=b"\x00\x00\x00\x18ftypheic" + bytes(40))
    put("document.pdf", "PDF is a document", data=b"%PDF-1.7\n")
    (folder / "folder.jpg").mkdir()
    expected["folder.jpg"] = "a folder"
    expected["missing.jpg"] = "no such file"
    return expected


def layered_psd(size: tuple[int, int] = (6, 4)) -> bytes:
    """A Photoshop file: two dark layers, and the picture that they make together, which is orange."""
    pixels = size[0] * size[1]
    records = values = b""
    for _ in range(2):
        channels = b"".join(struct.pack(">hI", channel, 2 + pixels) for channel in range(3))
        records += struct.pack(">4iH", 0, 0, size[1], size[0], 3) + channels
        records += b"8BIMnorm\xff\0\0\0" + struct.pack(">III", 12, 0, 0) + b"\3abc"
        values += (bytes(2) + b"\t" * pixels) * 3
    layers = struct.pack(">h", 2) + records + values
    layers += bytes(len(layers) % 2)
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, size[1], size[0], 8, 3)
    whole = bytes(2) + b"".join(bytes([value]) * pixels for value in ORANGE)
    return header + struct.pack(">IIII", 0, 0, len(layers) + 4, len(layers)) + layers + whole


def _of_a_rare_kind() -> dict[str, bytes]:
    """Whole files that say they are of a kind for which Pillow has no decoder."""
    bmp, dds, tiff = (bytearray(_bytes(scene(), kind)) for kind in ("BMP", "DDS", "TIFF"))
    bmp[30] = 3  # bit fields
    dds[80:88] = struct.pack("<I", 4) + b"ODDS"
    entry = tiff.index(struct.pack("<HHI", 259, 3, 1))
    tiff[entry + 8 : entry + 10] = struct.pack("<H", 50001)  # WebP
    return {"bit_fields.bmp": bytes(bmp), "dds.png": bytes(dds), "webp_inside.tif": bytes(tiff)}


def _bytes(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def _turned_back(picture: Image.Image, orientation: int) -> Image.Image:
    """Store the picture so that a viewer that obeys `orientation` shows it upright."""
    turn = Image.Transpose
    undo = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }
    return picture.transpose(undo[orientation]) if orientation in undo else picture


def _lab() -> Image.Image:
    return Image.merge("LAB", [Image.new("L", (60, 40), value) for value in (100, 120, 140)])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    size: tuple[int, int], bits: int, color: int, rows: bytes, *extra: tuple[bytes, bytes], level: int = -1
) -> bytes:
    """A PNG of packed rows, each with its filter byte; `extra` chunks come before the pixels."""
    header = struct.pack(">IIBBBBB", *size, bits, color, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows, level)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _png_16_bit_rgb(color: tuple[int, int, int]) -> bytes:
    pixel = b"".join(struct.pack(">H", value * 257) for value in color)
    return png((2, 1), 16, 2, b"\x00" + pixel * 2)


def _bomb(side: int) -> bytes:
    """A small file that says it is `side` x `side` black pixels; only its header is ever read."""
    return png((side, side), 1, 0, bytes(1000))


def color_profile(space: str) -> bytes:
    """A small ICC profile for `space`, "RGB ", "GRAY" or "CMYK", whose colors are far from those of sRGB."""
    tags = {"wtpt": _xyz(0.9642, 1, 0.8249)}
    if space == "RGB ":  # the primaries and the gamma of ProPhoto
        tags |= {
            "rXYZ": _xyz(0.7977, 0.2880, 0),
            "gXYZ": _xyz(0.1352, 0.7119, 0),
            "bXYZ": _xyz(0.0313, 0, 0.8249),
        }
        tags |= dict.fromkeys(("rTRC", "gTRC", "bTRC"), b"curv" + struct.pack(">4xIH", 1, 0x1CD))
    elif space == "GRAY":  # linear
        tags["kTRC"] = b"curv" + bytes(8)
    else:
        ramp = bytes(range(256))
        lab = bytes(value for ink in range(16) for value in (255 - 17 * ink, 128 + ink, 128 - ink))
        matrix = struct.pack(">9i", *(65536 * (place % 4 == 0) for place in range(9)))
        tags["A2B0"] = b"mft1" + bytes([0, 0, 0, 0, 4, 3, 2, 0]) + matrix + ramp * 4 + lab + ramp * 3
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name.encode() + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    kind, connected = (b"prtr", b"Lab ") if space == "CMYK" else (b"mntr", b"XYZ ")
    head = struct.pack(">I4xI", start + len(body), 0x02100000) + kind + space.encode() + connected + bytes(12)
    head += b"acsp" + bytes(28) + _xyz(0.9642, 1, 0.8249)[8:]
    return head.ljust(128, b"\0") + table + body


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))
