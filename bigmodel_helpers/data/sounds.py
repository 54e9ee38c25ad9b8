"""From any sound to one channel of samples, or to one clear line that says why not. Introduced in chapter 16."""

import importlib
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from types import ModuleType
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from bigmodel_helpers.data._paths import own_name, shown
from bigmodel_helpers.data._sound_kinds import (
    NOTHING,
    Reader,
    SoundError,
    check_kind,
    check_size,
    opened,
    why,
)

LOWEST, HIGHEST = 4_000, 384_000  # samples per second
LONGEST, BLOCK = 600.0, 2**18  # seconds; values that are decoded together
LOUDEST, BROKEN = 1.5, 8.0  # above, floats are on another scale; Opus overshoots up to 3.4, not that far
MISSING = {"FLAC": 0, "MP3": 2 * 1152}  # samples; encoders of MP3 disagree on which frames they count
FINEST = 12_000  # the largest number in a ratio of two rates
CANCELED = 0.01  # of the power that channels without any relation would leave
SILENT = 1e-10  # a power below one step of 16 bits
WIDTH, CUTOFF, BETA = 48, 0.947, 8.0  # of the filter: passes 89% of the band, leaves -80 dB from its end on

SPEECH = 'pip install "bigmodel-helpers[speech]"'
LIBSNDFILE = "libsndfile: sudo apt install libsndfile1, say"
PORTAUDIO = "PortAudio: sudo apt install libportaudio2, say"
KINDS = (str, os.PathLike, bytes, bytearray, memoryview, tuple)
Samples = np.ndarray | Tensor
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | tuple[Samples, int]


def read_sound(source: Source, *, rate: int = 16_000, longest: float = LONGEST) -> Tensor:
    """Return a sound as one channel: float32 of shape (samples,), `rate` samples per second.

    WAV (also mu-law, A-law and ADPCM), AIFF, AU, CAF, FLAC, OGG (Vorbis and Opus) and MP3 are read, whatever their
    names say. Channels are averaged. Another rate is brought to `rate` by a filter that lets no tone above half of
    `rate` through; two rates that do not form a ratio of numbers up to 12,000 are matched to within 50 parts in a
    million. Nothing else is changed: silence stays exact zeros, an offset from zero stays, and values lie in -1 to 1,
    but for what float files, the filter and lossy formats overshoot (Opus threefold, where the sound was clipped).

    A file that ends before its header says is refused: always for WAV, AIFF, AU and CAF, for FLAC where the header
    counts the samples, for OGG unless it ends between two pages, and for MP3 where the first frame counts the others
    and more than two are missing. What was written into a pipe, with a size of 0, -1, or about 2 or 4 GB in its
    header, is read to its end. No size in a header is trusted: sounds are decoded in blocks, and after `longest`
    seconds decoding stops.

    Args:
        source: a file, the bytes of a file, a file object open in binary mode (it is read from its beginning and left
            open), or a pair (samples, rate). Those samples have the shape (N,) or (N, channels); int8, int16, int32
            and uint8 are scaled by their type, floats must lie in -1 to 1, or a little outside.
        rate: samples per second of the result, 4,000 to 384,000.
        longest: seconds; longer sounds are refused.

    Raises:
        SoundError: the source is missing, not a sound, damaged, too long, without samples, several sounds in one file
            of OGG or MP3, or of a kind whose values have no certain meaning (floats above 1.5, 64-bit numbers, not a
            number); or its channels cancel each other.
        TypeError: the source is none of the above.
        ValueError: `rate` or `longest` is out of range.
        ModuleNotFoundError: the packages `soundfile` (for files) or `scipy` (for another rate) are not installed.
        OSError: `soundfile` does not find libsndfile.
    """
    _check_source(source)
    if not _is_rate(rate):
        raise ValueError(f"rate {rate!r}: pass a whole number from {LOWEST:,} to {HIGHEST:,}")
    if not longest > 0:
        raise ValueError(f"longest {longest}: pass more than 0 seconds")
    soundfile = None if isinstance(source, tuple) else _library("soundfile", "reading a sound", LIBSNDFILE)
    try:
        if soundfile is None:
            samples, own = _from_pair(*source, longest)
        else:
            samples, own = _from_file(source, longest, soundfile)
        return torch.from_numpy(_resampled(samples, own, int(rate)))
    except SoundError as error:
        raise SoundError(f"{_name(source)}: {error}") from None
    except ModuleNotFoundError:
        raise
    except Exception as error:  # of a foreign file object, or what libsndfile says of damaged files
        raise SoundError(f"{_name(source)}: {why(error, source)}") from None


def record_sound(seconds: float, *, rate: int = 16_000) -> Tensor:
    """Record the machine's microphone; return float32 of shape (samples,), `rate` samples per second.

    The call returns when the time is over. A microphone that cannot give `rate` is recorded at its own rate, which is
    then changed. Where the system was told to refuse the microphone to this program (macOS, Windows), it gives
    zeros instead of an error: check `sound.any()`.

    Args:
        seconds: how long, more than 0, at most 600.
        rate: samples per second of the result, 4,000 to 384,000.

    Raises:
        SoundError: there is no microphone, or it cannot be used.
        ValueError: `seconds` or `rate` is out of range.
        ModuleNotFoundError: the package `sounddevice` is not installed.
        OSError: the library PortAudio is not installed.
    """
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"seconds {seconds}: pass more than 0, at most {LONGEST:.0f}")
    if not _is_rate(rate):
        raise ValueError(f"rate {rate!r}: pass a whole number from {LOWEST:,} to {HIGHEST:,}")
    device = _library("sounddevice", "recording", PORTAUDIO)
    try:
        own = _own_rate(device, rate)
        frames = max(1, round(seconds * own))
        samples = device.rec(frames, samplerate=own, channels=1, dtype="float32", blocking=True)
    except (device.PortAudioError, ValueError) as error:
        cause = " ".join(str(error).split())
        cure = "connect one, or choose one in the settings of the system"
        raise SoundError(f"the microphone: cannot be used ({cause}): {cure}") from None
    return torch.from_numpy(_resampled(samples[:, 0].copy(), own, int(rate)))


def _own_rate(device: ModuleType, rate: int) -> int:
    """Return `rate` where the microphone can give it, else its own."""
    own = int(device.query_devices(kind="input")["default_samplerate"])
    try:
        device.check_input_settings(channels=1, dtype="float32", samplerate=rate)
    except device.PortAudioError:
        return own
    return rate


def _library(name: str, purpose: str, system: str) -> ModuleType:
    """Import the package `name`, which loads a library of the system."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        cure = "pip install sounddevice" if name == "sounddevice" else SPEECH
        raise ModuleNotFoundError(f"{purpose} needs {name}: {cure}") from None
    except OSError:
        raise OSError(f"{purpose} needs the library {system}") from None


def _is_rate(rate: Any) -> bool:
    return isinstance(rate, int | np.integer) and LOWEST <= rate <= HIGHEST


def _check_source(source: Any) -> None:
    if isinstance(source, tuple):
        kinds = [type(part).__name__ for part in source]
        if len(source) == 2 and isinstance(source[1], np.ndarray | Tensor):
            raise TypeError(f"a pair ({', '.join(kinds)}): pass (samples, rate), in that order")
        if len(source) != 2 or not isinstance(source[0], np.ndarray | Tensor):
            raise TypeError(f"({', '.join(kinds)}) is no sound: pass (samples, rate), samples as an array")
    elif isinstance(source, np.ndarray | Tensor):
        raise TypeError(f"a {type(source).__name__} has no rate: pass (samples, rate)")
    elif not isinstance(source, KINDS) and not hasattr(source, "read"):
        raise TypeError(f"a {type(source).__name__} is no sound: pass a file, its bytes or (samples, rate)")


def _name(source: Source) -> str:
    if isinstance(source, tuple):
        return "the samples"
    if isinstance(source, bytes | bytearray | memoryview):
        return "the bytes"
    return shown(own_name(source) or "the file object")


def _from_file(source: Any, longest: float, soundfile: ModuleType) -> tuple[np.ndarray, int]:
    """Return one channel of a file, float32 (samples,), and its rate."""

    class Forward(soundfile.SoundFile):
        """Would seek after each block, to where it is, and MP3 decoders stumble over that."""

        def seekable(self) -> bool:
            return False

    with opened(source) as file:
        reader = Reader(file, file.seek(0, os.SEEK_END))
        check_kind(reader, own_name(source))
        check_size(reader)
        reader.seek(0)
        try:
            with Forward(reader) as sound:
                return _decoded(sound, reader.counted, longest), sound.samplerate
        finally:
            if reader.error:
                raise reader.error


def _decoded(sound: Any, counted: bool, longest: float) -> np.ndarray:
    """Return one channel of an open file, decoded in blocks."""
    frames = sound.frames if counted and sound.frames < 2**62 else 0  # 0: nobody has counted them
    if not _is_rate(sound.samplerate):
        raise SoundError(f"{sound.samplerate:,} samples per second: save it with 16,000, if that is true")
    _check_length(frames, sound.samplerate, longest)
    floats = sound.subtype in ("FLOAT", "DOUBLE")
    size = max(1, BLOCK // sound.channels)

    def blocks() -> Iterator[np.ndarray]:
        while len(block := sound.read(size, dtype="float32", always_2d=True)):
            yield block

    samples = _mixed(blocks(), sound.samplerate, longest, floats)
    if frames - len(samples) > MISSING.get(sound.format, frames):
        raise SoundError(f"ends early, {len(samples):,} of {frames:,} samples are there: get it again")
    return samples


def _from_pair(samples: Samples, rate: Any, longest: float) -> tuple[np.ndarray, int]:
    """Return one channel, float32 (samples,), and its rate as int."""
    if not _is_rate(rate):
        raise SoundError(f"a rate of {rate!r}: pass a whole number from {LOWEST:,} to {HIGHEST:,}")
    if isinstance(samples, Tensor):
        if samples.is_meta or samples.is_quantized or samples.layout != torch.strided:
            raise SoundError(f"a tensor on {samples.device}, {samples.layout}: pass its dense values")
        samples = samples.detach().resolve_neg().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()
    if isinstance(samples, np.ma.MaskedArray):
        raise SoundError("some samples are masked: fill them, with samples.filled(0)")
    samples, rate = np.asarray(samples), int(rate)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > max(1, samples.shape[0])):
        raise SoundError(f"shape {samples.shape}: pass (N,) or (N, channels), .T turns (channels, N) round")
    floats = np.issubdtype(samples.dtype, np.floating)
    if not floats and samples.dtype.newbyteorder("=") not in (np.int8, np.int16, np.int32, np.uint8):
        raise SoundError(f"numbers of {samples.dtype}: pass int16 or int32, or floats from -1 to 1")
    _check_length(len(samples), rate, longest)
    samples = samples.reshape(len(samples), -1) if samples.size else samples.reshape(0, 1)
    zero = 128 if samples.dtype == np.uint8 else 0
    full = zero or (1 if floats else -np.iinfo(samples.dtype).min)
    size = max(1, BLOCK // samples.shape[1])

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(samples), size):
            with np.errstate(over="ignore"):  # what is infinite then is refused
                block = samples[start : start + size].astype(np.float32)
            yield (block - zero) / np.float32(full)

    return _mixed(blocks(), int(rate), longest, floats), int(rate)


def _check_length(count: int, rate: int, longest: float) -> None:
    if count > longest * rate:
        cure = "cut it into pieces, or pass read_sound a larger `longest`"
        raise SoundError(f"{count / rate:,.1f} seconds are more than {longest:,.6g}: {cure}")


def _mixed(blocks: Iterable[np.ndarray], rate: int, longest: float, floats: bool) -> np.ndarray:
    """Return the mean of the channels of blocks (n, channels) as float32 (samples,).

    Raises:
        SoundError: nothing in it, too long, values that mean nothing, or channels that cancel each other.
    """
    parts: list[np.ndarray] = []
    count, sums, powers = 0, 0.0, 0.0  # of each channel and, last, of their mean
    for block in blocks:
        count += len(block)
        _check_length(count, rate, longest)
        _check_values(block, floats)
        mean = block.mean(axis=1, dtype=np.float64)
        parts.append(mean.astype(np.float32))
        wide = np.column_stack([block, mean])
        sums, powers = sums + wide.sum(axis=0), powers + np.square(wide).sum(axis=0)
    if not count:
        raise SoundError(NOTHING)
    *each, mixed = powers / count - np.square(sums / count)
    alone = sum(each) / len(each) ** 2
    if len(each) > 1 and alone > SILENT and mixed < CANCELED * alone:
        one = "pass one, as (samples[:, 0], rate)"
        raise SoundError(f"its {len(each)} channels cancel each other, their mean is silent: {one}")
    return np.concatenate(parts)


def _check_values(block: np.ndarray, floats: bool) -> None:
    low, high = float(block.min()), float(block.max())
    peak = max(-low, high)
    if not np.isfinite(low + high):
        raise SoundError("values that are no numbers (NaN) or infinite: mend what wrote it, or cut them out")
    if floats and peak > LOUDEST:
        raise SoundError(f"floats up to {peak:,.5g}: divide them by 32,768, or what full scale is for them")
    if peak > BROKEN:
        raise SoundError(f"damaged, values up to {peak:,.5g}: get it again")


def _resampled(samples: np.ndarray, old: int, new: int) -> np.ndarray:
    """Return float32 (samples,) at the rate `new`; the filter is symmetric, so that nothing is delayed."""
    if old == new:
        return samples
    try:
        from scipy.signal import firwin, resample_poly
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"another rate needs scipy: {SPEECH}") from None
    up, down = Fraction(min(new, old), max(new, old)).limit_denominator(FINEST).as_integer_ratio()
    up, down = (up, down) if new < old else (down, up)  # 160, 441 from 44,100 to 16,000
    top = max(up, down)
    taps = firwin(2 * WIDTH * top + 1, CUTOFF / top, window=("kaiser", BETA)).astype(np.float32)
    return resample_poly(samples, up, down, window=taps)
