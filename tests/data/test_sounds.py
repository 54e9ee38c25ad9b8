"""Every awkward file of sound is read right, or refused in one line that says why."""

import io
import os
import re
import struct
import sys
import tarfile
import time
import tracemalloc
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from bigmodel_helpers.data import SoundError, _sound_kinds, read_sound, record_sound, sounds

RATE = 16_000
SECONDS = 0.5


def wave(rate: int = RATE) -> np.ndarray:
    """Two tones that swell and fade, as float64; known at each rate."""
    time = np.arange(round(SECONDS * rate)) / rate
    tones = 0.5 * np.sin(2 * np.pi * 440 * time) + 0.25 * np.sin(2 * np.pi * 1234 * time + 1)
    return tones * np.sin(np.pi * time / SECONDS) ** 2


def ints(values: np.ndarray, kind: str = "<i2") -> bytes:
    return np.rint(values * (np.iinfo(kind).max)).astype(kind).tobytes()


def chunk(name: bytes, content: bytes, size: int | None = None) -> bytes:
    size = len(content) if size is None else size
    return name + struct.pack("<I", size) + content + b"\0" * (len(content) % 2)


def wav(
    data: bytes,
    *,
    rate: int = RATE,
    channels: int = 1,
    bits: int = 16,
    tag: int = 1,
    size: int | None = None,
    riff: int | None = None,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A WAV file with what headers can say; `size` and `riff` are the sizes that it claims."""
    block = min(65535, channels * bits // 8)
    form = struct.pack("<HHIIHH", tag, channels & 0xFFFF, rate, rate * block & 0xFFFFFFFF, block, bits)
    body = b"WAVE" + chunk(b"fmt ", form) + before + chunk(b"data", data, size) + after
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def file_of(
    kind: str, subtype: str | None = None, rate: int = RATE, values: np.ndarray | None = None, **more: str
) -> bytes:
    """A file from libsndfile's own writers."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave(rate) if values is None else values, rate, subtype, format=kind, **more)
    return buffer.getvalue()


def shares(count: int) -> np.ndarray:
    """Channels that have the wave as their mean."""
    return wave()[:, None] * np.linspace(0.7, 1.3, count)


def patched(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


FLAC, OGG, MP3 = file_of("FLAC"), file_of("OGG", "VORBIS"), file_of("MP3")
LONG_MP3 = file_of("MP3", values=np.tile(wave(), 4))
AIFF, AU, CAF = (file_of(kind, "PCM_16") for kind in ("AIFF", "AU", "CAF"))
PLAIN = wav(ints(wave()))
SSND = AIFF.index(b"SSND") + 4
CAF_DATA = CAF.index(b"data") + 4
ODD = chunk(b"note", b"odd")  # 3 bytes, and one that fills up
LISTED = chunk(b"LIST", b"INFOISFT\x04\0\0\0abc\0")

TAG = b"ID3\x03\0\0\0\0\0\x0aTIT2\0\0\0\0\0\0"

EXACT, FINE = 0.99999, 0.999  # correlations
READ: dict[str, tuple[bytes, float]] = {
    "plain.wav": (PLAIN, EXACT),
    "stereo.wav": (file_of("WAV", "PCM_16", values=shares(2)), EXACT),
    "surround.wav": (file_of("WAV", "PCM_16", values=shares(6)), EXACT),
    "surround.flac": (file_of("FLAC", values=shares(6)), EXACT),
    "8_bits.wav": (file_of("WAV", "PCM_U8"), FINE),
    "24_bits.wav": (file_of("WAV", "PCM_24"), EXACT),
    "32_bits.wav": (file_of("WAV", "PCM_32"), EXACT),
    "float.wav": (file_of("WAV", "FLOAT"), EXACT),
    "double.wav": (file_of("WAV", "DOUBLE"), EXACT),
    "mu_law.wav": (file_of("WAV", "ULAW"), FINE),
    "a_law.wav": (file_of("WAV", "ALAW"), FINE),
    "ima_adpcm.wav": (file_of("WAV", "IMA_ADPCM"), FINE),
    "ms_adpcm.wav": (file_of("WAV", "MS_ADPCM"), FINE),
    "gsm.wav": (file_of("WAV", "GSM610"), 0.9),
    "extensible.wav": (file_of("WAVEX", "PCM_24"), EXACT),
    "big_endian.wav": (file_of("WAV", "PCM_16", endian="BIG"), EXACT),
    "big_endian.aiff": (AIFF, EXACT),
    "8_bits.aiff": (file_of("AIFF", "PCM_S8"), FINE),
    "little_endian.aifc": (file_of("AIFF", "PCM_16", endian="LITTLE"), EXACT),
    "big_endian.au": (AU, EXACT),
    "mu_law.au": (file_of("AU", "ULAW"), FINE),
    "apple.caf": (CAF, EXACT),
    "apple_lossless.caf": (file_of("CAF", "ALAC_16"), EXACT),
    "free.flac": (FLAC, EXACT),
    "24_bits.flac": (file_of("FLAC", "PCM_24"), EXACT),
    "vorbis.ogg": (OGG, FINE),
    "opus.opus": (file_of("OGG", "OPUS"), FINE),
    "opus_48000.ogg": (file_of("OGG", "OPUS", 48_000), FINE),
    "layer_3.mp3": (MP3, FINE),
    "layer_3_44100.mp3": (file_of("MP3", rate=44_100), FINE),
    **{
        f"rate_{rate}.wav": (file_of("WAV", "PCM_24", rate), EXACT)
        for rate in (8000, 11_025, 22_050, 44_100, 48_000, 96_000, 384_000)
    },
    "odd_rate.wav": (file_of("WAV", "PCM_24", 44_101), EXACT),
    "flac_named.wav": (FLAC, EXACT),
    "UPPER.WAV": (PLAIN, EXACT),
    "a_wav_named.raw": (PLAIN, EXACT),
    "no_suffix": (PLAIN, EXACT),
    "new\nline 😀 ünï.wav": (PLAIN, EXACT),
    "chunks_before.wav": (wav(ints(wave()), before=ODD + LISTED), EXACT),
    "chunks_after.wav": (wav(ints(wave()), after=LISTED + ODD), EXACT),
    "second_data_after.wav": (wav(ints(wave()), after=chunk(b"data", bytes(1000))), EXACT),
    "rubbish_after.wav": (PLAIN + bytes(range(256)) * 3, EXACT),
    "rubbish_in_riff_size.wav": (wav(ints(wave()), riff=99), EXACT),
    **{
        f"pipe_{size:x}_{riff:x}.wav": (wav(ints(wave()), size=size, riff=riff), EXACT)
        for size, riff in (
            (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg
            (0x7FFFF000, 0x7FFFF024),  # espeak-ng --stdout, sox
            (0x80000000, 0x80000024),  # arecord
            (0x7FFFFFFF, 0x7FFFFFFF),
            (0, 36),  # Python's own module wave
            (0, 0),
            (0, 0xFFFFFFFF),
        )
    },
    "pipe_with_list.wav": (wav(ints(wave()), size=0xFFFFFFFF, riff=0xFFFFFFFF, before=LISTED), EXACT),
    "pipe.au": (patched(AU, 8, b"\xff" * 4), EXACT),
    "pipe_0.au": (patched(AU, 8, bytes(4)), EXACT),
    "pipe.aiff": (patched(AIFF, SSND, b"\x7f\0\0\x08"), EXACT),
    "pipe.caf": (patched(CAF, CAF_DATA, b"\xff" * 8), EXACT),
    "pipe.flac": (patched(FLAC, 21, bytes([FLAC[21] & 0xF0, 0, 0, 0, 0])), EXACT),
    "tagged.mp3": (TAG + MP3, FINE),
}


def check(sound: torch.Tensor, name: str, least: float) -> None:
    """Compare with the known wave: samples, scale and shape; lossy formats may add a part of a frame."""
    wanted = wave()
    assert sound.dtype == torch.float32
    assert sound.ndim == 1
    assert sound.is_contiguous()
    longer = len(sound) - len(wanted)
    lossy = any(part in name for part in ("adpcm", "gsm", "mp3", "opus"))
    assert longer == 0 or (lossy and 0 < longer < 1200), longer
    got = sound[: len(wanted)].double().numpy()
    assert np.corrcoef(got, wanted)[0, 1] > least
    near = 0.003 if least == EXACT else 0.08
    assert np.sqrt(np.mean(got**2)) == pytest.approx(np.sqrt(np.mean(wanted**2)), rel=near)
    if least == EXACT:
        assert np.abs(got - wanted).max() < 1e-3


@pytest.mark.parametrize("name", READ)
def test_awkward_files_are_read_right(name: str, tmp_path: Path) -> None:
    content, least = READ[name]
    try:
        (tmp_path / name).write_bytes(content)
    except OSError:  # Windows has fewer letters for names
        pytest.skip("no name that a file can have here")
    check(read_sound(tmp_path / name), name, least)
    check(read_sound(content), name, least)


# --------------------------------------------------------------------------------- what is refused


def flipped(content: bytes, place: int) -> bytes:
    return patched(content, place, bytes([content[place] ^ 0xFF]))


def floats(*values: float, kind: str = "FLOAT") -> bytes:
    return file_of("WAV", kind, values=np.array(values))


HUGE = 0xFFFFFFFF
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100)
ANTI = np.stack([wave(), -wave() + 1e-4], axis=1)
REFUSED: dict[str, tuple[bytes, str]] = {
    "header_cut.wav": (PLAIN[:30], "damaged.*get it again"),
    "four_bytes.wav": (b"RIFF", "not a sound"),
    "data_cut.wav": (PLAIN[:-4], r"ends early, 15,996 of 16,000 bytes.*get it again"),
    "all_data_cut.wav": (PLAIN[:44], "ends early, 0 of 16,000 bytes"),
    "size_beyond.wav": (wav(ints(wave()), size=1_000_000), r"16,000 of 1,000,000 bytes.*get it again"),
    "big_endian_cut.wav": (READ["big_endian.wav"][0][:-100], "ends early"),
    "adpcm_cut.wav": (READ["ima_adpcm.wav"][0][:-100], "ends early"),
    "cut.aiff": (AIFF[:-2], "ends early"),
    "cut.au": (AU[:-2], "ends early"),
    "cut.caf": (CAF[:-2], "ends early"),
    "cut.flac": (FLAC[: len(FLAC) // 2], "damaged.*lost sync"),
    "cut_between_frames.flac": (FLAC[: FLAC.rindex(b"\xff\xf8")], "ends early, 4,096 of 8,000 samples"),
    "flipped.flac": (flipped(FLAC, len(FLAC) - 500), "damaged"),
    "cut.ogg": (OGG[: len(OGG) - 10], "ends early"),
    "cut_in_header.ogg": (OGG[:40], "ends early"),
    "cut.mp3": (LONG_MP3[: len(LONG_MP3) // 2], "ends early"),
    "odd_chunk_not_filled_up.wav": (wav(ints(wave()), before=ODD[:-1] + LISTED), "damaged.*get it again"),
    "no_data_chunk.wav": (PLAIN[:36] + LISTED, "damaged.*header without samples"),
    "many_chunks.wav": (wav(ints(wave()), before=chunk(b"junk", b"") * 2000), "more than 1,000 parts"),
    "negative_chunk.caf": (CAF[:8] + b"free" + b"\xff" * 7 + b"\xf0" + CAF[8:], "damaged.*no size"),
    "no_frames.wav": (wav(b""), "no samples.*record it again"),
    "no_frames_list_after.wav": (wav(b"", after=LISTED), "no samples.*record it again"),
    "no_frames.flac": (patched(FLAC[: FLAC.index(b"\xff\xf8")], 21, b"\xf0\0\0\0\0"), "no samples"),
    "no_frames.aiff": (file_of("AIFF", values=np.zeros(0)), "no samples"),
    "nan.wav": (floats(0.1, float("nan"), 0.2), r"no numbers \(NaN\).*cut them out"),
    "infinite.wav": (floats(0.1, float("-inf")), "infinite"),
    "too_loud.wav": (floats(1.0, -32767.0), r"floats up to 32,767: divide them by 32,768"),
    "twice_too_loud.wav": (floats(0.1, 2.0, kind="DOUBLE"), "floats up to 2: divide"),
    "canceling.wav": (
        file_of("WAV", "PCM_16", values=ANTI),
        r"2 channels cancel.*pass one, as \(samples\[:, 0\]",
    ),
    "many_channels.wav": (wav(ints(wave()), channels=65535), "damaged"),
    "no_channels.wav": (wav(ints(wave()), channels=0), "damaged"),
    "rate_0.wav": (wav(ints(wave()), rate=0), "damaged|per second"),
    "rate_100.wav": (wav(ints(wave()), rate=100), "100 samples per second: save it with 16,000"),
    "rate_of_millions.wav": (wav(ints(wave()), rate=3_072_000), "3,072,000 samples per second"),
    "rate_huge.wav": (wav(ints(wave()), rate=HUGE), "damaged|per second"),
    "many_channels.caf": (patched(CAF, CAF.index(b"desc") + 36, b"\xff" * 4), "damaged"),
    "unknown_coding.wav": (wav(ints(wave()), tag=0x1234), r"libsndfile cannot read.*ffmpeg -i"),
    "no_frame.mp3": (b"\xff\xf3\0\0" + bytes(2000), r"damaged \(no sound in it\): get it again"),
    "no_such_rate.mp3": (b"\xff\xfb\x9c\0" + bytes(200), r"damaged \((?!tuple)"),
    "twice.ogg": (OGG + OGG, r"several sounds one after the other.*ffmpeg -i x\.ogg"),
    "twice.mp3": (LONG_MP3 + LONG_MP3, r"several sounds one after the other.*ffmpeg -i x\.mp3"),
    "picture.wav": (PNG, "a picture, not a sound: read_image reads it"),
    "photo.mp3": (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(99), "a picture"),
    "page.wav": (b"\n<!DOCTYPE html><html>", "a web page, not a sound"),
    "text.wav": (("a" + "ü" * 900).encode(), "text, not a sound: pass a file"),
    "lfs.wav": (b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
    "paper.wav": (b"%PDF-1.7\n", "a document, not a sound"),
    "packed.wav": (b"PK\x03\x04" + bytes(99), "an archive, not a sound: unpack it first"),
    "notes.mid": (b"MThd\0\0\0\x06" + bytes(99), "MIDI is notes"),
    "array.npy": (b"\x93NUMPY\x01\0" + bytes(99), "pass .numpy.load"),
    "pickled.wav": (b"\x80\x04\x95" + bytes(99), "not a sound that can be read: save it as WAV"),
    "bytes.bin": (bytes(range(256)), "not a sound that can be read"),
    "zeros.wav": (bytes(1000), "not a sound that can be read"),
    "samples.raw": (ints(wave()), r"without a header.*np\.fromfile\(file, '<i2'\), 16_000"),
    "samples.PCM": (ints(wave()), "without a header"),
    "phone.m4a": (b"\0\0\0\x1cftypM4A " + bytes(99), r"M4A, .*ffmpeg -i x\.m4a y\.wav"),
    "phone.3gp": (b"\0\0\0\x1cftyp3gp4" + bytes(99), r"3GP, .*ffmpeg -i x\.3gp"),
    "clip.mp4": (b"\0\0\0\x1cftypisom" + bytes(99), r"MP4 or MOV, .*ffmpeg -i x\.mp4"),
    "browser.webm": (b"\x1a\x45\xdf\xa3" + bytes(99), r"WebM or Matroska, .*ffmpeg -i x\.webm"),
    "old.wma": (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(99), r"WMA, .*ffmpeg -i x\.wma"),
    "old.amr": (b"#!AMR\n" + bytes(99), r"AMR, .*ffmpeg -i x\.amr"),
    "stream.aac": (b"\xff\xf1\x50\x80" + bytes(99), r"AAC, .*ffmpeg -i x\.aac"),
    "long.wav": (b"RF64\xff\xff\xff\xffWAVEds64" + bytes(99), "RF64"),
    "speech.ogg": (b"OggS" + bytes(24) + b"Speex   " + bytes(99), r"Speex.*ffmpeg -i x\.ogg"),
    "film.avi": (b"RIFF\0\0\0\0AVI LIST" + bytes(99), "video, .*ffmpeg"),
    "empty.wav": (b"", "empty.*get it again"),
    "sphere.wav": (b"NIST_1A\n   1024\n" + bytes(99), "NIST SPHERE, .*ffmpeg"),
}


def refusal(source: object, **options: float) -> str:
    with pytest.raises(SoundError) as caught:
        read_sound(source, **options)
    text = str(caught.value)
    assert text.isprintable(), text
    assert ": " in text.partition(": ")[2], "cause and cure"
    assert len(text) < 1000
    return text


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    content, pattern = REFUSED[name]
    file = tmp_path / name
    file.write_bytes(content)
    text = refusal(file)
    assert text.startswith(f"{file}: ")
    assert matches(pattern, text), text
    if not name.lower().endswith((".raw", ".pcm")):
        text = refusal(content)
        assert text.startswith("the bytes: ")
        assert matches(pattern, text), text


def matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


def test_the_tables_are_long_enough() -> None:
    assert len(READ) + len(REFUSED) >= 100


def test_names_and_things_that_lead_nowhere(tmp_path: Path) -> None:
    assert "no such file: check the path" in refusal(tmp_path / "gone.wav")
    assert "a folder, not a sound: pass its files" in refusal(tmp_path)
    assert "a URL: download it first" in refusal("https://example.org/a.wav")
    assert "an empty name: pass the path of a sound" in refusal("")
    assert "\\n" in refusal(tmp_path / "two\nlines.wav")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    assert "a pipe or a device, not a file" in refusal(tmp_path / "pipe.wav")


@pytest.mark.parametrize("thing", [None, 3, 2.5, [1, 2], {"array": 1}, np.zeros(9), torch.zeros(9)])
def test_what_is_no_sound_at_all_is_a_type_error(thing: object) -> None:
    with pytest.raises(TypeError, match=r"is no sound|has no rate: pass \(samples, rate\)"):
        read_sound(thing)


@pytest.mark.parametrize(
    "options", [{"rate": 0}, {"rate": 16_000.5}, {"rate": True}, {"rate": 10**6}, {"longest": 0}]
)
def test_a_wrong_option_is_no_fault_of_the_sound(options: dict) -> None:
    with pytest.raises(ValueError, match=r"rate|longest") as caught:
        read_sound(PLAIN, **options)
    assert not isinstance(caught.value, SoundError)


# ------------------------------------------------------------------------------------ file objects


class Stream(io.RawIOBase):
    """Gives bytes in small pieces and cannot go back; without content it never ends."""

    def __init__(self, content: bytes | None) -> None:
        self.content = None if content is None else io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        piece = bytes(len(buffer)) if self.content is None else self.content.read(min(len(buffer), 1000))
        buffer[: len(piece)] = piece
        return len(piece)


class Pieces(io.BytesIO):
    """Can be sought, and gives less than it is asked for."""

    def read(self, count: int = -1) -> bytes:
        return super().read(min(count, 77))


def test_file_objects_are_read_and_left_open(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(PLAIN)
    wanted = read_sound(tmp_path / "a.wav")
    at_end = io.BytesIO(PLAIN)
    at_end.seek(0, 2)
    with (tmp_path / "a.wav").open("rb") as file, (tmp_path / "a.wav").open("rb", buffering=0) as bare:
        sources = (file, bare, at_end, Stream(PLAIN), Pieces(PLAIN), memoryview(PLAIN), bytearray(PLAIN))
        for source in sources:
            assert torch.equal(read_sound(source), wanted)
        assert not file.closed
    assert not at_end.closed
    assert torch.equal(read_sound(str(tmp_path / "a.wav")), wanted)


class Generous(io.BytesIO):
    """Gives more than it is asked for, which must not be written behind the end of a buffer of C."""

    def read(self, count: int = -1) -> bytes:
        return super().read(count + 1000 if count > 0 else count)


def test_libsndfile_sees_what_it_may() -> None:
    assert torch.equal(read_sound(Generous(PLAIN)), read_sound(PLAIN))
    reader = _sound_kinds.Reader(Generous(b"0123456789"), 10)
    assert (reader.seek(-5), reader.read(4), reader.tell()) == (0, b"0123", 4)
    assert (reader.seek(-3, os.SEEK_END), reader.read(9), reader.read(1)) == (7, b"789", b"")
    reader.patch = (3, b"abc")
    assert (reader.seek(1), reader.read(3), reader.read(1), reader.read(9)) == (1, b"12a", b"b", b"c6789")
    reader.patch = (0, b"")
    reader.begin(8, b"new")
    assert (reader.length, reader.seek(2), reader.read(2), reader.read(9)) == (5, 2, b"w8", b"9")
    assert (reader.seek(0), reader.read(2)) == (0, b"ne")


def test_members_of_archives_are_file_objects(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(PLAIN)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "a.wav", "a.wav")
    with tarfile.open(tmp_path / "a.tar.gz", "r|gz") as stream:
        assert len(read_sound(stream.extractfile(stream.next()))) == len(wave())


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "a.wav").write_bytes(PLAIN)
    assert len(read_sound("~/a.wav")) == len(read_sound(Path("~/a.wav"))) == len(wave())


class Broken(io.BytesIO):
    """A file on a disk that fails after its beginning."""

    def read(self, count: int = -1) -> bytes:
        if self.tell() > 2000:
            raise OSError(5, "Input/output error")
        return super().read(count)


def test_file_objects_that_give_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    with (tmp_path / "a.txt").open(encoding="utf-8") as opened:
        assert "opened as text: open it with 'rb'" in refusal(opened)
    assert "opened as text" in refusal(io.StringIO("text"))
    assert "closed before it was read: open it again" in refusal(opened)
    with (tmp_path / "a.txt").open("ab") as opened:
        assert "open it with 'rb'" in refusal(opened)
    assert refusal(io.BytesIO()) == "the file object: empty: get it again"
    assert refusal(Stream(b"")) == "the file object: empty: get it again"
    assert "Input/output error" in refusal(Broken(wav(bytes(10**6))))
    monkeypatch.setattr("bigmodel_helpers.data._files.MOST_BYTES", 2**22)
    assert "perhaps without end" in refusal(Stream(None))
    assert capfd.readouterr().err == ""


# ------------------------------------------------------------------------------ arrays with a rate


@pytest.mark.parametrize(
    "samples",
    [
        wave(),
        wave().astype("f4"),
        np.rint(wave() * 32768).astype("i2"),
        np.rint(wave() * 32768).astype(">i2"),
        np.rint(wave() * 2**31).astype("i4"),
        wave()[:, None],
        np.asfortranarray(shares(3)),
        torch.from_numpy(wave()).requires_grad_(),
        torch.from_numpy(shares(2)).float(),
        wave()[::-1][::-1],
    ],
)
def test_samples_with_their_rate(samples: np.ndarray | torch.Tensor) -> None:
    check(read_sound((samples, RATE)), "array", EXACT)


def test_eight_bits() -> None:
    signed = np.array([-128, -64, 0, 64, 127], dtype=np.int8)
    wanted = torch.tensor([-1.0, -0.5, 0.0, 0.5, 127 / 128])
    assert torch.equal(read_sound((signed, RATE)), wanted)
    unsigned = (signed.astype(int) + 128).astype(np.uint8)
    assert torch.equal(read_sound((unsigned, RATE)), wanted)
    assert torch.equal(read_sound(wav(unsigned.tobytes(), bits=8)), wanted)


def test_half_precision_and_the_reader_s_own_samples() -> None:
    half = torch.full((100,), 0.5, dtype=torch.bfloat16)
    assert torch.equal(read_sound((half, RATE)), torch.full((100,), 0.5))
    own = np.full(100, 0.5, dtype=np.float32)
    read_sound((own, RATE)).zero_()
    assert own.min() == 0.5


@pytest.mark.parametrize(
    ("samples", "rate", "cure"),
    [
        (np.zeros((2, 900)), RATE, r"shape \(2, 900\).*\.T turns"),
        (np.zeros((9, 2, 2)), RATE, "shape"),
        (np.zeros(()), RATE, "shape"),
        (np.zeros(0), RATE, "no samples"),
        (np.zeros((0, 2)), RATE, "no samples|shape"),
        (np.zeros(9, dtype=np.int64), RATE, "int64: pass int16"),
        (np.zeros(9, dtype=np.uint16), RATE, "uint16: pass int16"),
        (np.zeros(9, dtype=bool), RATE, "bool: pass int16"),
        (np.zeros(9, dtype=complex), RATE, "complex128: pass int16"),
        (np.array(["a"]), RATE, "<U1: pass int16"),
        (np.full(9, 200.0), RATE, "floats up to 200: divide them by 32,768"),
        (np.full(9, -1.6), RATE, "floats up to 1.6: divide"),
        (np.full(9, np.nan), RATE, "NaN"),
        (np.full(9, 1e300), RATE, "infinite"),
        (torch.zeros(9, device="meta"), RATE, "dense values"),
        (np.zeros(9), 16.5, "a rate of 16.5"),
        (np.zeros(9), 100, "a rate of 100: pass a whole number from 4,000 to 384,000"),
        (np.zeros(9), None, "a rate of None"),
        (np.zeros(700 * 4000, dtype=np.int8), 4000, "700.0 seconds are more than 600.*larger `longest`"),
        (np.stack([wave(), -wave()], axis=1), RATE, "cancel each other"),
    ],
)
def test_samples_without_a_certain_meaning(samples: object, rate: object, cure: str) -> None:
    assert matches(cure, text := refusal((samples, rate))), text
    assert text.startswith("the samples: ")


@pytest.mark.parametrize(
    "pair", [(RATE, np.zeros(9)), (np.zeros(9),), ([0.0], RATE), (np.zeros(9), RATE, 1), ()]
)
def test_other_pairs_are_type_errors(pair: tuple) -> None:
    with pytest.raises(TypeError, match=r"pass \(samples, rate\)"):
        read_sound(pair)


# ---------------------------------------------------------------------------------- what is kept


def test_zeros_stay_zeros() -> None:
    for content in (wav(bytes(3200)), file_of("FLAC", rate=44_100, values=np.zeros(4410))):
        sound = read_sound(content)
        assert len(sound) == 1600
        assert not sound.any()
    both = file_of("WAV", "PCM_16", values=np.zeros((100, 2)))
    assert not read_sound(both).any()


def test_full_scale_an_offset_and_an_overshoot_are_kept() -> None:
    square = np.where(np.arange(1600) % 40 < 20, 32767, -32768).astype("<i2")
    sound = read_sound(wav(square.tobytes()))
    assert sound.unique().tolist() == pytest.approx([-1, 32767 / 32768])
    raised = read_sound(wav(ints(np.full(1600, 0.25))))
    assert raised.unique().tolist() == [8192 / 32768]
    brought = read_sound(wav(ints(np.full(4800, 0.25)), rate=48_000))
    assert brought[200:-200].numpy() == pytest.approx(0.25, abs=1e-4)
    assert read_sound(floats(0.5, 1.25, -1.5)).tolist() == [0.5, 1.25, -1.5]


@pytest.mark.parametrize("kind", ["MP3", "VORBIS", "OPUS"])
def test_a_loud_square_overshoots_in_lossy_formats_and_is_read(kind: str) -> None:
    square = np.where(np.arange(16_000) % 40 < 20, 0.999, -0.999)
    content = file_of("MP3", values=square) if kind == "MP3" else file_of("OGG", kind, values=square)
    assert 0.9 < read_sound(content).abs().max() < 4


def test_channels_are_averaged_and_only_opposite_ones_refused() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (8000, 2)).clip(-1, 1)
    assert read_sound((noise, RATE)).numpy() == pytest.approx(noise.mean(axis=1), abs=1e-7)
    one = np.stack([wave(), np.zeros_like(wave())], axis=1)
    assert read_sound((one, RATE)).numpy() == pytest.approx(wave() / 2, abs=1e-7)
    center = np.zeros((8000, 6))
    center[:, 2] = wave()
    assert read_sound((center, RATE)).numpy() == pytest.approx(wave() / 6, abs=1e-7)
    one_of_many = np.pad(wave()[:, None], ((0, 0), (0, 199)))
    assert read_sound((one_of_many, RATE)).numpy() == pytest.approx(wave() / 200, abs=1e-7)
    constant = np.tile([0.27, -0.46], (2772, 1))  # without a swing there is nothing to cancel
    assert read_sound((constant, RATE)).numpy() == pytest.approx(-0.095)
    nearly = np.stack([wave(), -0.5 * wave()], axis=1)
    assert read_sound((nearly, RATE)).numpy() == pytest.approx(wave() / 4, abs=1e-7)
    opposite = np.stack([wave() + 0.1, -wave() + 0.1], axis=1) + 1e-3 * noise
    assert "cancel each other" in refusal((opposite, RATE))


def test_many_blocks_are_one_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeking between blocks would start lossy decoders anew."""
    long = {kind: file_of("OGG", kind, 48_000, np.tile(wave(48_000), 4)) for kind in ("VORBIS", "OPUS")}
    long |= {"MP3": file_of("MP3", None, 48_000, np.tile(wave(48_000), 4)), "WAV": PLAIN, "FLAC": FLAC}
    whole = {kind: read_sound(content, rate=48_000) for kind, content in long.items()}
    monkeypatch.setattr(sounds, "BLOCK", 999)
    for kind, content in long.items():
        assert torch.equal(read_sound(content, rate=48_000), whole[kind]), kind
    pair = (np.asarray(shares(2)), RATE)
    assert torch.equal(read_sound(pair), read_sound((pair[0].copy(), RATE)))


# ------------------------------------------------------------------------------------- resampling


def tone(frequency: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


def level(sound: torch.Tensor) -> float:
    """Decibels of the loudest sample, of a tone of amplitude 0.5; the ends, which fade, are left out."""
    middle = sound[len(sound) // 4 : -len(sound) // 4].abs().max().item()
    return 20 * np.log10(max(middle, 1e-12) / 0.5)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 96_000, 44_101, 96_001])
def test_a_tone_keeps_its_frequency_and_amplitude(rate: int) -> None:
    for frequency in (100, 1000, 3300):
        sound = read_sound((tone(frequency, rate), rate))
        assert len(sound) == pytest.approx(RATE, abs=1)
        spectrum = np.abs(np.fft.rfft(sound.numpy()[:RATE] * np.hanning(len(sound))[:RATE]))
        assert spectrum.argmax() == frequency
        assert level(sound) == pytest.approx(0, abs=0.1)
        if rate in (44_101, 96_001):  # no simple ratio: another clock, by a few parts in a million
            continue
        middle = slice(4000, 12_000)
        assert sound[middle].numpy() == pytest.approx(tone(frequency, RATE)[middle], abs=3e-3)


@pytest.mark.parametrize(
    ("rate", "frequencies"), [(44_100, (8050, 9000, 15_000, 21_000)), (48_000, (8010, 12_000))]
)
def test_what_is_above_half_of_the_rate_is_removed(rate: int, frequencies: tuple) -> None:
    for frequency in frequencies:
        assert level(read_sound((tone(frequency, rate), rate))) < -60
    assert level(read_sound((tone(7100, rate), rate))) == pytest.approx(0, abs=0.2)
    upward = read_sound((tone(3300, 8000), 8000))  # and no mirror image at 4,700
    spectrum = np.abs(np.fft.rfft(upward.numpy() * np.hanning(len(upward))))
    assert spectrum[4600:4800].max() < 1e-3 * spectrum.max()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 32_000, 44_100, 48_000])
def test_mp3_without_a_count_is_read_to_its_end(rate: int, channels: int) -> None:
    """libsndfile guesses the length from the first frame and would lose most of a file that begins loud."""
    values = np.concatenate([*[wave(rate)] * 2, np.zeros(4 * rate), wave(rate)])
    content = file_of("MP3", rate=rate, values=values[:, None].repeat(channels, 1))
    bare = content[content.index(content[:2], 4) :]
    guess = soundfile.info(io.BytesIO(bare)).frames / len(values)
    assert guess < 0.5, "libsndfile no longer guesses"
    for tagged in (bare, TAG + bare):
        sound = read_sound(tagged, rate=rate)
        assert len(sound) == pytest.approx(len(values) + 1105, abs=2 * 1152)  # the encoder's own delay stays
        end = sound[-rate // 2 - 1105 :].numpy()
        assert np.sqrt(np.mean(end**2)) > 0.1


def test_other_rates_can_be_asked_for() -> None:
    assert len(read_sound(PLAIN, rate=8000)) == len(wave()) // 2
    assert len(read_sound((tone(440, 4000), 4000), rate=384_000)) == 384_000
    assert read_sound(PLAIN, rate=np.int64(16_000)).shape == (8000,)


# --------------------------------------------------------------------- strangers: size and damage


def hour(tmp_path: Path, counted: bool) -> Path:
    """An hour of silence, 50 KB; a header that does not count its samples can be made of one that does."""
    file = tmp_path / "hour.flac"
    with soundfile.SoundFile(file, "w", 8000, 1, "PCM_16", format="FLAC") as sound:
        for _ in range(60):
            sound.write(np.zeros(60 * 8000, dtype=np.int16))
    if not counted:
        content = file.read_bytes()
        file.write_bytes(patched(content, 21, bytes([content[21] & 0xF0, 0, 0, 0, 0])))
    return file


@pytest.mark.parametrize("counted", [True, False])
def test_an_hour_is_refused_before_it_is_decoded(counted: bool, tmp_path: Path) -> None:
    file = hour(tmp_path, counted)
    assert file.stat().st_size < 500_000
    read_sound(PLAIN)  # imports
    tracemalloc.start()
    begun = time.perf_counter()
    text = refusal(file, longest=20)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "seconds are more than 20: cut it into pieces, or pass read_sound a larger `longest`" in text
    assert ("3,600.0 seconds" in text) == counted
    assert most < (2**20 if counted else 2**24)
    assert time.perf_counter() - begun < 2


def test_an_unpacked_hour_is_not_a_lie(tmp_path: Path) -> None:
    """A header may claim what it likes: little is decoded, nothing is set aside."""
    claims = patched(FLAC, 21, bytes([FLAC[21] & 0xF0 | 0xF, *b"\xff" * 4]))
    tracemalloc.start()
    assert "seconds are more than 600" in refusal(claims)
    assert "ends early" in refusal(claims, longest=float("inf"))
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()


def test_a_limit_can_be_raised() -> None:
    assert "0.5 seconds are more than 0.4" in refusal(PLAIN, longest=0.4)
    assert len(read_sound(PLAIN, longest=0.5)) == len(wave())
    assert (
        len(read_sound((np.zeros(601 * 4000, dtype=np.int8), 4000), longest=float("inf"), rate=4000))
        == 601 * 4000
    )


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Flip bits, cut a piece out, or put one in; half of the times near the beginning."""
    data = bytearray(content)
    for _ in range(random.integers(1, 6)):
        place = int(random.integers(0, min(len(data), 100) if random.random() < 0.5 else len(data)))
        kind = random.integers(0, 4)
        if kind == 0:
            data[place] ^= 1 << int(random.integers(0, 8))
        elif kind == 1:
            del data[place : place + int(random.integers(1, 300))]
        elif kind == 2:
            data[place:place] = random.bytes(int(random.integers(1, 50)))
        else:
            data[place : place + 4] = random.choice(
                [b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0"]
            )
        data = data or bytearray(b"\0")
    return bytes(data)


def test_mutated_files_give_a_sound_or_a_refusal() -> None:
    """Nothing else: no other error, no endless loop, no crash of the process."""
    random = np.random.default_rng(16)
    read = refused = 0
    for number in range(300):
        content = mutated((PLAIN, FLAC, OGG, MP3, AIFF)[number % 5], random)
        begun = time.perf_counter()
        line, sound = "", torch.zeros(1)
        try:
            sound = read_sound(content, longest=20)
            read += 1
        except SoundError as error:
            line = str(error)
            refused += 1
        assert line.isprintable()
        assert sound.dtype == torch.float32
        assert sound.isfinite().all()
        assert 0 < len(sound) <= 20 * RATE + 96
        assert time.perf_counter() - begun < 2, f"mutation {number}"
    assert read > 30
    assert refused > 30


# ------------------------------------------------------------------- libraries and the microphone


def without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(
    ("name", "call", "cure"),
    [
        ("soundfile", lambda: read_sound(PLAIN), '"bigmodel-helpers[speech]"'),
        ("scipy.signal", lambda: read_sound((wave(), 8000)), '"bigmodel-helpers[speech]"'),
        ("sounddevice", lambda: record_sound(1), "sounddevice"),
    ],
)
def test_missing_packages_are_named(
    name: str, call: Callable, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(name, monkeypatch)
    with pytest.raises(ModuleNotFoundError) as error:
        call()
    assert str(error.value).endswith(f"needs {name.split('.')[0]}: pip install {cure}")


def test_a_pair_at_the_same_rate_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    without("soundfile", monkeypatch)
    without("scipy.signal", monkeypatch)
    assert len(read_sound((wave(), RATE))) == len(wave())


@pytest.mark.parametrize(
    ("name", "call", "cure"),
    [
        ("soundfile", lambda: read_sound(PLAIN), "libsndfile: sudo apt install libsndfile1"),
        ("sounddevice", lambda: record_sound(1), "PortAudio: sudo apt install libportaudio2"),
    ],
)
def test_missing_libraries_of_the_system(
    name: str, call: Callable, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text("raise OSError('library not found')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(OSError, match=cure):
        call()


class PortAudioError(Exception):
    pass


def microphone(monkeypatch: pytest.MonkeyPatch, rates: tuple[int, ...], works: bool = True) -> list[dict]:
    """Put a machine with one microphone, or with none, in place of sounddevice; return what is asked of it."""
    fake, asked = types.ModuleType("sounddevice"), []

    def query_devices(kind: str) -> dict:
        assert kind == "input"
        if not rates:
            raise PortAudioError("Error querying device -1")
        return {"default_samplerate": float(rates[-1])}

    def check_input_settings(samplerate: int, channels: int, dtype: str) -> None:
        assert (channels, dtype) == (1, "float32")
        if samplerate not in rates:
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")

    def rec(frames: int, **options: object) -> np.ndarray:
        asked.append({"frames": frames, **options})
        if not works:
            raise PortAudioError("Device unavailable\n[PaErrorCode -9985]")
        return np.repeat(
            tone(440, options["samplerate"], frames / options["samplerate"])[:, None], 1, 1
        ).astype("f4")

    fake.PortAudioError, fake.query_devices = PortAudioError, query_devices
    fake.check_input_settings, fake.rec = check_input_settings, rec
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return asked


def test_the_microphone_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = microphone(monkeypatch, (16_000, 44_100))
    sound = record_sound(0.5)
    wanted = {"frames": 8000, "samplerate": 16_000, "channels": 1, "dtype": "float32", "blocking": True}
    assert asked == [wanted]
    assert sound.dtype == torch.float32
    assert sound.numpy() == pytest.approx(tone(440, 16_000, 0.5), abs=1e-6)


def test_a_microphone_with_another_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = microphone(monkeypatch, (44_100,))
    sound = record_sound(0.5)
    assert (asked[0]["frames"], asked[0]["samplerate"]) == (22_050, 44_100)
    assert sound.shape == (8000,)
    assert sound[2000:6000].numpy() == pytest.approx(tone(440, 16_000, 0.5)[2000:6000], abs=2e-3)


def test_no_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    microphone(monkeypatch, ())
    with pytest.raises(SoundError, match=r"^the microphone: .*Error querying device -1.*: connect one"):
        record_sound(1)
    microphone(monkeypatch, (16_000,), works=False)
    with pytest.raises(SoundError, match=r"Device unavailable \[PaErrorCode -9985\].*: connect one"):
        record_sound(1)


@pytest.mark.parametrize("seconds", [0, -1, 601, float("nan"), float("inf")])
def test_seconds_out_of_range(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = microphone(monkeypatch, (16_000,))
    with pytest.raises(ValueError, match=r"seconds .*: pass more than 0, at most 600"):
        record_sound(seconds)
    with pytest.raises(ValueError, match="rate"):
        record_sound(1, rate=1)
    assert asked == []


def test_arrays_of_other_kinds_are_read_right_or_refused() -> None:
    half = np.full(100, 0.5, np.float32)
    assert read_sound((half, np.int16(16_000)), longest=3).equal(torch.full((100,), 0.5))
    with pytest.raises(SoundError, match="some samples are masked: fill them"):
        read_sound((np.ma.array(half, mask=half > 1), RATE))
    negative = torch.zeros(1000, dtype=torch.complex64).conj().imag
    assert not read_sound((negative, RATE)).any()
