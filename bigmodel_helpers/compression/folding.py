"""Batch norm merged into the convolution before it. Introduced in chapter 5."""

import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in which each batch norm is merged into the convolution before it.

    In evaluation mode a batch norm is a scale and a shift per channel, which the convolution can do itself. A pair is
    a convolution and a batch norm that were registered one after the other in the same module, as in this book's
    and torchvision's ResNets; check once that the copy gives the same outputs.

    Raises:
        ValueError: the model is in training mode, where batch norm is no fixed scale.

    >>> compression.fold_batch_norm(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval())[1]
    Identity()
    """
    if model.training:
        raise ValueError("batch norm can be folded in evaluation mode only: call model.eval() first")
    folded = copy.deepcopy(model)
    for module in list(folded.modules()):
        for (name, conv), (next_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, next_name, nn.Identity())
    return folded
