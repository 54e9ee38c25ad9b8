"""What a device can do at most: its matrix products and its memory. Introduced in chapter 1.

The roofline (Williams, Waterman and Patterson 2009): an operation that needs `intensity` FLOPs per byte
cannot run faster than ``min(peak, intensity * bandwidth)``.
"""

from dataclasses import dataclass

import torch

from bigmodel_helpers.measure.timing import Rate, throughput
from bigmodel_helpers.runtime import Device


def peak_flops(
    device: Device, dtype: torch.dtype = torch.float32, size: int = 1024, repeats: int = 5
) -> Rate:
    """Measure FLOPs per second of a square matrix product, the fastest operation there is.

    Args:
        device: where to measure.
        dtype: of both factors. A peak holds for its own format: a card does many times as much in bfloat16 as in
            float32. float32 is computed as ``torch.backends.cuda.matmul.fp32_precision`` says, in TF32 perhaps.
        size: rows and columns; a GPU needs 4096 or more to get near its peak.
        repeats: how often to measure, each time for several products.
    """
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    products = max(1, int(4e9 / (2 * size**3)))

    def work() -> None:
        for _ in range(products):
            torch.mm(a, b)

    return throughput(work, products * 2 * size**3, unit="FLOP", repeats=repeats, device=device)


def bandwidth(device: Device, megabytes: int = 256, repeats: int = 5) -> Rate:
    """Measure bytes per second between memory and processor, by copying a large array.

    A copy reads and writes each byte, so it counts twice. The array must be larger than all caches.

    Args:
        device: where to measure.
        megabytes: size of the array.
        repeats: how often to measure.
    """
    source = torch.ones(megabytes * 1_000_000 // 4, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    return throughput(lambda: target.copy_(source), moved, unit="byte", repeats=repeats, device=device)


@dataclass(frozen=True)
class Roofline:
    """A device's two limits: `peak` in FLOPs per second of one number format, `bandwidth` in bytes per second.

    >>> measure.Roofline(peak=1000, bandwidth=100).attainable(intensity=4)
    400
    """

    peak: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """FLOPs per byte from which on the arithmetic is the limit, no longer the memory."""
        return self.peak / self.bandwidth

    def attainable(self, intensity: float) -> float:
        """Return the most FLOPs per second for an operation with `intensity` FLOPs per byte."""
        return min(self.peak, intensity * self.bandwidth)
