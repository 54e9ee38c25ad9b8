"""Parameters, FLOPs, memory and time: the book's only stopwatch. Introduced in chapter 1."""

import ctypes
import gc
import math
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from bigmodel_helpers.runtime import best_device, synchronize

Device = torch.device | str


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
    """Seconds that each call took; printed as ``12.3 ms (11.9-13.0, 5 runs)``: median and range."""

    @property
    def seconds(self) -> tuple[float, ...]:
        """The values: seconds per call."""
        return self.values

    def __str__(self) -> str:
        scale, unit = (1, "s") if self.median >= 1 else (1e3, "ms") if self.median >= 1e-3 else (1e6, "µs")
        middle = self.median * scale
        low, high = (_number(x * scale, middle) for x in self.spread)
        return f"{_number(middle)} {unit} ({low}-{high}, {self._count('run')})"


@dataclass(frozen=True)
class Rate(_Repeats):
    """Items per second of each call; printed as ``1,234 images/s (1,198-1,260, 5 runs)``."""

    unit: str = "items"

    def __str__(self) -> str:
        low, high = (_number(x, self.median) for x in self.spread)
        return f"{_number(self.median)} {self.unit}/s ({low}-{high}, {self._count('run')})"


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
    return Rate(tuple(items / seconds for seconds in timing.seconds), unit)


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


def parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Count the parameters of `model`, shared ones once; `trainable_only`: those that require a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def model_bytes(model: nn.Module) -> int:
    """Return the bytes that the parameters and buffers of `model` occupy, shared ones once."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def _conv_backward_flops(grad_out: list[int], x: list[int], w: list[int], *rest: Any, **_: Any) -> int:
    """Count the FLOPs of the forward pass for each gradient asked for, that of the input and of the weight.

    The formula in PyTorch 2.15 counts the gradient of the weight `groups` times.
    """
    transposed, output_mask = rest[4], rest[7]
    return sum(output_mask[:2]) * conv_flop_count(x, w, grad_out, transposed)


def flops(model: nn.Module, *inputs: Tensor, backward: bool = False) -> int:
    """Count the floating-point operations of ``model(*inputs)``; one multiply-add is 2 FLOPs.

    Matrix products, convolutions and attention count; biases, normalization and activations, cheap beside
    them, do not. The model runs on meta tensors, which have shapes but no data: nothing is computed, and
    neither the model nor its gradients change. `inputs` may be meta tensors, too.

    Args:
        model: a module that returns one tensor.
        inputs: what the model is called with, one batch.
        backward: also count the backward pass to all parameters that require a gradient.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped
    state = {name: buffer.to("meta") for name, buffer in model.named_buffers()}
    for name, p in model.named_parameters():
        state[name] = p.detach().to("meta").requires_grad_(p.requires_grad)
    formulas = {torch.ops.aten.convolution_backward: _conv_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter, torch.set_grad_enabled(backward):
        output = torch.func.functional_call(model, state, tuple(x.to("meta") for x in inputs))
        if backward:
            trainable = [t for t in state.values() if t.requires_grad]
            torch.autograd.grad(output.sum(), trainable, allow_unused=True)
    return counter.get_total_flops()


def _resident_bytes() -> int:
    """Return the physical memory that this process occupies now."""
    if sys.platform.startswith("linux"):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "darwin":
        info, word = (ctypes.c_uint64 * 12)(), 8  # struct rusage_info_v0: ri_resident_size is word 8
        failed = ctypes.CDLL(None).proc_pid_rusage(os.getpid(), 0, info) != 0
    elif sys.platform == "win32":
        info, word = (ctypes.c_size_t * 9)(72), 2  # struct PROCESS_MEMORY_COUNTERS: WorkingSetSize is word 2
        failed = not ctypes.windll.kernel32.K32GetProcessMemoryInfo(ctypes.c_void_p(-1), info, 72)
    else:
        raise RuntimeError(f"resident memory cannot be read on {sys.platform}: use Linux, macOS or Windows")
    if failed:
        raise RuntimeError("the operating system does not tell the resident memory: use another machine")
    return info[word]


def _sampled_growth(fn: Callable[[], object], read: Callable[[], int]) -> int:
    """Run `fn` while a thread calls `read` every millisecond; return highest minus first reading."""
    done = threading.Event()
    before = highest = read()

    def sample() -> None:
        nonlocal highest
        while not done.wait(0.001):
            highest = max(highest, read())

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        fn()
    finally:
        done.set()
        sampler.join()
    return max(highest, read()) - before


def peak_memory(fn: Callable[[], object], device: Device) -> int:
    """Return how many bytes `fn` needs at its peak, on top of what is in use when it starts.

    CUDA: bytes of tensors, as PyTorch's allocator counts them (exact). MPS: the same, sampled every
    millisecond. CPU: growth of the memory that the whole process occupies, sampled every millisecond, so a
    shorter peak can be missed; under glibc, memory that was freed earlier is first handed back to the system,
    so that it does not hide a need.

    What `fn` returns is not kept.

    Raises:
        RuntimeError: memory cannot be read on this device or operating system.
    """
    device = torch.device(device)
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        fn()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type == "mps":
        return _sampled_growth(fn, torch.mps.current_allocated_memory)
    if device.type == "cpu":
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)
        return _sampled_growth(fn, _resident_bytes)
    raise RuntimeError(f"peak memory of device {device} cannot be measured: use cuda, mps or cpu")
