"""A model in evaluation mode for a while, as in `predict`, which stays as it is until its chapters are run anew."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module, dtype: torch.dtype | None) -> Iterator[torch.device]:
    """Yield the device of `model`, in evaluation mode and without gradients; each module gets its own mode back.

    Args:
        dtype: format of mixed precision (autocast); None computes in the format of the model.

    Raises:
        ValueError: the model has no parameters, or PyTorch would ignore `dtype`.
    """
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype is {dtype!r}: use None, torch.bfloat16 or torch.float16")
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise ValueError("the model has no parameters, so its device is unknown: pass a model with weights")
    device, modes = parameter.device, [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            yield device
    finally:
        for module, mode in modes:
            module.training = mode
