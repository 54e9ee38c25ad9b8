"""A model on several ranks: sums, gradients that wait, and weights as plain tensors whatever wraps the model."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def wrappers(model: nn.Module) -> list[nn.Module]:
    """Return the parts of `model` that average gradients over ranks: DistributedDataParallel, FSDP2 modules."""
    if not dist.is_available() or not dist.is_initialized():
        return []
    from torch.distributed.fsdp import FSDPModule  # not before a process group is there: it takes a while

    return [module for module in model.modules() if isinstance(module, DistributedDataParallel | FSDPModule)]


def bare(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel and `torch.compile`, whose names are the plain ones."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


@contextmanager
def gradient_sync(parts: list[nn.Module], wanted: bool) -> Iterator[None]:
    """Let the forward and backward passes inside exchange gradients between ranks, or only add them up here."""
    with ExitStack() as stack:
        for part in parts:
            if not isinstance(part, DistributedDataParallel):
                part.set_requires_gradient_sync(wanted, recurse=False)
            elif not wanted:
                stack.enter_context(part.no_sync())
        yield


def sum_over_ranks(value: Tensor, ranks: int) -> Tensor:
    """Return the sum of `value` over all ranks; it is added up in place."""
    if ranks > 1:
        dist.all_reduce(value)
    return value


def on_first_rank(ask: Callable[[], T], ranks: int) -> T:
    """Call `ask` on rank 0 alone; every rank gets its answer, or its error."""
    if ranks == 1:
        return ask()
    answer: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            answer[0] = ask()
        except Exception as error:
            answer[1] = error
    dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def from_all_ranks(value: T, ranks: int) -> list[T]:
    """Return the values of all ranks, in their order."""
    if ranks == 1:
        return [value]
    values: list[Any] = [None] * ranks
    dist.all_gather_object(values, value)
    return values


def plain(state: Any, keep: bool = True) -> Any:
    """Return nested `state` with sharded tensors put together. All ranks call it; `keep` where it is needed."""
    if isinstance(state, dict):
        return {key: plain(value, keep) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(plain(value, keep) for value in state)
    if hasattr(state, "full_tensor"):
        whole = state.full_tensor()
        return whole.cpu() if keep else None
    return state


def like(value: Tensor, weight: Tensor) -> Tensor:
    """Return a whole tensor as `weight` is kept: on its device, in its memory layout, sharded as it is."""
    value = value.to(weight.device)
    if hasattr(weight, "full_tensor") and not hasattr(value, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)
    return torch.empty_like(weight, dtype=value.dtype).copy_(value)


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load whole or sharded weights with plain names into a model of any kind."""
    model = bare(model)
    own = model.state_dict()
    fitting = {name for name, value in weights.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict({name: like(v, own[name]) if name in fitting else v for name, v in weights.items()})
