"""A small network learns from the answers of a large one. Introduced in chapter 8."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigmodel_helpers.data import Batches


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Return how far the student's probabilities are from the teacher's (Hinton et al. 2015, arXiv:1503.02531).

    The Kullback-Leibler divergence of the softmax of logits / temperature, times temperature squared, which keeps
    the size of the gradient about the same for every temperature.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        temperature: above 1, small probabilities count for more.

    Returns:
        Mean over the batch, 0 where both agree.

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
    return temperature**2 * F.kl_div(found, wanted, log_target=True, reduction="batchmean")


class TaughtBatches:
    """Batches whose labels are the teacher's logits: for `training.fit` with `distillation_loss`.

    Yields (x, logits): x as `batches` yields it, logits float32 (B, C) of the teacher for just these pixels,
    augmentation included. The true labels are not used.

    Args:
        batches: the batches, on the device of the teacher.
        teacher: maps x to logits; used in evaluation mode, as it is.
        dtype: format of mixed precision for the teacher; None for its own.

    Raises:
        ValueError: the teacher is in training mode.
    """

    def __init__(self, batches: Batches, teacher: nn.Module, dtype: torch.dtype | None = None) -> None:
        if teacher.training:
            raise ValueError("the teacher is in training mode: call teacher.eval() first")
        self.batches, self.teacher, self.dtype = batches, teacher, dtype

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Go to a place in the order of the batches, as `training.fit` does to resume."""
        self.batches.set_epoch(epoch, batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, _ in self.batches:
            with torch.no_grad(), torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
                logits = self.teacher(x)
            yield x, logits.float()
