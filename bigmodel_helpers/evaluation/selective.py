"""What a model gets wrong when it may leave its unsure answers out. Introduced in chapter 9."""

import torch
from torch import Tensor

from bigmodel_helpers.evaluation.comparison import Estimate, bootstrap


def _check(confidence: Tensor, right: Tensor) -> None:
    if confidence.ndim != 1 or right.shape != confidence.shape or right.dtype != torch.bool:
        kinds = f"{confidence.dtype} {tuple(confidence.shape)} and {right.dtype} {tuple(right.shape)}"
        raise ValueError(f"{kinds} do not fit: pass confidence (N,) and right, bool (N,)")
    if len(confidence) == 0 or confidence.isnan().any():
        raise ValueError("there are no examples, or a confidence is NaN: check where it comes from")


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

    >>> evaluation.risk_coverage(torch.tensor([0.9, 0.5]), torch.tensor([True, False]))[1].tolist()
    [0.0, 0.5]
    """
    _check(confidence, right)
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
    _check(confidence, right)
    return bootstrap(lambda c, r: risk_coverage(c, r)[1].mean(), confidence, right, draws=draws, seed=seed)
