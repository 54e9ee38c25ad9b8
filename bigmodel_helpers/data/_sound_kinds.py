"""What a file of sound is by its first bytes, and whether it holds what its header promises."""

import io
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from bigmodel_helpers.data._files import seekable
from bigmodel_helpers.data._paths import expanded, own_name, refusal, why_not

HEAD = 1100  # bytes that are looked at
MOST_CHUNKS = 1000  # before the samples
MOST_PAGES = 100_000  # of an Ogg file that are looked at: more than ten minutes have
ENDLESS = 0x7F00_0000  # bytes; programs that write into a pipe put this or more, or 0, for "until the end"

#: What is opened. libsndfile knows twenty kinds more, which it takes for granted after a byte or two.
OPENED = re.compile(
    rb"RIF[FX].{4}WAVE|FORM.{4}AIF[FC]|\.snd|caff|fLaC|OggS|ID3|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]", re.DOTALL
)
#: What phones, browsers and recorders make and libsndfile does not read, and how such files end.
FOREIGN = {
    rb".{4}ftyp(M4A|M4B)": ("M4A", "m4a"),
    rb".{4}ftyp3g": ("3GP", "3gp"),
    rb".{4}(ftyp|moov|mdat|wide)": ("MP4 or MOV", "mp4"),
    rb"\x1a\x45\xdf\xa3": ("WebM or Matroska", "webm"),
    rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11": ("WMA", "wma"),
    rb"#!AMR": ("AMR", "amr"),
    rb"\xff[\xf0\xf1\xf8\xf9]|ADIF": ("AAC", "aac"),
    rb"\x02?#!SILK": ("SILK", "silk"),
    rb"OggS.{24}(Speex|\x80theora)": ("Speex or Theora", "ogg"),
    rb"wvpk": ("WavPack", "wv"),
    rb"MAC ": ("Monkey's Audio", "ape"),
    rb"RF64|BW64": ("RF64, a WAV of more than 4 GB", "wav"),
    rb"riff\x2e\x91\xcf\x11": ("Wave64", "w64"),
    rb"NIST_1A": ("NIST SPHERE", "sph"),
    rb"RIFF.{4}AVI |FLV\x01|\0\0\x01[\xb3\xba]": ("video", "avi"),
}
CURES = {
    rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP|BM.{4}\0\0\0\0": "a picture, not a sound: read_image reads it",
    rb"%PDF-": "PDF is a document, not a sound: pass a file of sound",
    rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf|\xfd7zXZ|BZh": "an archive, not a sound: unpack it first",
    rb"version https://git-lfs\.github\.com": "a note of Git LFS, not a sound: run git lfs pull",
    rb"(?i).{0,1000}(<!doctype html|<html)": "a web page, not a sound: download the sound itself",
    rb"MThd|RIFF.{4}RMID": "MIDI is notes, not a sound: render it as WAV",
    rb"\x93NUMPY": "an array, not a file of sound: pass (numpy.load(file), rate)",
}
RAW = re.compile(r"\.(raw|pcm|lpcm|s16|s16le|sw|ul|al|vox)$", re.IGNORECASE)
LAYER_3 = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
COUNT = re.compile(rb".{13,36}(?:Xing|Info)\0\0\0(.)(.{4})(.{4})", re.DOTALL)
SEVERAL = "several sounds one after the other, of which only the first would be read"
PAIR = "pass (np.fromfile(file, '<i2'), 16_000), say"
NOTHING = "no samples in it, a header only: record it again"


class SoundError(ValueError):
    """A sound that cannot be read, or not without a guess; its text is one line with name, cause and cure."""


@contextmanager
def opened(source: Any) -> Iterator[IO[bytes]]:
    """Yield a file object with something in it that can be sought; one that was handed in stays open."""
    if isinstance(source, str | os.PathLike):
        if cause := why_not(source, "sound"):
            raise SoundError(cause)
        with expanded(source).open("rb") as file:
            yield file
        return
    yield seekable(source, SoundError)


class Reader:
    """A file object as libsndfile may see it: of a fixed length, never short of bytes, without a name.

    An exception would be printed and swallowed in a callback of C, so it is kept in `error`.
    """

    def __init__(self, file: IO[bytes], length: int) -> None:
        self.file, self.length = file, length
        self.at = self.skip = 0
        self.before = b""
        self.patch: tuple[int, bytes] = (0, b"")  # a place, and bytes that are shown there
        self.counted = True  # whether the header counts the samples
        self.error: Exception | None = None

    def begin(self, skip: int, before: bytes) -> None:
        """Show `before` in place of the first `skip` bytes."""
        self.skip, self.before = skip, before
        self.length += len(before) - skip

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a byte; before the first one is none."""
        self.at = max(0, offset + (0, self.at, self.length)[whence])
        return self.at

    def tell(self) -> int:
        """Return the number of the next byte."""
        return self.at

    def read(self, count: int) -> bytes:
        """Return `count` bytes, fewer at the end only."""
        count = max(0, min(count, self.length - self.at))
        data = bytearray(self.before[self.at : self.at + count])
        try:
            if len(data) < count:
                self.file.seek(self.skip + self.at + len(data) - len(self.before))
            while len(data) < count and (piece := self.file.read(count - len(data))):
                data += piece
        except Exception as error:
            self.error = self.error or error
        del data[count:]
        for place, value in enumerate(self.patch[1], self.patch[0] - self.at):
            if 0 <= place < len(data):
                data[place] = value
        self.at += len(data)
        return bytes(data)


def check_kind(reader: Reader, name: str | None) -> None:
    """Look at the first bytes, and at the end of `name` where they say nothing.

    Raises:
        SoundError: the content is nothing that is opened.
    """
    reader.seek(0)
    head = reader.read(HEAD)
    for start, (kind, suffix) in FOREIGN.items():
        if re.match(start, head, re.DOTALL):
            raise SoundError(f"{kind}, which is not read here: convert it with ffmpeg -i x.{suffix} y.wav")
    if OPENED.match(head):
        return
    for start, cure in CURES.items():
        if re.match(start, head, re.DOTALL):
            raise SoundError(cure)
    if RAW.search(name or ""):
        raise SoundError(f"samples without a header, which would tell rate and kind: {PAIR}")
    if _is_text(head):
        raise SoundError("text, not a sound: pass a file of sound")
    raise SoundError("not a sound that can be read: save it as WAV or FLAC")


def _is_text(head: bytes) -> bool:
    try:
        head[: max(1, len(head) - 3)].decode()  # the last letter may be cut
    except UnicodeDecodeError:
        return False
    return not re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]", head)


def check_size(reader: Reader) -> None:
    """Compare the size of the sound in the header with what is there.

    What was written into a pipe has no true size in its header: libsndfile is shown the size of what is there.

    Raises:
        SoundError: the header promises more than there is, or it has no place for samples.
    """
    reader.seek(0)
    head = reader.read(12)
    found = _samples(reader, head)
    if found is None:
        return
    start, size, field, layout = found
    there = max(0, reader.length - start)
    riff = head.startswith(b"RIF")
    if size == 0 and riff and struct.unpack(layout, head[4:8])[0] + 8 == reader.length:
        raise SoundError(NOTHING)
    if size in (0, -1) or size >= ENDLESS:
        size = min(there, ENDLESS)
        reader.patch = (field, struct.pack(layout, size))
    if size > there:
        raise SoundError(f"ends early, {there:,} of {size:,} bytes of sound are there: get it again")
    if riff:
        reader.length = start + size


def _samples(reader: Reader, head: bytes) -> tuple[int, int, int, str] | None:
    """Return where samples start, their size in bytes, its place and its layout; Ogg and MP3 have no such size."""
    if head.startswith(b"RIF"):
        return _chunk(reader, 12, b"data", "<I" if head[3:4] == b"F" else ">I")
    if head.startswith(b"FORM"):
        return _chunk(reader, 12, b"SSND", ">I")
    if head.startswith(b"caff"):
        return _chunk(reader, 8, b"data", ">q")
    if head.startswith(b".snd") and len(head) == 12:
        return *struct.unpack(">II", head[4:]), 8, ">I"
    if head.startswith(b"OggS"):
        _check_pages(reader)
    elif head.startswith((b"ID3", b"\xff")):
        _check_frames(reader, head)
    return None


def _chunk(reader: Reader, at: int, wanted: bytes, layout: str) -> tuple[int, int, int, str]:
    """Find the chunk `wanted` from the byte `at` on."""
    head = struct.Struct(f"{layout[0]}4s{layout[1]}")
    for _ in range(MOST_CHUNKS):
        reader.seek(at)
        data = reader.read(head.size)
        if len(data) < head.size:
            raise SoundError("damaged, a header without samples: get it again")
        name, size = head.unpack(data)
        at += head.size
        if name == wanted:
            return at, size, at - head.size + 4, layout
        if size < 0:
            raise SoundError("damaged, a part of it has no size: get it again")
        at += size + (size % 2 if layout != ">q" else 0)
    raise SoundError(f"damaged, more than {MOST_CHUNKS:,} parts before the sound: get it again")


def _check_pages(reader: Reader) -> None:
    """Look for an Ogg page that is cut, and for a second sound: libsndfile passes over both in silence."""
    at, within = 0, False
    for _ in range(MOST_PAGES):
        reader.seek(at)
        page = reader.read(27 + 255)
        if not page.startswith(b"OggS"):
            return
        table = page[27 : 27 + page[26]] if len(page) > 26 else b""
        at += 27 + len(table) + sum(table)
        if len(page) < 27 or len(table) < page[26] or at > reader.length:
            raise SoundError("ends early, within a page: get it again")
        first = page[5] & 2
        if first and within:
            raise SoundError(f"{SEVERAL}: convert it with ffmpeg -i x.ogg y.wav")
        within = not first


def _check_frames(reader: Reader, head: bytes) -> None:
    """Hide the tags before an MP3 stream, and see whether its first frame counts the others.

    Where it does not, libsndfile guesses the number from the size of the first and stops there, which loses the end
    of files of variable bit rate. It is shown a frame that counts more than there are.
    """
    start = 0
    if head.startswith(b"ID3"):
        start = 10 + sum(part << shift for part, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
    reader.seek(start)
    frame = reader.read(60)
    if not LAYER_3.match(frame) or len(frame) < 60 or frame[2] & 0x0C == 0x0C:  # no such rate
        return
    count = COUNT.match(frame)
    flags = count[1][0] if count else 0
    if count and flags & 3 == 3:
        end = start + struct.unpack(">I", count[3])[0]
        reader.seek(end)
        if reader.length - end > 2000 and OPENED.match(reader.read(12)):
            raise SoundError(f"{SEVERAL}: convert it with ffmpeg -i x.mp3 y.wav")
    reader.counted = bool(flags & 1)
    reader.begin(start, b"" if reader.counted else _counting(frame))


def _counting(frame: bytes) -> bytes:
    """Return an MP3 frame of the kind of `frame`, without sound, that says that very many follow."""
    version = frame[1] >> 3 & 3  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    rate = (44_100, 48_000, 32_000)[frame[2] >> 2 & 3] >> (0 if version == 3 else 1 if version == 2 else 2)
    size = (144 * 320_000 if version == 3 else 72 * 160_000) // rate
    side = {(3, False): 32, (3, True): 17, (2, False): 17}.get((min(version or 2, 3), frame[3] >> 6 == 3), 9)
    head = bytes([0xFF, frame[1] | 1, 0xE0 | frame[2] & 0x0C, frame[3]])
    return (head + bytes(side) + b"Xing\0\0\0\1" + struct.pack(">I", 10**8)).ljust(size, b"\0")


def why(error: Exception, source: object) -> str:
    """Return cause and cure of what went wrong while a file was opened or decoded."""
    text = " ".join(str(getattr(error, "error_string", error)).split()).rstrip(".") or type(error).__name__
    if isinstance(error, MemoryError):
        return "more samples than fit in memory: cut it into pieces"
    if "closed" in text:
        return "closed before it was read: open it again"
    if isinstance(error, io.UnsupportedOperation):
        return f"no file object to read from ({text}): open it with 'rb'"
    if isinstance(error, OSError) and error.errno:
        return refusal(error, own_name(source) or "")
    if "does not exist" in text:  # libsndfile says so when it finds no frame of an MP3 stream
        text = "no sound in it"
    if re.search("unimplemented|unsupported|not supported|'fmt ' chunk", text, re.IGNORECASE):
        return f"damaged, or of a kind that libsndfile cannot read ({text}): try ffmpeg -i x.wav y.wav"
    return f"damaged ({text}): get it again"
