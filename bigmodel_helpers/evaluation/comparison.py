"""Is model B better than model A, and how sure is that? Introduced in chapter 9."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, printed as ``0.034 (0.012 to 0.057)``.

    Attributes:
        value: the statistic of the data.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap(
    statistic: Callable[..., Tensor | float],
    *samples: Tensor,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Return a statistic with its percentile bootstrap interval (Efron 1979).

    In each draw, as many examples as there are are chosen with replacement, the same ones from all samples, so
    that what belongs together stays together: the answers of two models to one image, for example.

    Args:
        statistic: maps tensors like `samples` to one number; also to NaN, where a draw has none, which is left
            out (the precision of a class that was never predicted).
        samples: tensors whose first dimension is the example, N of them.
        draws: number of resamples; 2,000 leave the ends uncertain by about a twentieth of the standard error.
        level: share of such intervals that should hold the true value.
        seed: of the choice.

    Raises:
        ValueError: no sample, samples of different lengths, fewer than 2 examples, or more than half of the
            draws give NaN.

    >>> evaluation.bootstrap(torch.mean, torch.ones(50))
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    lengths = {len(sample) for sample in samples}
    if len(lengths) != 1 or min(lengths) < 2:
        raise ValueError(
            f"samples of lengths {sorted(lengths)}: pass tensors of one common length, at least 2"
        )
    (n,) = lengths
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(draws):
        chosen = torch.randint(n, (n,), generator=generator)
        values.append(float(statistic(*(sample[chosen] for sample in samples))))
    found = torch.tensor(values, dtype=torch.float64)
    found = found[~found.isnan()]
    if 2 * len(found) < draws:
        raise ValueError(
            f"{draws - len(found)} of {draws} draws have no value: the statistic needs more examples"
        )
    tail = (1 - level) / 2
    low, high = found.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Estimate(float(statistic(*samples)), low, high)


@dataclass(frozen=True)
class McNemar:
    """Two models on the same examples: where exactly one of them is right, and how likely that is by chance.

    Attributes:
        only_a: examples that only the first model gets right.
        only_b: examples that only the second model gets right.
        p_value: chance of a split at least as uneven if both models were equally good.
    """

    only_a: int
    only_b: int
    p_value: float

    def __str__(self) -> str:
        return f"only A right {self.only_a}, only B right {self.only_b}, p = {self.p_value:.3g}"


def mcnemar(right_a: Tensor, right_b: Tensor) -> McNemar:
    """Test whether two models have the same accuracy on the same examples (McNemar 1947, exact and two-sided).

    Examples that both models get right, or both wrong, say nothing about the difference. Among the others each
    side should have half: a fair coin.

    Args:
        right_a: bool (N,), whether the first model is right.
        right_b: bool (N,), the same for the second model, in the same order.

    Raises:
        ValueError: the shapes differ, or the tensors are not bool.

    >>> right = torch.tensor([True] * 8 + [False] * 8)
    >>> print(evaluation.mcnemar(right, torch.ones(16, dtype=torch.bool)))
    only A right 0, only B right 8, p = 0.00781
    """
    if right_a.shape != right_b.shape or {right_a.dtype, right_b.dtype} != {torch.bool}:
        kinds = f"{right_a.dtype} {tuple(right_a.shape)} and {right_b.dtype} {tuple(right_b.shape)}"
        raise ValueError(f"{kinds} cannot be compared: pass two bool tensors for the same examples")
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    n, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))  # a whole number, and 2**n too: exact for any n
    return McNemar(only_a, only_b, float(min(Fraction(1), Fraction(2 * tail, 2**n))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for several comparisons (Holm 1979), in the order given.

    If those below 0.05 are called differences, the chance of one or more false calls is at most 0.05.

    Raises:
        ValueError: a p-value is not between 0 and 1.

    >>> evaluation.holm([0.03125, 0.5, 0.25])
    [0.09375, 0.5, 0.5]
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values {list(p_values)}: each must lie between 0 and 1")
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for done, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[index]))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True)
class VarianceSplit:
    """Where the chance in an accuracy comes from; see `variance_split`.

    Attributes:
        accuracy: mean over all trainings and examples.
        training: standard deviation of the true accuracy from one training to the next.
        test: standard deviation that the choice of the test examples adds to the accuracy of one training.
        of_mean: standard error of `accuracy`, which holds both.
    """

    accuracy: float
    training: float
    test: float
    of_mean: float


def variance_split(right: Tensor) -> VarianceSplit:
    """Split the chance in an accuracy into the trainings and the test examples (analysis of variance, two ways).

    Args:
        right: bool or float (S, N): whether training s answers example i right, the same examples for all.

    Raises:
        ValueError: there are fewer than 2 trainings or 2 examples.
    """
    if right.ndim != 2 or min(right.shape) < 2:
        raise ValueError(f"right is {tuple(right.shape)}: pass (S, N), 2 or more trainings and examples")
    x = right.double()
    s, n = x.shape
    mean, by_training, by_example = x.mean(), x.mean(1, keepdim=True), x.mean(0, keepdim=True)
    rest = (x - by_training - by_example + mean).square().sum() / ((s - 1) * (n - 1))
    training = (by_training.var() - rest / n).clamp(min=0)
    example = (by_example.var() - rest / s).clamp(min=0)
    of_mean = training / s + example / n + rest / (s * n)
    parts = (training, (example + rest) / n, of_mean)
    return VarianceSplit(mean.item(), *(part.sqrt().item() for part in parts))


def power(examples: int, difference: float, disagreement: float, alpha: float = 0.05) -> float:
    """Return the chance that `mcnemar` finds a true difference of two models, by the normal approximation.

    Args:
        examples: size of the test set.
        difference: true accuracy of B minus that of A, as a share (0.01 for one point).
        disagreement: share of examples that exactly one of the models gets right.
        alpha: p-value below which a difference is called.

    Raises:
        ValueError: `examples` is less than 1, or the models cannot disagree so little.
    """
    if examples < 1 or not abs(difference) <= disagreement <= 1 or disagreement == 0:
        raise ValueError(
            f"{examples} examples, difference {difference}, disagreement {disagreement}: "
            "take at least 1 example, and a disagreement from |difference| to 1, above 0"
        )
    normal = NormalDist()
    limit = normal.inv_cdf(1 - alpha / 2) * math.sqrt(disagreement)
    shift = abs(difference) * math.sqrt(examples)
    spread = math.sqrt(max(disagreement - difference**2, 1e-12))
    return normal.cdf((shift - limit) / spread) + normal.cdf((-shift - limit) / spread)


def examples_needed(
    difference: float, disagreement: float, *, chance: float = 0.8, alpha: float = 0.05
) -> int:
    """Return how many test examples give at least this `chance` to find a difference; see `power`.

    Raises:
        ValueError: the difference is 0, `chance` is not between `alpha` and 1, or see `power`.

    >>> evaluation.examples_needed(difference=0.01, disagreement=0.1)
    7847
    """
    if difference == 0 or not alpha < chance < 1:
        raise ValueError(f"difference {difference}, chance {chance}: no number of examples is enough")
    low, high = 0, 1
    while power(high, difference, disagreement, alpha) < chance:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if power(middle, difference, disagreement, alpha) >= chance else (middle, high)
        )
    return high


def mean_difference(values: Tensor, reference: Tensor, level: float = 0.95) -> Estimate:
    """Return the mean of ``values - reference`` with its interval, for two models on the same examples.

    Paired: what makes an example hard for both models drops out, so the interval is narrower than those of the two
    means. By the normal approximation, for a hundred examples or more. Introduced in chapter 8.

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
    reach = NormalDist().inv_cdf((1 + level) / 2) * differences.std().item() / math.sqrt(len(differences))
    return Estimate(mean, mean - reach, mean + reach)
