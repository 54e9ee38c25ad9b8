"""One table for all variants of a model: size, work, time, quality. Introduced in chapter 8."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bigmodel_helpers.comparison import Estimate
from bigmodel_helpers.measure import Ratio


def mean_difference(values: Tensor, reference: Tensor, level: float = 0.95) -> Estimate:
    """Return the mean of ``values - reference`` with its interval, for two models on the same examples.

    Paired: what makes an example hard for both models drops out, so the interval is narrower than those of the two
    means. By the normal approximation, for a hundred examples or more.

    Args:
        values: (N,), one number per example: bool for right or wrong, or a loss.
        reference: (N,), the same for the model to compare with, in the same order.
        level: share of such intervals that should hold the true difference.

    Raises:
        ValueError: the shapes differ, or there are fewer than 2 examples.
    """
    if values.shape != reference.shape or values.ndim != 1 or len(values) < 2:
        shapes = f"{tuple(values.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"{shapes} cannot be compared: pass one number per example, the same examples twice")
    differences = values.double() - reference.double()
    mean = differences.mean().item()
    reach = math.sqrt(2) * torch.erfinv(torch.tensor(level, dtype=torch.float64)).item()
    reach *= differences.std().item() / math.sqrt(len(differences))
    return Estimate(mean, mean - reach, mean + reach)


def pareto_front(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Return the places of the entries that no other beats: none is as cheap or cheaper and better, cheapest first.

    Args:
        costs: one per entry, less is better.
        scores: one per entry, more is better.

    Raises:
        ValueError: the lengths differ.
    """
    if len(costs) != len(scores):
        raise ValueError(f"{len(costs)} costs and {len(scores)} scores: pass one of each per entry")
    front: list[int] = []
    for place in sorted(range(len(costs)), key=lambda i: (costs[i], -scores[i])):
        if not front or scores[place] > scores[front[-1]]:
            front.append(place)
    return front


@dataclass(frozen=True, eq=False)
class Entry:
    """A variant of a model and what was measured of it.

    Attributes:
        name: what was done.
        bytes: of its file.
        parameters: numbers that it computes with.
        flops: per example, one multiply-add is 2.
        values: (N,), one number per test example, see `mean_difference`; more is better.
        speed: how many times as fast as the first entry; None where it was not measured.
    """

    name: str
    bytes: int
    parameters: int
    flops: int
    values: Tensor
    speed: Ratio | None = None

    @property
    def score(self) -> float:
        """Mean of the values."""
        return self.values.double().mean().item()


class Scoreboard:
    """Entries in the order of `add`; the first is what all others are compared with.

    ``pandas.DataFrame(board.rows())`` shows it.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def add(self, entry: Entry) -> Entry:
        """Add an entry and return it; one of the same name is replaced.

        Raises:
            ValueError: it was tested on another number of examples than the first.
        """
        if self.entries and len(entry.values) != len(self.entries[0].values):
            raise ValueError(
                f"{entry.name!r} was tested on {len(entry.values)} examples, {self.entries[0].name!r} on "
                f"{len(self.entries[0].values)}: use the same examples for all"
            )
        names = [one.name for one in self.entries]
        if entry.name in names:
            self.entries[names.index(entry.name)] = entry
        else:
            self.entries.append(entry)
        return entry

    def __getitem__(self, name: str) -> Entry:
        """Return the entry called `name`.

        Raises:
            KeyError: there is none.
        """
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(
            f"no entry {name!r}: there are {', '.join(e.name for e in self.entries) or 'none yet'}"
        )

    def difference(self, name: str) -> Estimate:
        """Return by how much an entry's score is above the first entry's, with its 95 % interval."""
        return mean_difference(self[name].values, self.entries[0].values)

    def times_smaller(self, name: str) -> float:
        """Return how many times as many bytes the first entry has."""
        return self.entries[0].bytes / self[name].bytes

    def front(self) -> list[Entry]:
        """Return the entries that no other beats in both bytes and score, the smallest first."""
        places = pareto_front([e.bytes for e in self.entries], [e.score for e in self.entries])
        return [self.entries[place] for place in places]

    def rows(self) -> list[dict[str, str | int]]:
        """Return one dict per entry, for a table.

        Scores and differences are in points (hundredths); a speed is the median with the smallest and largest value.
        """
        return [self._row(entry) for entry in self.entries]

    def _row(self, entry: Entry) -> dict[str, str | int]:
        gap, speed, difference = self.difference(entry.name), "-", "-"
        if entry.speed is not None:
            low, high = entry.speed.spread
            speed = f"{entry.speed.median:.2f}x ({low:.2f}-{high:.2f})"
        if entry is not self.entries[0]:
            difference = f"{100 * gap.value:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
        return {
            "variant": entry.name,
            "kB": round(entry.bytes / 1e3),
            "smaller": f"{self.times_smaller(entry.name):.1f}x",
            "score": f"{100 * entry.score:.1f}",
            "difference": difference,
            "speed": speed,
            "MFLOP": round(entry.flops / 1e6),
            "parameters": f"{entry.parameters / 1e6:.2f} M",
        }
