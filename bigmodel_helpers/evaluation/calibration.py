"""Do the probabilities of a classifier mean what they say? Introduced in chapter 9."""

import torch
import torch.nn.functional as F
from torch import Tensor


def reliability(logits: Tensor, labels: Tensor, bins: int = 15) -> tuple[Tensor, Tensor, Tensor]:
    """Sort predictions into bins of equal width by their confidence, the largest probability.

    Args:
        logits: (N, C).
        labels: (N,), the true classes.
        bins: number of bins between 0 and 1.

    Returns:
        Mean confidence, accuracy and number of predictions per bin, each (bins,); NaN where a bin is empty.

    Raises:
        ValueError: the shapes do not fit, or `bins` is less than 1.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or bins < 1:
        shapes = f"{tuple(logits.shape)}, {tuple(labels.shape)}, {bins} bins"
        raise ValueError(f"{shapes}: pass logits (N, C), labels (N,) and at least 1 bin")
    confidence, predicted = logits.double().softmax(1).max(1)
    index = (confidence * bins).long().clamp(max=bins - 1)
    counts = torch.bincount(index, minlength=bins)
    confidences = torch.bincount(index, weights=confidence, minlength=bins) / counts
    accuracies = torch.bincount(index, weights=(predicted == labels).double(), minlength=bins) / counts
    return confidences, accuracies, counts


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the mean distance of confidence and accuracy over the bins of `reliability` (Guo et al. 2017).

    It is never below zero, so chance alone makes it positive: a perfect model has a positive value on few examples.

    >>> evaluation.expected_calibration_error(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))
    0.0
    """
    confidences, accuracies, counts = reliability(logits, labels, bins)
    gaps = (confidences - accuracies).abs() * counts / counts.sum()
    return gaps.nansum().item()


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the T above 0 for which ``logits / T`` has the smallest cross-entropy (Guo et al. 2017).

    The largest logit stays the largest, so the accuracy does not change. Fit it on validation data.

    Raises:
        ValueError: there is no smallest one, because every answer is right (T would go to 0), or because the logits
            of the labels are on average no higher than the others (T would grow without limit).
    """
    own = logits.detach().gather(1, labels[:, None])[:, 0]
    if (own == logits.detach().amax(1)).all() or (own - logits.detach().mean(1)).mean() <= 0:
        raise ValueError(
            "no temperature is best when all answers are right, or no better than chance: pass other examples"
        )
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")
    fixed = logits.detach().double()

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(fixed / log_t.exp(), labels)
        value.backward()
        return value

    optimizer.step(loss)
    return log_t.exp().item()
