"""Learning from which of two answers is better: direct preference optimization. Introduced in chapter 13."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigmodel_helpers.training.losses import token_log_probs


def log_likelihoods(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probability of each answer: the sum of those of its tokens.

    Each row holds one answer.

    Args:
        model: maps tokens (B, T) to scores of the next token (B, T, V).
        inputs: int64 (B, T).
        targets: int64 (B, T), the token that follows each input; -100 where it is no part of the answer.

    Returns:
        (B,), in nats.

    Raises:
        ValueError: see `token_log_probs`.
    """
    return token_log_probs(model, (inputs, targets)).sum(1)


def dpo_loss(chosen: Tensor, rejected: Tensor, beta: float = 0.1) -> Tensor:
    """Return the loss of direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290), summed over pairs.

    Args:
        chosen: (B,), by how much the answer that was preferred became more likely: its log-likelihood under the
            model minus that under the frozen reference model.
        rejected: (B,), the same for the other answer.
        beta: how far the model may move from the reference: smaller values let it move further.

    Raises:
        ValueError: the shapes are not (B,) both, or `beta` is not positive and finite.

    >>> training.dpo_loss(torch.zeros(1), torch.zeros(1))
    tensor(0.6931)
    """
    if chosen.shape != rejected.shape or chosen.ndim != 1:
        shapes = f"{tuple(chosen.shape)} and {tuple(rejected.shape)}"
        raise ValueError(f"the answers have shapes {shapes}: pass one number for each pair, (B,) twice")
    if not 0 < beta < math.inf:
        raise ValueError(f"beta is {beta:g}: take a positive number, 0.1 is usual")
    precise = torch.promote_types(chosen.dtype, torch.float32)
    return -F.logsigmoid(beta * (chosen.to(precise) - rejected.to(precise))).sum()
