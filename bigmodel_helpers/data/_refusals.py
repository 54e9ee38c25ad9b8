"""Why a file is no picture, and what helps: one line for whatever Pillow or the system says of it."""

import io
import re
from pathlib import Path
from typing import IO

from PIL import Image

from bigmodel_helpers.data._paths import own_name, refusal

CURES = {
    rb"%!PS|\xc5\xd0\xd3\xc6": "PostScript is a program, not pixels: export it as PNG",
    rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF": "WMF and EMF are drawings, not pixels: export it as PNG",
    rb".{0,1000}%PDF-": "PDF is a document, not pixels: export the page as PNG",
    rb"(?i).{0,1000}(<!doctype html|<html)": "a web page, not a picture: download the picture itself",
    rb"(?i).{0,1000}<svg": "SVG is a drawing, not pixels: export it as PNG",
    rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf": "an archive, not a picture: unpack it first",
    rb"version https://git-lfs\.github\.com": "a note of Git LFS, not a picture: run git lfs pull",
    rb".{4}ftyp(iso|mp4|M4V|qt)": "a video, not a picture: save a frame of it as PNG",
    rb".{4}ftyp(he|mif1|msf1)": "HEIC needs a plugin: convert it to JPEG, or install pillow-heif and register its "
    "opener",
}
INFLATED = re.compile("text chunk|decompressed data too large", re.IGNORECASE)
DAMAGED = re.compile("truncated|checksum|crc|broken png|not enough", re.IGNORECASE)
UNKNOWN = re.compile("unsupported|unimplemented|not supported", re.IGNORECASE)


def not_a_picture(file: Path | IO[bytes]) -> str:
    """Return cause and cure for content that is no picture, from how it begins."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return not_a_picture(opened)
    file.seek(0)
    head = file.read(1100)
    cures = (cure for start, cure in CURES.items() if re.match(start, head, re.DOTALL))
    return next(cures, "not a picture that can be read: save it as JPEG or PNG")


def why(error: Exception, source: object) -> str:
    """Return cause and cure of what went wrong while a picture was opened or decoded."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels, which may be an attack: shrink it or raise PIL.Image.MAX_IMAGE_PIXELS and max_pixels"
    if isinstance(error, MemoryError):
        return "more pixels than fit in memory: shrink it"
    if "closed" in text or (
        isinstance(source, Image.Image) and isinstance(error, AssertionError | AttributeError)
    ):
        return "closed before it was read: open it again"
    if isinstance(error, io.UnsupportedOperation):
        return f"no file object to read from ({text}): open it with 'rb'"
    if isinstance(error, OSError) and error.errno:
        return refusal(error, own_name(source) or "")
    if INFLATED.search(text):
        return "more than 1 MB of text or of a color profile in it: save it without"
    if DAMAGED.search(text):
        return f"damaged ({text}): get the file again"
    if isinstance(error, NotImplementedError) or UNKNOWN.search(text):
        return f"of a kind that Pillow cannot read ({text}): save it as JPEG or PNG"
    return f"damaged or of a kind that Pillow cannot read ({text}): get it again, or save it as JPEG or PNG"
