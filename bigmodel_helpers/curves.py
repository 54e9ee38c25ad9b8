"""What a threshold does: ROC, precision and recall, risk and coverage, with intervals. Introduced in chapter 9."""

import torch
from torch import Tensor

from bigmodel_helpers.comparison import Estimate, bootstrap


def _check(scores: Tensor, flags: Tensor, what: str) -> None:
    if scores.ndim != 1 or flags.shape != scores.shape or flags.dtype != torch.bool:
        kinds = f"{scores.dtype} {tuple(scores.shape)} and {flags.dtype} {tuple(flags.shape)}"
        raise ValueError(f"{kinds} do not fit: pass scores (N,) and {what}, bool (N,)")
    if len(scores) == 0 or scores.isnan().any():
        raise ValueError(
            "there are no scores, or some are NaN: pass at least one, and check where NaN comes from"
        )


def _check_both(scores: Tensor, positive: Tensor) -> None:
    _check(scores, positive, "positive")
    if positive.all() or not positive.any():
        raise ValueError("all examples are of one kind: a curve needs positive and negative ones")


def _counts(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count true and false positives at each distinct score, as threshold; the highest score comes first."""
    scores, order = scores.double().sort(descending=True)
    hits = positive[order].double()
    last = torch.cat([scores[1:] != scores[:-1], torch.tensor([True], device=scores.device)])
    return hits.cumsum(0)[last], (1 - hits).cumsum(0)[last], scores[last]


def roc_curve(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ROC curve: what share of the negatives and of the positives is called positive at each threshold.

    Args:
        scores: (N,), higher means more likely positive.
        positive: bool (N,), the truth.

    Returns:
        False positive rate, true positive rate and threshold, each float64 (K,), K - 1 the number of distinct
        scores. The first point is (0, 0) at an infinite threshold; an example is called positive if its score is
        at least the threshold.

    Raises:
        ValueError: the shapes or types do not fit, a score is NaN, or the positives or the negatives are missing.
    """
    _check_both(scores, positive)
    true, false, thresholds = _counts(scores, positive)
    start = torch.zeros(1, dtype=torch.float64, device=scores.device)
    return (
        torch.cat([start, false / false[-1]]),
        torch.cat([start, true / true[-1]]),
        torch.cat([start + torch.inf, thresholds]),
    )


def precision_recall_curve(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return precision, recall and threshold at each distinct score, the highest first, each float64 (K,).

    Args and errors as in `roc_curve`. scikit-learn's function of the same name has the opposite order and one
    more point, precision 1 at recall 0, which belongs to no threshold.
    """
    _check_both(scores, positive)
    true, false, thresholds = _counts(scores, positive)
    return true / (true + false), true / true[-1], thresholds


def _auc(scores: Tensor, positive: Tensor) -> float:
    above, below = scores[positive], scores[~positive].sort().values
    if len(above) == 0 or len(below) == 0:
        return float("nan")
    lower = torch.searchsorted(below, above) + torch.searchsorted(below, above, right=True)
    return lower.double().mean().item() / (2 * len(below))


def roc_auc(scores: Tensor, positive: Tensor, *, draws: int = 1000, seed: int = 0) -> Estimate:
    """Return the area under the ROC curve with its 95 % bootstrap interval.

    It is the chance that a random positive has a higher score than a random negative; of a tie, one half.
    Args and errors as in `roc_curve`; `draws` and `seed` as in `comparison.bootstrap`.
    """
    _check_both(scores, positive)
    return bootstrap(_auc, scores, positive, draws=draws, seed=seed)


def _average_precision(scores: Tensor, positive: Tensor) -> float:
    if not positive.any():
        return float("nan")
    true, false, _ = _counts(scores, positive)
    gained = torch.diff(true, prepend=true.new_zeros(1))
    return (gained * true / (true + false)).sum().item() / true[-1].item()


def average_precision(scores: Tensor, positive: Tensor, *, draws: int = 1000, seed: int = 0) -> Estimate:
    """Return the average precision with its 95 % bootstrap interval: the mean precision at the positives.

    It sums the precisions times the steps in recall, as scikit-learn does, and does not interpolate between them.
    Args and errors as in `roc_curve`; `draws` and `seed` as in `comparison.bootstrap`.
    """
    _check_both(scores, positive)
    return bootstrap(_average_precision, scores, positive, draws=draws, seed=seed)


def risk_coverage(confidence: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of wrong answers among the surest k examples, for k = 1, ..., N (selective prediction).

    Args:
        confidence: (N,), higher means surer. Equal values stand in an arbitrary order, so each of them counts
            with the mean error of all of them.
        right: bool (N,), whether the answer is right.

    Returns:
        Coverage k / N and risk, each float64 (N,).

    Raises:
        ValueError: the shapes or types do not fit, or a confidence is NaN.
    """
    _check(confidence, right, "right")
    ordered, order = confidence.sort(descending=True)
    _, group, sizes = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    wrong = (~right[order]).double()
    mean = torch.bincount(group, weights=wrong) / sizes
    k = torch.arange(1, len(right) + 1, dtype=torch.float64, device=right.device)
    return k / len(right), mean[group].cumsum(0) / k


def risk_coverage_area(confidence: Tensor, right: Tensor, *, draws: int = 1000, seed: int = 0) -> Estimate:
    """Return the mean of the risk over all coverages (AURC) with its 95 % bootstrap interval; lower is better.

    Args and errors as in `risk_coverage`; `draws` and `seed` as in `comparison.bootstrap`.
    """
    _check(confidence, right, "right")
    return bootstrap(lambda c, r: risk_coverage(c, r)[1].mean(), confidence, right, draws=draws, seed=seed)
