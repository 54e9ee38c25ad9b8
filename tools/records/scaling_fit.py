"""Fit how the loss of a language model falls with its parameters N and its training bytes D, with intervals.

Two laws are fitted, by least squares in the logarithm of the loss: the sum of Hoffmann et al. (2022), `Sum`, and the
joint law of Kaplan et al. (2020), `Joint`. Intervals come from a bootstrap: the residuals are dealt out anew, and the
law is fitted again.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Array = NDArray[np.float64]
Run = dict[str, Any]


@dataclass(frozen=True)
class Sum:
    """loss = E + A / N**a + B / D**b, in nats per byte."""

    E: float
    A: float
    B: float
    a: float
    b: float

    def __call__(self, parameters: Array | float, size: Array | float) -> Array | float:
        return self.E + self.A * parameters**-self.a + self.B * size**-self.b

    @property
    def share(self) -> float:
        """How the best N grows with compute C = 6 N D: N ~ C**share, D ~ C**(1 - share)."""
        return self.b / (self.a + self.b)


@dataclass(frozen=True)
class Joint:
    """loss = ((Nc / N)**(a / b) + Dc / D)**b, in nats per byte; `log_nc` is the logarithm of Nc."""

    log_nc: float
    log_dc: float
    a: float
    b: float

    def __call__(self, parameters: Array | float, size: Array | float) -> Array | float:
        by_n = (self.log_nc - np.log(parameters)) * self.a / self.b
        return np.exp(self.b * np.logaddexp(by_n, self.log_dc - np.log(size)))

    @property
    def share(self) -> float:
        """How the best N grows with compute C = 6 N D, as in `Sum`."""
        return self.b / (self.a + self.b)


Law = Sum | Joint
Fit = Callable[..., Law]


def fit_joint(parameters: Array, size: Array, loss: Array, start: Joint | None = None) -> Joint:
    """Return the joint law that fits best. Without a `start` the search begins at several places."""
    log_n, log_d, log_loss = np.log(parameters), np.log(size), np.log(loss)

    def residuals(x: Array) -> Array:
        return x[3] * np.logaddexp((x[0] - log_n) * x[2] / x[3], x[1] - log_d) - log_loss

    def guess(a: float, b: float) -> list[float]:  # both terms alike in the middle, with the right loss there
        half = log_loss.mean() / b - np.log(2)
        return [log_n.mean() + half * b / a, log_d.mean() + half, a, b]

    guesses = (
        [guess(a, b) for a in (0.05, 0.15, 0.4) for b in (0.1, 0.3)] if start is None else [astuple(start)]
    )
    bounds = ([0, 0, 0.005, 0.02], [300, 300, 2, 2])
    fits = [least_squares(residuals, np.clip(x, *bounds), bounds=bounds, x_scale="jac") for x in guesses]
    return Joint(*(float(x) for x in min(fits, key=lambda fit: fit.cost).x))


def fit_sum(parameters: Array, size: Array, loss: Array, start: Sum | None = None) -> Sum:
    """Return the sum that fits best. Without a `start` the search begins at several places.

    Raises:
        ValueError: there are fewer than 3 different N or D, or fewer than 6 points.
    """
    if len(loss) < 6 or len(np.unique(parameters)) < 3 or len(np.unique(size)) < 3:
        raise ValueError("five numbers cannot be fitted to these runs: train 3 sizes on 3 amounts of text")
    n0, d0 = (
        float(np.exp(np.log(x).mean())) for x in (parameters, size)
    )  # A and B at the middle: well scaled
    log_n, log_d, log_loss = np.log(parameters / n0), np.log(size / d0), np.log(loss)

    def terms(x: Array) -> Array:
        return np.exp([np.full_like(log_n, x[0]), x[1] - x[3] * log_n, x[2] - x[4] * log_d])

    def residuals(x: Array) -> Array:
        return np.log(terms(x).sum(0)) - log_loss

    def jacobian(x: Array) -> Array:
        e, by_n, by_d = terms(x) / terms(x).sum(0)
        return np.stack([e, by_n, by_d, -log_n * by_n, -log_d * by_d], axis=1)

    low = np.log(loss.min())
    if start is None:
        guesses = [
            [low + np.log(e), low + np.log((1 - e) / 2), low + np.log((1 - e) / 2), a, b]
            for e in (0.2, 0.6, 0.9)
            for a in (0.1, 0.4)
            for b in (0.1, 0.4)
        ]
    else:
        at_middle = (start.A * n0**-start.a, start.B * d0**-start.b)
        guesses = [[*np.log(np.maximum([start.E, *at_middle], 1e-6)), start.a, start.b]]
    bounds = ([-14, -14, -14, 0.01, 0.01], [low, 5, 5, 3, 3])
    fits = [
        least_squares(residuals, np.clip(guess, *bounds), jacobian, bounds=bounds, x_scale="jac")
        for guess in guesses
    ]
    e, at_n, at_d, a, b = min(fits, key=lambda fit: fit.cost).x
    return Sum(float(np.exp(e)), float(np.exp(at_n) * n0**a), float(np.exp(at_d) * d0**b), float(a), float(b))


def bootstrap(fit: Fit, points: tuple[Array, Array, Array], law: Law, repeats: int, seed: int) -> list[Law]:
    """Return laws fitted to what `law` says at `points`, with its residuals dealt out anew, `repeats` times."""
    generator = np.random.default_rng(seed)
    parameters, size, _ = points
    expected, residuals = np.log(law(parameters, size)), residuals_of(law, points)
    draws = generator.choice(residuals, (repeats, len(residuals)))
    return [fit(parameters, size, np.exp(expected + draw), start=law) for draw in draws]


def residuals_of(law: Law, points: tuple[Array, Array, Array]) -> Array:
    """Return the residuals in log(loss), centered, and widened because the law's numbers were fitted to them."""
    parameters, size, loss = points
    residuals = np.log(loss) - np.log(law(parameters, size))
    return (residuals - residuals.mean()) * np.sqrt(len(loss) / max(1, len(loss) - len(fields(law))))


def interval(values: Array) -> list[float]:
    """Return the 95 % percentile interval."""
    return [float(x) for x in np.percentile(values, [2.5, 97.5])]


def cells(runs: list[Run], count: str) -> tuple[Array, Array, Array]:
    """Return N (by the key `count`), D and the mean loss over the seeds, one of each per size and amount."""
    keys = sorted({(run[count], run["bytes"]) for run in runs})
    losses = [np.mean([run["loss"] for run in runs if (run[count], run["bytes"]) == key]) for key in keys]
    return *np.array(keys, dtype=float).T, np.array(losses)


def describe(fit: Fit, runs: list[Run], count: str, repeats: int) -> tuple[dict[str, Any], Law, list[Law]]:
    """Fit a law to runs; return its numbers with intervals, the law, and those of the bootstrap."""
    points = cells(runs, count)
    law = fit(*points)
    laws = bootstrap(fit, points, law, repeats, seed=0)
    names = [field.name for field in fields(law)] + ["share"]
    numbers = {name: [getattr(law, name), *interval([getattr(x, name) for x in laws])] for name in names}
    error = float(np.sqrt(np.mean((np.log(points[2]) - np.log(law(*points[:2]))) ** 2)))
    return numbers | {"points": len(points[0]), "rms_log_error": error}, law, laws


def seed_noise(runs: list[Run]) -> float:
    """Return the standard deviation of log(loss) over seeds, pooled over all cells with several."""
    groups: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        groups.setdefault((run["width"], run["bytes"]), []).append(np.log(run["loss"]))
    several = [np.array(losses) for losses in groups.values() if len(losses) > 1]
    if not several:
        raise ValueError(
            "the spread over seeds is unknown: train at least one size on one text with two seeds"
        )
    squares = sum(((losses - losses.mean()) ** 2).sum() for losses in several)
    return float(np.sqrt(squares / sum(len(losses) - 1 for losses in several)))


def best_size(law: Sum, compute: float) -> float:
    """Return the N with the lowest loss for `compute` = 6 N D FLOPs, where the law's derivative is zero."""
    ratio = (law.a * law.A / (law.b * law.B)) ** (1 / (law.a + law.b))
    return ratio * (compute / 6) ** law.share


def predict(
    law: Law, laws: list[Law], runs: list[Run], smaller: list[Run], count: str
) -> list[dict[str, Any]]:
    """Compare `runs` with what the law of the smaller models says; the interval holds a residual of theirs, too."""
    residuals = residuals_of(law, cells(smaller, count))
    noise = np.exp(np.random.default_rng(1).choice(residuals, len(laws)))
    rows = []
    for n, d, loss in zip(*cells(runs, count), strict=True):
        spread = np.array([other(n, d) for other in laws]) * noise
        seeds = len([run for run in runs if run["bytes"] == d])
        row = {"bytes": int(d), "seeds": seeds, "measured": float(loss), "predicted": float(law(n, d))}
        rows.append(row | {"interval": interval(spread)})
    return rows


def summarize(runs: list[Run], held_out: int, repeats: int = 1000) -> dict[str, Any]:
    """Return all that the outlook says about `runs`: laws, and what they predict for the width `held_out`.

    Each law is fitted for two counts: "parameters" are all of them, "block_parameters" leave out the embeddings and
    the output layer.
    """
    runs = [run for run in runs if run["kind"] == "grid"]
    smaller = [run for run in runs if run["width"] != held_out]
    larger = [run for run in runs if run["width"] == held_out]
    summary: dict[str, Any] = {"repeats": repeats, "seed_noise": seed_noise(runs)}
    for name, fit in (("sum", fit_sum), ("joint", fit_joint)):
        summary[name] = {}
        for count in ("parameters", "block_parameters"):
            numbers, law, laws = describe(fit, runs, count, repeats)
            if name == "sum":
                largest = max(larger, key=lambda run: run["bytes"])
                compute = 6 * largest[count] * largest["bytes"]
                numbers["best_size"] = [
                    best_size(law, compute),
                    *interval([best_size(x, compute) for x in laws]),
                ]
            numbers["smaller"], law, laws = describe(fit, smaller, count, repeats)
            numbers["predictions"] = predict(law, laws, larger, smaller, count)
            summary[name][count] = numbers
    return summary
