"""Muon, what it is for, and learning-rate schedules as plain functions of the progress. Introduced in chapter 4."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from bigmodel_helpers.runtime import cpu_has_bfloat16

Schedule = Callable[[float], float]


class Muon(torch.optim.Optimizer):
    """Nesterov SGD that makes the update of each weight matrix orthogonal. Introduced in chapter 4.

    A gradient matrix is dominated by a few directions. Muon keeps its singular vectors and sets all singular
    values to about one, so that every direction learns (Jordan 2024, "Muon: An optimizer for hidden layers").
    A convolution's kernel (O, I, H, W) counts as a matrix (O, I*H*W), which `torch.optim.Muon` does not take.
    Each weight is rescaled to a norm of sqrt(O) first; this is for layers followed by batch norm, whose output does
    not depend on that scale. Without `rescale`, as for transformers (chapter 11), weights keep their size, and the
    update of a matrix with more rows than columns is sqrt(O / I) times as large: what `torch.optim.Muon` does, which
    needs many times longer on a CPU without instructions for bfloat16.

    All matrices of one shape, dtype and device in a group are stepped as one batch, so that a step launches as
    many kernels for a hundred of them as for one. While it runs, a batch needs a few times its own memory.

    Biases, norms and the last layer belong to another optimizer, `torch.optim.SGD` or `AdamW`.

    Args:
        params: parameters of 2 or more dimensions, or groups of them; those without a gradient are passed over.
        lr: learning rate.
        momentum: momentum of the gradient average, 0 to 1.
        weight_decay: decay per step as a fraction of the learning rate (decoupled).
        rescale: whether weights are brought to a norm of sqrt(O) before each step.

    Raises:
        ValueError: a setting is out of range, a parameter has fewer than 2 dimensions, or it is a `DTensor` (as
            `fully_shard` makes them): each rank holds a part of the matrix, and the parts of an orthogonal
            matrix are not what one gets by making the parts orthogonal.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float = 0.2,
        momentum: float = 0.6,
        weight_decay: float = 0.0,
        rescale: bool = True,
    ) -> None:
        if lr <= 0 or not 0 <= momentum < 1:
            raise ValueError(f"Muon needs lr > 0 and 0 <= momentum < 1, but got lr={lr}, momentum={momentum}")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "rescale": rescale}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict) -> None:
        """Add a group of parameters; see the class for what it may hold, and the errors."""
        super().add_param_group(param_group)
        for weight in self.param_groups[-1]["params"]:
            problem = ""
            if weight.ndim < 2:
                problem = f"one of shape {tuple(weight.shape)}: give it to torch.optim.SGD or AdamW"
            elif hasattr(weight, "placements"):
                problem = "a DTensor, a matrix split over ranks: use torch.optim.SGD or AdamW with it"
            if problem:
                self.param_groups.pop()
                raise ValueError(f"Muon makes whole matrices orthogonal, and this parameter is {problem}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update all parameters that have a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict) -> None:
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        gradients = [weight.grad for weight in weights]
        momenta = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
        updates = torch._foreach_add(gradients, momenta, alpha=group["momentum"])

        alike = defaultdict(list)  # what can be one batch (B, M, N)
        for weight, update in zip(weights, updates, strict=True):
            alike[len(weight), weight[0].numel(), weight.dtype, weight.device].append((weight, update))
        for pairs in alike.values():
            weights, updates = (list(tensors) for tensors in zip(*pairs, strict=True))
            batch = _stack(weights, weights)
            rate = group["lr"]
            if group["rescale"]:
                norms = batch.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # a weight may begin as zeros
                batch.mul_(math.sqrt(batch.shape[1]) / norms)
            else:
                rate *= max(1, batch.shape[1] / batch.shape[2]) ** 0.5
            if group["weight_decay"]:
                batch.mul_(1 - group["lr"] * group["weight_decay"])
            batch.add_(orthogonalize(_stack(updates, weights)), alpha=-rate)
            torch._foreach_copy_(weights, _unstack(batch, weights))


def _stack(tensors: list[Tensor], weights: list[Tensor]) -> Tensor:
    """Copy `tensors`, shaped like `weights`, into a batch (B, M, N) of the matrices that they are.

    The columns of each matrix come in the order in which its weight has them in memory, channels last or not.
    `orthogonalize` does not mind their order, and nothing is copied twice.
    """
    return torch.stack([_columns(t, weight).flatten(1) for t, weight in zip(tensors, weights, strict=True)])


def _unstack(batch: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """Return views into what `_stack` made, shaped like `weights`."""
    views = []
    for matrix, weight in zip(batch.unbind(), weights, strict=True):
        view = matrix.view(_columns(weight, weight).shape)
        views.append(view if weight.is_contiguous() else view.movedim(-1, 1))
    return views


def _columns(tensor: Tensor, weight: Tensor) -> Tensor:
    return tensor if weight.is_contiguous() else tensor.movedim(1, -1)


def orthogonalize(matrix: Tensor, iterations: int = 3) -> Tensor:
    """Return about U @ V.T of the singular value decomposition U S V.T of each matrix, float (..., M, N).

    Each iteration applies an odd polynomial to all singular values at once by three matrix products, in
    bfloat16, or in float32 on a CPU that has no instructions for it. Its coefficients (Jordan 2024) trade accuracy
    for speed.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    quick = matrix.device.type != "cpu" or cpu_has_bfloat16()
    x = (matrix.mT if tall else matrix).to(torch.bfloat16 if quick else torch.float32)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x.to(matrix.dtype)
    return x.mT if tall else x


def split_parameters(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the weight matrices inside the blocks of a transformer, for `Muon`, and all the others.

    The others, for `torch.optim.AdamW`, are embeddings, the output layer, norms and biases. A block is an element of
    an `nn.ModuleList` or `nn.Sequential` that has parts of its own and no embedding, so `Transformer` and the
    networks of the library `transformers` are taken apart alike. Introduced in chapter 11.

    Returns:
        each parameter that requires a gradient in one of two lists, in the order of ``model.parameters()``.

    Raises:
        ValueError: no block has such a matrix.

    >>> network = models.Transformer(models.TransformerConfig(2, 8, 16, 2, 1, vocabulary=10))
    >>> matrices, others = training.optim.split_parameters(network)
    >>> len(matrices), len(others)
    (14, 7)
    """
    inside = {
        parameter for block in _blocks(model) for parameter in block.parameters() if parameter.ndim == 2
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter in inside]
    if not matrices:
        raise ValueError(
            f"{type(model).__name__} has no trainable matrix in a block (an element of an nn.ModuleList or "
            "nn.Sequential, with parts of its own): give all its parameters to torch.optim.AdamW"
        )
    return matrices, [parameter for parameter in trained if parameter not in inside]


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential):
            for part in module.children():
                parts = [*part.modules()]
                if len(parts) > 1 and not any(isinstance(inner, nn.Embedding) for inner in parts):
                    yield part


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


def warmup_stable_decay(warmup: float = 0.05, decay: float = 0.2, end: float = 0.0) -> Schedule:
    """Go up from 0 in a line, stay at 1, and go down in a line to `end` (Hu et al. 2024, arXiv:2404.06395).

    From any point of the constant part on, one may train longer, or let a copy decay and see how good the model is
    (Hägele et al. 2024, arXiv:2405.18392). Introduced in chapter 11.

    Args:
        warmup: share of the run that goes up.
        decay: share of the run, at its end, that goes down.
        end: what is left at the end, of 1.

    Raises:
        ValueError: warm-up and decay overlap, or a share is not one.
    """
    if not (warmup >= 0 and decay >= 0 and warmup + decay <= 1 and 0 <= end <= 1):
        raise ValueError(
            f"warmup {warmup} and decay {decay} of the run with end {end}: "
            "take shares of 0 to 1, warmup and decay at most 1 together"
        )

    def multiplier(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        if progress <= 1 - decay:
            return 1.0
        return end + (1 - end) * (1 - progress) / decay

    return multiplier
