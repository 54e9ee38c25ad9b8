"""Predictions of a model and how good they are, with intervals. Introduced in chapter 4."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor, nn

from bigmodel_helpers.evaluation.comparison import Estimate


def predict(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    dtype: torch.dtype | None = None,
    mirror: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run `model` in evaluation mode over `batches`; afterwards each module is back in the mode it was in.

    Args:
        model: maps images (B, 3, H, W) to logits (B, C). Batches are moved to the device of its parameters.
        batches: pairs of images and labels (B,).
        dtype: format of mixed precision (autocast); None computes in the format of the model.
        mirror: average the logits of each image and of its left-right mirror image (test-time augmentation).

    Returns:
        Logits (N, C) float32 and labels (N,) int64, both on the CPU.

    Raises:
        ValueError: the model has no parameters, or there is no batch.

    >>> logits, labels = evaluation.predict(nn.Linear(4, 2), [(torch.zeros(3, 4), torch.tensor([0, 1, 1]))])
    >>> logits.shape, labels.tolist()
    (torch.Size([3, 2]), [0, 1, 1])
    """
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise ValueError("the model has no parameters, so its device is unknown: pass a model with weights")
    device, modes = parameter.device, [(module, module.training) for module in model.modules()]
    all_logits, all_labels = [], []
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            for x, y in batches:
                x = x.to(device, non_blocking=True)
                logits = model(x).float()
                if mirror:
                    logits = (logits + model(x.flip(-1)).float()) / 2
                all_logits.append(logits)
                all_labels.append(y)
    finally:
        for module, mode in modes:
            module.training = mode
    if not all_logits:
        raise ValueError("there is no batch to predict: pass at least one image")
    return torch.cat(all_logits).cpu(), torch.cat(all_labels).cpu().long()


@dataclass(frozen=True)
class Proportion:
    """`successes` out of `total`; printed in percent with its 95 % interval, ``88.1 % (87.4-88.7)``.

    Raises:
        ValueError: `total` is less than 1, or `successes` is not between 0 and `total`.

    >>> print(evaluation.Proportion(88, 100))
    88.0 % (80.2-93.0)
    """

    successes: int
    total: int

    def __post_init__(self) -> None:
        if self.total < 1 or not 0 <= self.successes <= self.total:
            counts = f"{self.successes} of {self.total}"
            raise ValueError(f"{counts} is no proportion: successes go from 0 to total, total is 1 or more")

    @property
    def value(self) -> float:
        """The proportion, between 0 and 1."""
        return self.successes / self.total

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the Wilson score interval (Wilson 1927), as two proportions.

        Of many such intervals, about the share `level` holds the true proportion. The interval describes the
        chance in the choice of the test examples, not the chance in training.
        """
        z, n, p = NormalDist().inv_cdf((1 + level) / 2), self.total, self.value
        center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        return min(p, max(0.0, center - half)), max(p, min(1.0, center + half))  # rounding may pass 0 or 1

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{100 * self.value:.1f} % ({100 * low:.1f}-{100 * high:.1f})"


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"logits and labels have shapes {shapes}: pass (N, C) and (N,)")
    if logits.isnan().any():
        raise ValueError("the logits hold NaN, so no class is the largest: check the training for divergence")


def accuracy(logits: Tensor, labels: Tensor) -> Proportion:
    """Return the proportion of examples whose largest logit is that of the label; logits (N, C), labels (N,).

    Raises:
        ValueError: the shapes do not fit, or a logit is NaN.

    >>> evaluation.accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    Proportion(successes=1, total=2)
    """
    return top_k(logits, labels, 1)


def top_k(logits: Tensor, labels: Tensor, k: int) -> Proportion:
    """Return the proportion of examples whose label is among the `k` largest of the logits (N, C).

    Introduced in chapter 9.

    Raises:
        ValueError: the shapes do not fit, a logit is NaN, or `k` is not between 1 and C.
    """
    _check(logits, labels)
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(f"top {k} of {logits.shape[1]} classes: choose k from 1 to that number")
    hits = (logits.topk(k).indices == labels[:, None]).any(1)
    return Proportion(int(hits.sum()), len(labels))


def per_class_accuracy(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Proportion]:
    """Return the accuracy among the examples of each class, by class name; logits (N, C), labels (N,).

    Raises:
        ValueError: the shapes do not fit, a logit is NaN, or a class has no example.
    """
    _check(logits, labels)
    matrix = confusion_matrix(logits, labels, len(classes))
    totals = matrix.sum(1)
    if (totals == 0).any():
        raise ValueError(f"class {classes[int(totals.argmin())]!r} has no example: evaluate on more examples")
    hits = matrix.diagonal().tolist()
    return {name: Proportion(*counts) for name, *counts in zip(classes, hits, totals.tolist(), strict=True)}


def confusion_matrix(logits_or_predictions: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Count the examples of each true class (row) that were given each class (column): (C, C) int64.

    Args:
        logits_or_predictions: logits (N, C), or predicted classes (N,).
        labels: true classes (N,).
        n_classes: C.

    Raises:
        ValueError: the shapes do not fit, a logit is NaN, or a class is not between 0 and C - 1.

    >>> evaluation.confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    predictions = logits_or_predictions
    if predictions.ndim == 2:
        _check(predictions, labels)
        predictions = predictions.argmax(1)
    if predictions.shape != labels.shape:
        shapes = f"{tuple(predictions.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"predictions and labels have shapes {shapes}: pass (N,) and (N,)")
    both = torch.stack([labels, predictions]).long()
    if ((both < 0) | (both >= n_classes)).any():
        found = f"{int(both.min())} to {int(both.max())}"
        raise ValueError(f"the classes go from {found}, n_classes is {n_classes}: number them from 0")
    return (both[0] * n_classes + both[1]).bincount(minlength=n_classes**2).reshape(n_classes, n_classes)


def most_confident_mistakes(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return the indices (int64) of the wrong predictions, the most probable first, `k` of them at most.

    Args:
        logits: (N, C).
        labels: true classes (N,).
        k: number of indices; fewer come back where fewer predictions are wrong.

    Raises:
        ValueError: the shapes do not fit, or a logit is NaN.
    """
    _check(logits, labels)
    confidence, predictions = logits.double().softmax(1).max(1)
    wrong = (predictions != labels).nonzero().flatten()
    return wrong[confidence[wrong].argsort(descending=True, stable=True)][:k]


def _precision_recall_f1(matrix: Tensor) -> Tensor:
    """Return (..., 3, C + 2): precision, recall, F1 of each class, their mean, and those of all counts together."""
    hits, given, true = matrix.diagonal(dim1=-2, dim2=-1).double(), matrix.sum(-2), matrix.sum(-1)
    scores = torch.stack([hits / given, hits / true, 2 * hits / (given + true)], -2)
    micro = (hits.sum(-1) / true.sum(-1))[..., None, None].expand(*scores.shape[:-1], 1)
    return torch.cat([scores, scores.nanmean(-1, keepdim=True), micro], -1)


def classification_report(
    logits_or_predictions: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Return precision, recall and F1 with bootstrap intervals: of each class, their means (macro), pooled (micro).

    Introduced in chapter 9. Precision is the share of right ones among those that were given the class, recall
    among those that have it, F1 their harmonic mean. With one label per example the three micro numbers are all
    the accuracy. A class that never occurs in a place where it is needed has NaN there and is left out of the
    macro mean.

    Args:
        logits_or_predictions: logits (N, C), or predicted classes (N,).
        labels: true classes (N,).
        classes: C names; "macro" and "micro" are added.
        draws: resamples of the examples.
        level: share of such intervals that should hold the true value.
        seed: of the choice.

    Raises:
        ValueError: the shapes do not fit, a logit is NaN, a class is not between 0 and C - 1, there is no
            example, or a class is called macro or micro.
    """
    if {"macro", "micro"} & set(classes) or len(labels) == 0:
        raise ValueError(
            f"{len(labels)} examples of {len(classes)} classes: pass one or more, no class called macro or micro"
        )
    n = len(classes)
    matrix = confusion_matrix(logits_or_predictions, labels, n)
    generator = torch.Generator().manual_seed(seed)
    shares = matrix.flatten().double().cpu()
    draw = [
        torch.bincount(torch.multinomial(shares, len(labels), True, generator=generator), minlength=n**2)
        for _ in range(draws)
    ]
    resampled = torch.stack(draw).reshape(draws, n, n)
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = _precision_recall_f1(resampled).nanquantile(tail, dim=0)
    three = torch.stack([_precision_recall_f1(matrix.cpu()), low, high], -1).tolist()
    return {
        row: {kind: Estimate(*three[k][c]) for k, kind in enumerate(("precision", "recall", "F1"))}
        for c, row in enumerate([*classes, "macro", "micro"])
    }
