"""From any picture to plain RGB pixels, or to one clear line that says why not. Introduced in chapter 5."""

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from bigmodel_helpers.data._files import seekable
from bigmodel_helpers.data._paths import expanded, own_name, shown, why_not
from bigmodel_helpers.data._refusals import not_a_picture, why

MAX_PIXELS = 100_000_000  # 400 MB as Pillow keeps RGB
WHITE = (255, 255, 255)
TILE = 2**20  # pixels that are converted together

COMMON = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "ICO", "CUR", "ICNS", "PSD")
#: What is opened: files of pixels. For others (EPS, WMF) Pillow starts a program, which a stranger's file may steer.
FORMATS = (*COMMON, "DDS", "PCX", "DCX", "QOI", "SGI", "SUN", "XBM", "XPM", "TGA")
PLUGINS = ("AVIF", "HEIF", "JXL")  # where Pillow is new enough, or the reader has registered one

DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # modes with more than 8 bits
GRAY = ("1", "L", "LA", "La", *DEEP)

KINDS = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Tensor, Image.Image)
Source = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | np.ndarray | Tensor | Image.Image
)


class ImageError(ValueError):
    """A picture that cannot be read, or not without a guess; its text is one line with name, cause and cure."""


def read_image(
    source: Source,
    *,
    background: tuple[int, int, int] = WHITE,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Return a picture as upright 8-bit RGB in sRGB colors.

    The orientation that the camera noted (EXIF) is applied; a color profile is converted to sRGB, or left out where
    it does not fit the picture; transparent pixels get the color `background`; gray is copied to three channels;
    16-bit values are divided by 257; of an animation the first frame is taken, of an open picture its current one.

    Only files of pixels are opened, whatever their names say: JPEG, PNG, GIF, WebP, TIFF and a dozen more. Colors are
    converted in tiles: a picture takes 8 bytes per pixel, besides what the decoder of its format needs for itself.

    Args:
        source: a file, the bytes of a file, a file object open in binary mode, an array (H, W), (H, W, 3) or
            (H, W, 4), a tensor (3, H, W) or (1, H, W), both uint8 or float in 0 to 1, or an open picture.
        background: red, green and blue, 0 to 255.
        max_pixels: larger pictures are refused before they are decoded. Above 179 million, Pillow's own limit
            `PIL.Image.MAX_IMAGE_PIXELS` must be raised, too.

    Raises:
        ImageError: the source is missing, not a picture, damaged, too large, or of a kind whose values have no
            certain meaning (floats outside 0 to 1, more than 16 bits).
        TypeError: the source is none of the above.
        ValueError: `background` is no color, or `max_pixels` is below 1.
    """
    if not isinstance(source, KINDS) and not hasattr(source, "read"):
        raise TypeError(f"a {type(source).__name__} is no picture: pass a file, its bytes or an open picture")
    if len(background) != 3 or not all(part in range(256) for part in background):
        raise ValueError(f"background {background}: pass red, green and blue, 0 to 255")
    if max_pixels < 1:
        raise ValueError(f"max_pixels {max_pixels}: pass 1 or more")
    name = "" if isinstance(source, np.ndarray | Tensor) else f"{_name(source)}: "
    with _silence():
        try:
            rgb = _read(source, background, max_pixels)
            ImageOps.exif_transpose(rgb, in_place=True)
            return rgb
        except ImageError as error:
            raise ImageError(f"{name}{error}") from None
        except Exception as error:  # Pillow's decoders raise almost anything on damaged files
            raise ImageError(f"{name}{why(error, source)}") from None


_silent: list[warnings.catch_warnings] = []  # what puts the filters back, once for each thread that reads
_lock = threading.Lock()


@contextmanager
def _silence() -> Iterator[None]:
    """Hush Pillow's remarks on odd files; of threads that overlap, the last one puts the filters back."""
    with _lock:
        _silent.append(_silent[0] if _silent else warnings.catch_warnings(action="ignore"))
        if len(_silent) == 1:
            _silent[0].__enter__()
    try:
        yield
    finally:
        with _lock:
            last = _silent.pop()
            if not _silent:
                last.__exit__(None, None, None)


def _name(source: Source) -> str:
    if isinstance(source, bytes | bytearray | memoryview):
        return "the bytes"
    nameless = "the picture" if isinstance(source, Image.Image) else "the file object"
    return shown(own_name(source) or nameless)


def _read(source: Source, background: tuple[int, int, int], max_pixels: int) -> Image.Image:
    """Return the picture as RGB, not yet turned upright; what was decoded is let go then."""
    if isinstance(source, Tensor):
        source = to_picture(source)
    elif isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, Image.Image):
        if source.format and source.format.upper() not in (*FORMATS, *PLUGINS, "MPO"):
            raise ImageError(
                f"an open picture of the kind {source.format}, which is not read: save it as PNG"
            )
        return _to_rgb(source, background, max_pixels)
    file = _openable(source)
    Image.init()
    try:
        with Image.open(
            file, formats=[each for each in (*PLUGINS, *FORMATS) if each in Image.OPEN]
        ) as picture:
            return _to_rgb(picture, background, max_pixels)
    except UnidentifiedImageError:
        raise ImageError(not_a_picture(file)) from None


def _openable(source: Any) -> Path | IO[bytes]:
    """Return a file, or a file object with something in it that can be sought."""
    if isinstance(source, str | os.PathLike):
        if cause := why_not(source):
            raise ImageError(cause)
        return expanded(source)
    return seekable(source, ImageError)


def _check(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(f"{width:,} x {height:,} pixels are too many: shrink it or raise max_pixels")
    if width * height == 0:
        raise ImageError("no pixels at all: get it again")


def _to_rgb(picture: Image.Image, background: tuple[int, int, int], max_pixels: int) -> Image.Image:
    """Return RGB in sRGB colors, tile by tile, with a note how it must be turned."""
    _check(picture.size, max_pixels)
    tiles = getattr(picture, "tile", None) if picture.format == "PNG" else None
    packed = str(tiles[0][3]) if tiles else ""  # how the file packs its values; Pillow forgets it in load()
    picture.load()
    gray = picture.mode in GRAY or packed == "LA;16B"
    colors = "L" if gray else picture.mode if picture.mode in ("CMYK", "LAB") else "RGB"
    transform = _srgb_transform(picture.info.get("icc_profile"), colors)
    clear = _clear_value(picture.info.get("transparency"), packed)
    rgb = Image.new("RGB", picture.size)
    wide = min(picture.width, TILE)
    high = max(1, TILE // wide)
    for left, top in product(range(0, picture.width, wide), range(0, picture.height, high)):
        box = (left, top, min(left + wide, picture.width), min(top + high, picture.height))
        tile, alpha = _without_alpha(picture.crop(box), clear)
        tile = tile.convert(colors)
        tile = ImageCms.applyTransform(tile, transform) if transform else tile.convert("RGB")
        if alpha is not None:
            tile.putalpha(alpha)
            tile = Image.alpha_composite(
                Image.new("RGBA", tile.size, (*map(int, background), 255)), tile
            ).convert("RGB")
        rgb.paste(tile, box)
    with suppress(Exception):  # a note that cannot be read says nothing
        rgb.getexif()[ExifTags.Base.Orientation] = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return rgb


def _clear_value(value: Any, packed: str) -> Any:
    """Return the color that a PNG calls transparent on the scale of the decoded pixels; Pillow keeps the file's."""
    if value is None or isinstance(value, bytes):
        return value
    if packed == "RGB;16B":
        return tuple(part >> 8 for part in value)
    return int(value > 0) * 255 if packed == "1" else value * {"L;2": 85, "L;4": 17}.get(packed, 1)


def _without_alpha(tile: Image.Image, clear: Any) -> tuple[Image.Image, Image.Image | None]:
    """Return a tile with 8 bits per value, and its transparency where it has one."""
    if tile.mode in DEEP:
        values = np.asarray(tile, dtype=np.float64)
        alpha = None if clear is None else Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
        return _to_8_bits(values, 1.0 if tile.mode == "F" else 65535.0), alpha
    if clear is not None:
        tile.info["transparency"] = clear
    if tile.mode == "La":
        tile = tile.convert("LA")
    if clear is not None or tile.mode in ("LA", "PA", "RGBA", "RGBa"):
        tile = tile.convert("RGBA")
        return tile, tile.getchannel("A")
    return tile, None


def _to_8_bits(values: np.ndarray, top: float) -> Image.Image:
    """Scale gray values of 16 bits or of floats in 0 to 1 to 8 bits, rounded; `convert` would clip them."""
    low, high = float(values.min()), float(values.max())
    if not (0 <= low <= high <= top):
        raise ImageError(f"gray values from {low:g} to {high:g} have no certain scale: save it as PNG")
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


def _srgb_transform(icc: Any, colors: str) -> ImageCms.ImageCmsTransform | None:
    """Return what converts `colors` with the embedded profile to sRGB, or None where there is none that fits."""
    if not icc and colors != "LAB":
        return None
    try:
        profile = (
            ImageCms.createProfile("LAB") if colors == "LAB" else ImageCms.ImageCmsProfile(io.BytesIO(icc))
        )
        return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), colors, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def to_pixels(picture: Image.Image) -> Tensor:
    """Return the pixels of an RGB picture as uint8 (3, H, W), contiguous."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def to_picture(pixels: Tensor) -> Image.Image:
    """Return pixels (3, H, W) or (1, H, W), uint8 or float in 0 to 1, as an RGB picture.

    Raises:
        ImageError: another shape or dtype, or floats outside 0 to 1 (normalized images, say).
        TypeError: no tensor; `read_image` takes arrays, too.
    """
    if not isinstance(pixels, Tensor):
        raise TypeError(f"a {type(pixels).__name__} is no tensor: pass one, or call read_image")
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise ImageError(f"a tensor of shape {tuple(pixels.shape)}: pass (3, H, W) or a batch (B, 3, H, W)")
    if pixels.is_meta or pixels.is_quantized or pixels.layout != torch.strided:
        raise ImageError(f"a tensor on {pixels.device}, {pixels.layout}: pass its dense values")
    values = pixels.detach().cpu().expand(3, -1, -1).permute(1, 2, 0)
    return _from_array((values.float() if values.is_floating_point() else values).numpy(), "a tensor")


def _from_array(values: np.ndarray, kind: str = "an array") -> Image.Image:
    """Return values (H, W) or (H, W, 1 to 4), uint8 or float in 0 to 1, as a picture of 8 bits per value."""
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 2, 3, 4))):
        raise ImageError(f"{kind} of shape {values.shape}: pass (H, W), (H, W, 3) or (H, W, 4)")
    if values.size == 0:
        raise ImageError(f"{kind} of shape {values.shape} has no pixels: pass some")
    if np.issubdtype(values.dtype, np.floating):
        low, high = values.min(), values.max()
        if not (0 <= low <= high <= 1):
            raise ImageError(
                f"{kind} of floats from {low:.3g} to {high:.3g}: pass 0 to 1, before normalization, or uint8"
            )
        values = np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    if values.dtype != np.uint8:
        raise ImageError(f"{kind} of {values.dtype}: pass uint8, or floats from 0 to 1")
    return Image.fromarray(values[:, :, 0] if values.ndim == 3 and values.shape[2] == 1 else values)
