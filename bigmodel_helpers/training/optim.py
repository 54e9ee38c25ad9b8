"""Muon, and learning-rate schedules as plain functions of the progress of training."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Schedule = Callable[[float], float]


class Muon(torch.optim.Optimizer):
    """Nesterov SGD that makes the update of each weight matrix orthogonal. Introduced in chapter 4.

    A gradient matrix is dominated by a few directions. Muon keeps its singular vectors and sets all singular
    values to about one, so that every direction learns (Jordan 2024, "Muon: An optimizer for hidden layers").
    A convolution's kernel (O, I, H, W) counts as a matrix (O, I*H*W), which `torch.optim.Muon` does not take.
    Each orthogonalized weight is rescaled to a norm of sqrt(O) first; this is for layers followed by batch
    norm, whose output does not depend on that scale.

    Args:
        params: parameters or parameter groups. A group with ``orthogonalize=False`` gets plain Nesterov SGD
            (biases, norms, the last layer).
        lr: learning rate.
        momentum: momentum of the gradient average, 0 to 1.
        weight_decay: decay per step as a fraction of the learning rate (decoupled).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float = 0.2,
        momentum: float = 0.6,
        weight_decay: float = 0.0,
        orthogonalize: bool = True,
    ) -> None:
        if lr <= 0 or not 0 <= momentum < 1:
            raise ValueError(f"Muon needs lr > 0 and 0 <= momentum < 1, but got lr={lr}, momentum={momentum}")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "orthogonalize": orthogonalize,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update all parameters that have a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight: Tensor, group: dict) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].mul_(group["momentum"]).add_(weight.grad)
        update = weight.grad.add(momentum, alpha=group["momentum"])
        if group["orthogonalize"]:
            update = orthogonalize(update.flatten(1)).view(weight.shape)
            weight.mul_(math.sqrt(len(weight)) / weight.norm())
        weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])


def orthogonalize(matrix: Tensor, iterations: int = 3) -> Tensor:
    """Return about U @ V.T of the singular value decomposition U S V.T of `matrix`, float (M, N).

    Each iteration applies an odd polynomial to all singular values at once by three matrix products in
    bfloat16. Its coefficients (Jordan 2024) trade accuracy for speed.
    """
    x = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = x.to(torch.bfloat16)
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x.to(matrix.dtype)
    return x.T if len(matrix) > matrix.shape[1] else x


def constant(progress: float) -> float:
    """Keep the learning rate; `progress` runs from 0 to 1 over training."""
    return 1.0


def triangle(warmup: float = 0.2, start: float = 0.2, end: float = 0.0) -> Schedule:
    """Go up in a line from `start` to 1 over the first `warmup` of training, then down in a line to `end`."""

    def multiplier(progress: float) -> float:
        if progress < warmup:
            return start + (1 - start) * progress / warmup
        return 1 + (end - 1) * (progress - warmup) / (1 - warmup)

    return multiplier


def cosine(warmup: float = 0.05, end: float = 0.0) -> Schedule:
    """Go up from 0 in a line for the first `warmup` of the run, then down half a cosine (Loshchilov 2017)."""

    def multiplier(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        return end + (1 - end) * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2

    return multiplier
