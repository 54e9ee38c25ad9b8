"""One promise of the book, measured: its median, its range, and what it must reach."""

import statistics
from dataclasses import dataclass

from bigmodel_helpers import data


@dataclass(frozen=True)
class Figure:
    """One promise: what was measured, its median and range, and what it must reach."""

    name: str
    what: str
    unit: str
    median: float
    low: float
    high: float
    runs: int
    floor: float
    goal: float
    less_is_better: bool = False

    @property
    def holds(self) -> bool:
        """Say whether the median reaches the floor."""
        return self.median <= self.floor if self.less_is_better else self.median >= self.floor

    def __str__(self) -> str:
        spread = f"{self.median:.3g} {self.unit} ({self.low:.3g}-{self.high:.3g}, repeats: {self.runs})"
        verdict = "holds" if self.holds else "BELOW THE FLOOR"
        return f"{self.what}: {spread}; floor {self.floor:g}, goal {self.goal:g}: {verdict}"


def figure(
    name: str, what: str, unit: str, values: list[float], *, floor: float, goal: float, less: bool = False
) -> Figure:
    """Return the median and the range of `values` as a `Figure`."""
    return Figure(
        name, what, unit, statistics.median(values), min(values), max(values), len(values), floor, goal, less
    )


def are_real(name: str, images: data.ImageSet) -> bool:
    """Say whether these are the real images, and print that the benchmark needs them where they are not."""
    real = images.source.startswith("CIFAR-10")
    if not real:
        print(f"{name}: needs the real images; set BIGMODEL_DATA", flush=True)
    return real
