"""What `fit` was called with: each mistake is one line that names the argument, what it is, and the cure."""

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from bigmodel_helpers.training._ranks import wrappers

HOOKS = ("__call__", "before_step", "after_step")


def as_list(callbacks: Any) -> list[Any]:
    """Return the callbacks as a list."""
    if isinstance(callbacks, str) or not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks is {_name(callbacks)}: give a list of callbacks")
    return list(callbacks)


def refuse_numbers(clip_norm: float | None, **whole: int) -> None:
    """Raise a ValueError for a number that is not whole or not positive."""
    for name, number in whole.items():
        if not isinstance(number, Real) or number < 1 or number % 1:
            raise ValueError(f"{name} is {number!r}: use at least 1, a whole number")
    if clip_norm is not None and clip_norm <= 0:
        raise ValueError(f"clip_norm is {clip_norm}: use None to leave gradients as they are")


def refuse_model(model: nn.Module, optimizers: list[Any]) -> None:
    """Raise an error where nothing of the model would be trained."""
    own = {id(parameter): parameter for parameter in model.parameters()}
    if not any(parameter.requires_grad for parameter in own.values()):
        raise ValueError("no parameter of the model requires a gradient: there is nothing to train")
    if not optimizers:
        raise ValueError("optimizers is empty: give one, such as torch.optim.AdamW(model.parameters())")
    for optimizer in optimizers:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"{_name(optimizer)} among the optimizers is none: give those of torch.optim")
        if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            sharded = ", after fully_shard" if wrappers(model) else ""
            raise ValueError(
                f"{type(optimizer).__name__} has no parameter of the model: make it from model.parameters(){sharded}"
            )


def refuse_functions(loss: Any, schedule: Any, dtype: Any, callbacks: list[Any], batches: Any) -> None:
    """Raise an error for what cannot be called as `fit` will, or cannot be read."""
    if getattr(loss, "__module__", "").startswith(("torch.nn.functional", "torch.nn.modules.loss")):
        raise TypeError(
            f"loss is {_name(loss)} of PyTorch, which takes logits: give a function of (model, batch), "
            "such as training.cross_entropy"
        )
    if not callable(loss):
        raise TypeError(
            f"loss is {loss!r}: give a function of (model, batch), such as training.cross_entropy"
        )
    if not callable(schedule) or isinstance(schedule, type):
        raise TypeError(
            f"schedule is {_name(schedule)}: give a function of the progress, 0 to below 1, such as optim.cosine()"
        )
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype is {dtype!r}: use None, torch.bfloat16 or torch.float16")
    for callback in callbacks:
        if not any(hasattr(callback, hook) for hook in HOOKS):
            raise TypeError(
                f"callback {callback!r} can neither be called nor has it {' or '.join(HOOKS[1:])}"
            )
    if not hasattr(batches, "__iter__") and not hasattr(batches, "__getitem__"):
        raise TypeError(
            f"batches is {_name(batches)}: give batches, such as data.Batches(...) or a DataLoader"
        )


def rate_at(schedule: Callable[[float], float], progress: float) -> float:
    """Return the multiplier of a schedule, a number of 0 or more."""
    value = schedule(progress)
    try:
        rate = float(value)
    except (TypeError, ValueError):
        hint = "; call it to make the schedule" if callable(value) else ""
        raise TypeError(
            f"schedule returned {_name(value)} at progress {progress:g}: return a number{hint}"
        ) from None
    if not 0 <= rate < math.inf:
        raise ValueError(f"schedule returned {rate:g} at progress {progress:g}: return 0 or more")
    return rate


def one_sum(value: Any) -> Tensor:
    """Return what a loss function returned, a 0-d tensor."""
    if not isinstance(value, Tensor) or value.ndim:
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else _name(value)
        raise TypeError(f"loss returned {what}: return the sum over the targets, a 0-d tensor")
    return value


def metrics_of(evaluated: Any) -> dict[str, float]:
    """Return what `evaluate` returned, as plain numbers."""
    if not isinstance(evaluated, dict):
        raise TypeError(f"evaluate returned {_name(evaluated)}: return a dict, name -> number")
    for name, value in evaluated.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"evaluate returned {name!r} of shape {tuple(value.shape)}: return one number")
    return {name: float(value) for name, value in evaluated.items()}


def _name(thing: Any) -> str:
    if thing is None or hasattr(thing, "__qualname__"):
        return getattr(thing, "__qualname__", "None")
    name = type(thing).__qualname__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"
