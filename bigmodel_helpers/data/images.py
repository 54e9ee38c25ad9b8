"""From any picture to plain RGB pixels, or to one clear line that says why not. Introduced in chapter 5."""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

MAX_PIXELS = 100_000_000  # 300 MB as RGB
WHITE = (255, 255, 255)
CURES = {
    ".heic": "HEIC needs a plugin: convert it to JPEG, or install pillow-heif and register its opener",
    ".heif": "HEIF needs a plugin: convert it to JPEG, or install pillow-heif and register its opener",
    ".svg": "SVG is a drawing, not pixels: export it as PNG",
    ".pdf": "PDF is a document, not pixels: export the page as PNG",
}


class ImageError(ValueError):
    """A picture that cannot be read, or not without a guess; its text is one line with name, cause and cure."""


def read_image(
    source: str | Path | bytes | Image.Image,
    *,
    background: tuple[int, int, int] = WHITE,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Return a picture as upright 8-bit RGB in sRGB colors.

    The orientation that the camera noted (EXIF) is applied; a color profile is converted to sRGB; transparent
    pixels get the color `background`; gray is copied to three channels; 16-bit values are divided by 257; of an
    animation the first frame is taken.

    Args:
        source: a file, the bytes of a file, or an open picture.
        background: red, green and blue, 0 to 255.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        ImageError: the source is missing, not a picture, damaged, too large, or of a kind whose values have no
            certain meaning (floats outside 0 to 1, more than 16 bits).
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, getattr(source, "filename", "") or "the picture", background, max_pixels)
    name = "the bytes" if isinstance(source, bytes) else str(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; what matters is refused below
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
                return _to_rgb(picture, name, background, max_pixels)
        except ImageError:
            raise
        except (Image.DecompressionBombError, MemoryError):
            raise ImageError(
                f"{name}: too many pixels, which may be an attack: shrink it or raise max_pixels"
            ) from None
        except FileNotFoundError:
            raise ImageError(f"{name}: no such file: check the path") from None
        except IsADirectoryError:
            raise ImageError(f"{name}: a folder, not a picture: pass its files") from None
        except UnidentifiedImageError:
            raise ImageError(f"{name}: {_not_a_picture(source)}") from None
        except PermissionError:  # also what Windows says of a folder
            folder = not isinstance(source, bytes) and Path(source).is_dir()
            why = (
                "a folder, not a picture: pass its files" if folder else "may not be read: change its rights"
            )
            raise ImageError(f"{name}: {why}") from None
        except Exception as error:  # Pillow's decoders raise almost anything on damaged files
            cause = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"{name}: damaged ({cause}): get the file again") from None


def _not_a_picture(source: str | Path | bytes) -> str:
    if not isinstance(source, bytes):
        if Path(source).stat().st_size == 0:
            return "an empty file: get it again"
        if cure := CURES.get(Path(source).suffix.lower()):
            return cure
    return "not a picture that Pillow can read: save it as JPEG or PNG"


def _to_rgb(
    picture: Image.Image, name: str, background: tuple[int, int, int], max_pixels: int
) -> Image.Image:
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageError(f"{name}: {width:,} x {height:,} pixels are too many: shrink it or raise max_pixels")
    if width * height == 0:
        raise ImageError(f"{name}: no pixels at all: get the file again")
    if getattr(picture, "n_frames", 1) > 1 and picture.tell() != 0 and picture.format is not None:
        picture.seek(0)
    picture.load()
    icc = picture.info.get("icc_profile")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = _to_8_bits(picture, name)
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        colors = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", colors.size, (*background, 255)), colors)
    elif icc and (converted := _to_srgb(picture, icc)) is not None:
        return converted
    return picture.convert("RGB")


def _to_8_bits(picture: Image.Image, name: str) -> Image.Image:
    """Scale gray values of 16 bits or of floats in 0 to 1 to 8 bits, rounded; `convert` would clip them."""
    values = np.asarray(picture, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    top = 1.0 if picture.mode == "F" else 65535.0
    if not (0 <= low <= high <= top):
        raise ImageError(
            f"{name}: gray values from {low:g} to {high:g} have no certain scale: save it as PNG"
        )
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


def _to_srgb(picture: Image.Image, icc: bytes) -> Image.Image | None:
    """Convert from the embedded color profile, or return None where the profile does not fit the picture."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        return ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def to_pixels(picture: Image.Image) -> Tensor:
    """Return the pixels of an RGB picture as uint8 (3, H, W), contiguous."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def to_picture(pixels: Tensor) -> Image.Image:
    """Return pixels (3, H, W) or (1, H, W), uint8 or float in 0 to 1, as an RGB picture.

    Raises:
        ImageError: another shape or dtype, or floats outside 0 to 1 (normalized images, say).
    """
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise ImageError(f"a tensor of shape {tuple(pixels.shape)}: pass (3, H, W) or a batch (B, 3, H, W)")
    if pixels.is_floating_point():
        low, high = pixels.min().item(), pixels.max().item()
        if not (0 <= low <= high <= 1):
            raise ImageError(
                f"a float tensor from {low:.3g} to {high:.3g}: pass 0 to 1, before normalization, or uint8"
            )
        pixels = (pixels.float() * 255).round().to(torch.uint8)
    if pixels.dtype != torch.uint8:
        raise ImageError(f"a tensor of {pixels.dtype}: pass uint8, or floats from 0 to 1")
    return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().contiguous().numpy())
