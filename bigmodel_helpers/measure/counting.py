"""Parameters and FLOPs of a model. Introduced in chapter 1."""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, bmm_flop, conv_flop_count


def parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Count the parameters of `model`, shared ones once; `trainable_only`: those that require a gradient.

    >>> measure.parameters(nn.Linear(10, 2))
    22
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def _conv_backward_flops(grad_out: list[int], x: list[int], w: list[int], *rest: Any, **_: Any) -> int:
    """Count the FLOPs of the forward pass for each gradient asked for, that of the input and of the weight.

    The formula in PyTorch 2.15 counts the gradient of the weight `groups` times.
    """
    transposed, output_mask = rest[4], rest[7]
    return sum(output_mask[:2]) * conv_flop_count(x, w, grad_out, transposed)


def _vector_flops(matrix: list[int], *_: Any, **__: Any) -> int:
    return 2 * prod(matrix)


aten = torch.ops.aten
_FORMULAS = {  # what PyTorch's own table counts as 0, or wrong
    aten.convolution_backward: _conv_backward_flops,
    **dict.fromkeys((aten.mv, aten.dot, aten.vdot), _vector_flops),
    aten.addmv: lambda bias, *factors, **_: _vector_flops(*factors),
    aten.addbmm: lambda bias, *factors, **_: bmm_flop(*factors),
}


def flops(model: nn.Module, *inputs: Tensor, backward: bool = False) -> int:
    """Count the floating-point operations of ``model(*inputs)``; one multiply-add is 2 FLOPs.

    Only matrix products, convolutions and attention count: a LayerNorm or a GELU has 0 here. What is done number by
    number (biases, normalization, activations, softmax, dropout) is cheap beside them and has no agreed count.
    Attention counts as if every token looked at all others, causal or not.

    The model runs on meta tensors, which have shapes but no data: nothing is computed, and neither the model nor
    its gradients change. `inputs` may be meta tensors, too.

    Args:
        model: a module that returns one tensor.
        inputs: what the model is called with, one batch.
        backward: also count the backward pass to all parameters that require a gradient.

    >>> measure.flops(nn.Linear(10, 2), torch.zeros(8, 10))  # 2 * 8 * 10 * 2
    320
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped
    state = {name: buffer.to("meta") for name, buffer in model.named_buffers()}
    for name, p in model.named_parameters():
        state[name] = p.detach().to("meta").requires_grad_(p.requires_grad)
    with (
        FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter,
        torch.set_grad_enabled(backward),
    ):
        output = torch.func.functional_call(model, state, tuple(x.detach().to("meta") for x in inputs))
        if backward and output.requires_grad:
            trainable = [t for t in state.values() if t.requires_grad]
            torch.autograd.grad(output.sum(), trainable, allow_unused=True)
    return counter.get_total_flops()
