"""Losses of a batch: each returns the sum over the targets, and a count says how many there are."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100  # a target of this value is left out, as in PyTorch's own loss


def cross_entropy(
    model: nn.Module, batch: Any, *, label_smoothing: float = 0.0, weight: Tensor | None = None
) -> Tensor:
    """Return the sum of the cross-entropies over the targets of a batch, a 0-d tensor. Introduced in chapter 4.

    Serves labels (B,) and next tokens (B, T) alike. ``functools.partial`` sets the options for `training.fit`.

    Args:
        model: maps the inputs to logits (..., C).
        batch: (inputs, targets), targets int64 (...); a target of -100 is left out. Or (inputs, targets, documents),
            int64 (B, T) each: the model is called with ``documents=`` as `models.Transformer` takes it.
        label_smoothing: share of the probability that is spread over all classes.
        weight: float (C,), how much each class counts; give the same to `count_targets`.
    """
    inputs, targets, *documents = _parts(batch)
    logits = model(inputs, documents=documents[0]) if documents else model(inputs)
    logits = logits.flatten(0, -2)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # a sum needs more than 16 bits
    if weight is not None:
        weight = weight.to(logits)
    return F.cross_entropy(
        logits,
        targets.flatten(),
        weight,
        label_smoothing=label_smoothing,
        reduction="sum",
        ignore_index=IGNORED,
    )


def _parts(batch: Any) -> tuple[Any, ...] | list[Any]:
    if isinstance(batch, tuple | list):
        pair = len(batch) == 2 and isinstance(batch[1], Tensor)
        if pair or (len(batch) == 3 and all(_is_like(part, batch[0]) for part in batch)):
            return batch
    found = type(batch).__name__
    if isinstance(batch, dict | tuple | list):
        parts = batch if isinstance(batch, dict) else [type(part).__name__ for part in batch]
        found += f" of {', '.join(map(str, parts))}"
    raise TypeError(
        f"a batch is a {found}: the default loss and count take (inputs, targets), two tensors, or (inputs, "
        "targets, documents), three of int64 and one shape (B, T); give fit a loss= and a count= of your own "
        "for others"
    )


def _is_like(part: Any, inputs: Any) -> bool:
    return (
        isinstance(part, Tensor)
        and part.dtype == torch.int64
        and part.ndim == 2
        and part.shape == inputs.shape
    )


def count_targets(batch: Any, *, weight: Tensor | None = None) -> Tensor:
    """Return how many targets of a batch are not -100, or the sum of their weights. Introduced in chapter 4.

    Args:
        batch: (inputs, targets) or (inputs, targets, documents), as `cross_entropy` takes it.
        weight: float (C,), the weights that `cross_entropy` got.
    """
    targets = _parts(batch)[1]
    counted = targets != IGNORED
    if weight is None:
        return counted.sum()
    return (weight.to(targets.device)[targets.clamp(min=0)] * counted).sum()


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Return how far the student's probabilities are from the teacher's (Hinton et al. 2015, arXiv:1503.02531).

    The Kullback-Leibler divergence of the softmax of logits / temperature, times temperature squared, which keeps
    the size of the gradient about the same for every temperature. Introduced in chapter 8.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        temperature: above 1, small probabilities count for more.

    Returns:
        Sum over the batch, 0 where both agree.

    Raises:
        ValueError: `temperature` is not positive, or the shapes are not (B, C) both.
    """
    if student.shape != teacher.shape or student.ndim != 2:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"logits have shapes {shapes}: pass (B, C) twice")
    if temperature <= 0:
        raise ValueError(f"temperature {temperature:g} must be positive: 1 to 5 is usual")
    wanted = F.log_softmax(teacher.float() / temperature, dim=1)
    found = F.log_softmax(student.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(found, wanted, log_target=True, reduction="sum")


def token_log_probs(model: nn.Module, batch: Any) -> Tensor:
    """Return the log-probability of each target of a batch, in nats; 0 where a target is -100.

    Introduced in chapter 13.

    Args:
        model: maps tokens (B, T) to logits (B, T, C).
        batch: (inputs, targets) or (inputs, targets, documents), as `cross_entropy` takes it.

    Returns:
        (B, T).

    Raises:
        TypeError: the batch has other parts.
        ValueError: inputs and targets differ in shape, or the model returns no (B, T, C).
    """
    inputs, targets, *documents = _parts(batch)
    logits = model(inputs, documents=documents[0]) if documents else model(inputs)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if (
        not isinstance(logits, Tensor)
        or logits.ndim != 3
        or not logits.shape[:2] == targets.shape == inputs.shape
    ):
        found = f"{tuple(inputs.shape)} and {tuple(targets.shape)}, scores {shape}"
        raise ValueError(
            f"inputs and targets are {found}: pass (B, T) twice, and a model that returns (B, T, C)"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none", ignore_index=IGNORED)
    return 0.0 - losses.view_as(targets)


def ctc_loss(model: nn.Module, batch: Any, **options: Any) -> Tensor:
    """Return the sum of the CTC losses of a batch of utterances, a 0-d tensor. Introduced in chapter 16.

    Graves et al. 2006. Number 0 is the blank. Count utterances by ``lambda batch: len(batch[1])`` in `fit`.

    Args:
        model: maps (frames, steps) to scores (B, T, 1 + letters).
        batch: (frames, steps, letters, lengths): frames float (B, F, mels); steps int64 (B,), how many of the T steps
            belong to each utterance; letters int64 (all,), the letters of all utterances one after the other; lengths
            int64 (B,), how many each has.
        options: further arguments of the model, such as `chunk` of `models.SpeechEncoder`.

    Raises:
        ValueError: on a CPU, a letter is the blank or has no score, or an utterance has too few steps for its letters
            (equal neighbors need a blank between them).
    """
    frames, steps, letters, lengths = batch
    log_p = model(frames, steps, **options).float().log_softmax(2)
    if (
        letters.device.type == "cpu"
        and len(letters)
        and not 0 < int(letters.min()) <= int(letters.max()) < log_p.shape[2]
    ):
        raise ValueError(  # PyTorch would read what stands beside the scores
            f"letters {int(letters.min())} to {int(letters.max())}, but {log_p.shape[2]} scores a step: number them "
            f"from 1 to {log_p.shape[2] - 1}"
        )
    if letters.device.type == "cpu":
        _refuse_short(steps, letters, lengths)
    return F.ctc_loss(log_p.transpose(0, 1), letters, steps, lengths, reduction="sum")


def _refuse_short(steps: Tensor, letters: Tensor, lengths: Tensor) -> None:
    """Raise a ValueError where no path of CTC reads an utterance: one would make the whole loss infinite."""
    for number, (count, text) in enumerate(zip(steps.tolist(), letters.split(lengths.tolist()), strict=True)):
        needed = len(text) + int((text[1:] == text[:-1]).sum())
        if count < needed:
            raise ValueError(
                f"utterance {number} has {count} steps, and its letters need {needed}: leave it out"
            )
