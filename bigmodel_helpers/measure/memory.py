"""The most memory that a function needs. Introduced in chapter 1."""

import ctypes
import gc
import platform
import threading
from collections.abc import Callable

import psutil
import torch

from bigmodel_helpers.runtime import Device, synchronize


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
        return _sampled_growth(fn, lambda: psutil.Process().memory_info().rss)
    raise RuntimeError(f"peak memory of device {device} cannot be measured: use cuda, mps or cpu")
