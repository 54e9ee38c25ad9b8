"""Time and rates, each with its spread: the book's only stopwatch. Introduced in chapter 1."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bigmodel_helpers.runtime import Device, best_device, synchronize


def _number(value: float, like: float | None = None) -> str:
    """Write `value` with three significant digits, or with as many decimals as `like` would get."""
    size = abs(value if like is None else like)
    decimals = max(0, 2 - math.floor(math.log10(size))) if size > 0 else 0
    return f"{value:,.{decimals}f}"


class Stopwatch:
    """Add up the time between `resume` and `pause`; in a ``with`` block, the time spent inside it.

    Whatever runs while the watch is paused (evaluation, saving) is not counted. The watch waits for the
    device when it is resumed, paused, or read while it runs: on an accelerator, read it seldom.

    Args:
        seconds: wall-clock seconds to start from. ``Stopwatch(**state)`` goes on where `state` was taken.
        cpu_seconds: processor seconds to start from, all threads of this process together.
        device: the device to wait for; None for the accelerator of this machine, if it has one.
    """

    def __init__(
        self, seconds: float = 0.0, cpu_seconds: float = 0.0, *, device: Device | None = None
    ) -> None:
        self.device = torch.device(device) if device is not None else best_device()
        self.running = False
        self._wall, self._cpu = seconds, cpu_seconds  # up to the last pause
        self._started = (0.0, 0.0)

    def resume(self) -> "Stopwatch":
        """Start counting; a running watch runs on."""
        if not self.running:
            synchronize(self.device)
            self._started = (time.perf_counter(), time.process_time())
            self.running = True
        return self

    def pause(self) -> "Stopwatch":
        """Stop counting; a paused watch stays paused."""
        self._wall, self._cpu = self._read()
        self.running = False
        return self

    __enter__ = resume

    def __exit__(self, *_: object) -> None:
        self.pause()

    def _read(self) -> tuple[float, float]:
        if not self.running:
            return self._wall, self._cpu
        synchronize(self.device)
        wall, cpu = self._started
        return self._wall + time.perf_counter() - wall, self._cpu + time.process_time() - cpu

    @property
    def seconds(self) -> float:
        """Wall-clock seconds so far."""
        return self._read()[0]

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of this process so far, all threads together; child processes do not count."""
        return self._read()[1]

    def state(self) -> dict[str, float]:
        """Return what ``Stopwatch(**state)`` needs to go on from here, as plain numbers."""
        seconds, cpu_seconds = self._read()
        return {"seconds": seconds, "cpu_seconds": cpu_seconds}


@dataclass(frozen=True)
class _Repeats:
    """Values of a measurement that was repeated: the base of `Timing`, `Rate` and `Ratio`."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the values."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return min(self.values), max(self.values)

    def _count(self, noun: str) -> str:
        return f"{len(self.values)} {noun}{'s' if len(self.values) > 1 else ''}"


class Timing(_Repeats):
    """Seconds that each call took; printed as ``12.3 ms (11.9-13.0, 5 calls)``: median and range."""

    @property
    def seconds(self) -> tuple[float, ...]:
        """The values: seconds per call."""
        return self.values

    def __str__(self) -> str:
        scale, unit = (1, "s") if self.median >= 1 else (1e3, "ms") if self.median >= 1e-3 else (1e6, "µs")
        middle = self.median * scale
        low, high = (_number(x * scale, middle) for x in self.spread)
        return f"{_number(middle)} {unit} ({low}-{high}, {self._count('call')})"


@dataclass(frozen=True)
class Rate(_Repeats):
    """Items per second in each slice of one run, or in each call; the range is not that of several runs.

    Attributes:
        unit: what is counted.
        part: what each value belongs to: `throughput` measures calls.

    >>> print(measure.Rate((1198.0, 1234.0, 1260.0), "images"))
    1,234 images/s (1,198-1,260, 3 slices)
    """

    unit: str = "items"
    part: str = "slice"

    def __str__(self) -> str:
        low, high = (_number(x, self.median) for x in self.spread)
        return f"{_number(self.median)} {self.unit}/s ({low}-{high}, {self._count(self.part)})"


class Ratio(_Repeats):
    """How many times as fast one thing is as another, per pair; printed as ``2.3x (2.1-2.4, 5 pairs)``."""

    def __str__(self) -> str:
        decimals = 2 if self.median < 2 else 1 if self.median < 100 else 0
        middle, low, high = (f"{x:,.{decimals}f}" for x in (self.median, *self.spread))
        return f"{middle}x ({low}-{high}, {self._count('pair')})"


def _seconds(fn: Callable[[], object], device: Device | None) -> float:
    with Stopwatch(device=device) as watch:
        fn()
    return watch.seconds


def _check_repeats(repeats: int) -> None:
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}, so nothing would be measured: ask for at least 1")


def time_call(
    fn: Callable[[], object], *, repeats: int = 5, warmup: int = 1, device: Device | None = None
) -> Timing:
    """Time `repeats` calls of `fn`, after `warmup` calls that do not count.

    Each call is timed until `device` has finished its work (None: the accelerator of this machine, if any).

    Raises:
        ValueError: `repeats` is less than 1.
    """
    _check_repeats(repeats)
    for _ in range(warmup):
        fn()
    return Timing(tuple(_seconds(fn, device) for _ in range(repeats)))


def throughput(
    fn: Callable[[], object],
    items: int,
    *,
    unit: str = "items",
    repeats: int = 5,
    warmup: int = 1,
    device: Device | None = None,
) -> Rate:
    """Measure the items per second of `fn`, where one call handles `items` of them; see `time_call`."""
    timing = time_call(fn, repeats=repeats, warmup=warmup, device=device)
    return Rate(tuple(items / seconds for seconds in timing.seconds), unit, "call")


def compare(
    a: Callable[[], object],
    b: Callable[[], object],
    *,
    repeats: int = 5,
    warmup: int = 1,
    device: Device | None = None,
) -> Ratio:
    """Measure how many times as fast `a` is as `b` (2.0: `a` takes half the time).

    The calls alternate (a, b, a, b, ...), so that a machine that slows down meanwhile slows both down. Each
    pair gives one ratio, seconds of `b` over seconds of `a`.

    Raises:
        ValueError: `repeats` is less than 1.
    """
    _check_repeats(repeats)
    for _ in range(warmup):
        a()
        b()
    pairs = [(_seconds(a, device), _seconds(b, device)) for _ in range(repeats)]
    return Ratio(tuple(seconds_b / seconds_a for seconds_a, seconds_b in pairs))
