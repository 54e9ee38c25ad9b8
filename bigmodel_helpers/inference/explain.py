"""Where a network looks: class activation maps and occlusion. Introduced in chapter 5."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def grad_cam(model: nn.Module, layer: nn.Module, image: Tensor, label: int | None = None) -> Tensor:
    """Return where `layer` holds evidence for a class, by Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391).

    The channels of the layer's output are added, each weighted with the mean gradient of the class's logit with
    respect to it; what is negative speaks for other classes and is set to 0.

    Args:
        model: maps images (1, 3, H, W) to logits (1, C); run in evaluation mode.
        layer: a module of `model` whose output is (1, K, h, w), usually the last convolutional block.
        image: float (3, H, W), prepared for the model.
        label: index of the class; None for the likeliest.

    Returns:
        float (H, W), 0 to 1, on the CPU; all 0 where nothing speaks for the class.

    Raises:
        ValueError: the layer is not used by the model, or its output is not (1, K, h, w).
    """
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.enable_grad():
            device = next(model.parameters()).device
            logits = model(image[None].to(device).requires_grad_())
            if len(seen) != 1 or seen[0].ndim != 4:
                raise ValueError("grad_cam needs a layer that the model uses once, with output (1, K, h, w)")
            chosen = logits[0, int(logits.argmax()) if label is None else label]
            (gradient,) = torch.autograd.grad(chosen, seen[0])
    finally:
        hook.remove()
        for module in training:
            module.training = True
    weights = gradient.mean(dim=(2, 3), keepdim=True)  # (1, K, 1, 1)
    evidence = (weights * seen[0].detach()).sum(dim=1, keepdim=True).relu()
    evidence = F.interpolate(evidence.float(), image.shape[-2:], mode="bilinear")[0, 0]
    return (evidence / evidence.max().clamp(min=1e-12)).cpu()


@torch.inference_mode()
def occlusion(
    model: nn.Module, image: Tensor, label: int, *, window: int = 8, stride: int = 2, batch_size: int = 64
) -> Tensor:
    """Return how much of a class's probability is lost when a gray square hides part of the image.

    After Zeiler and Fergus (2014, arXiv:1311.2901). The square has the value 0, the mean color of normalized images.

    Args:
        model: maps images (B, 3, H, W) to logits (B, C); it must be in evaluation mode.
        image: float (3, H, W), prepared for the model.
        label: index of the class.
        window: side of the square in pixels.
        stride: step from one square to the next in pixels.
        batch_size: hidden images that go through the model together.

    Returns:
        float (rows, columns), one value for each place of the square, -1 to 1, on the CPU; positive where hiding
        hurts.

    Raises:
        ValueError: the model is in training mode, or the square does not fit into the image.
    """
    height, width = image.shape[-2:]
    if model.training:
        raise ValueError("occlusion needs the model in evaluation mode: call model.eval() first")
    if not 1 <= window <= min(height, width):
        raise ValueError(f"a window of {window} pixels does not fit into {width} x {height}: make it smaller")
    device = next(model.parameters()).device
    image = image.to(device)
    rows, columns = range(0, height - window + 1, stride), range(0, width - window + 1, stride)
    places = [(top, left) for top in rows for left in columns]
    whole = model(image[None]).softmax(1)[0, label]
    lost = []
    for start in range(0, len(places), batch_size):
        some = places[start : start + batch_size]
        hidden = image.repeat(len(some), 1, 1, 1)
        for one, (top, left) in zip(hidden, some, strict=True):
            one[:, top : top + window, left : left + window] = 0
        lost.append(whole - model(hidden).softmax(1)[:, label])
    return torch.cat(lost).view(len(rows), len(columns)).float().cpu()
