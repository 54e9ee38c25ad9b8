"""Fine-tuning: what to train, with which rates, on which images. Introduced in chapter 6."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigmodel_helpers.evaluation import predict


def new_head(model: nn.Module, head: int | nn.Linear) -> nn.Module:
    """Replace the last linear layer of `model`; returns the model.

    The classes of a `Pretrained` are those of its old head: ``network.with_classes(names)`` names the new outputs.

    Args:
        model: changed in place; ends in a linear layer, as residual networks do.
        head: the layer to put there (see `linear_probe`), or a number of classes for one that starts at zero.

    Raises:
        ValueError: the model has no linear layer, `head` is none of these, or takes another number of features.
    """
    name, old = _last_linear(model)
    if not isinstance(head, int | nn.Linear) or (isinstance(head, int) and head < 1):
        shown = head if isinstance(head, int) else type(head).__name__
        raise ValueError(f"a head of {shown}: pass a linear layer, or a number of classes")
    if isinstance(head, int):
        head = nn.Linear(old.in_features, head)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    if head.in_features != old.in_features:
        raise ValueError(f"the head takes {head.in_features} features, the model has {old.in_features}")
    model.set_submodule(name, head.to(old.weight))
    return model


def features(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Return what the last linear layer of `model` gets for each image, and the labels. Introduced in chapter 6.

    Args:
        model: maps images (B, 3, H, W) to logits; used in evaluation mode, on the device of its parameters.
        batches: pairs of images and labels (B,).
        dtype: format of mixed precision (autocast); None computes in the format of the model.

    Returns:
        Features (N, K) float32 and labels (N,) int64, both on the CPU.

    Raises:
        ValueError: the model has no linear layer, or there is no batch.
    """
    _, head = _last_linear(model)
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    try:
        _, labels = predict(model, batches, dtype=dtype)
    finally:
        hook.remove()
    return torch.cat(seen).clone(), labels


def _last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError("the model has no linear layer: pass one that ends in a linear layer")
    return layers[-1]


def linear_probe(
    features: Tensor, labels: Tensor, classes: int, *, penalty: float = 10.0, weights: Tensor | None = None
) -> nn.Linear:
    """Fit a linear classifier on features that stay as they are: logistic regression. Introduced in chapter 6.

    Minimizes the sum of the cross-entropies plus penalty / 2 times the squared weights (biases are free), as
    scikit-learn's `LogisticRegression` with C = 1 / penalty does, with L-BFGS.

    Args:
        features: float (N, K).
        labels: int64 (N,).
        classes: number of logits.
        penalty: larger for smaller weights; positive, so that there is one best answer.
        weights: float (classes,), how much each class counts, see `class_weights`.

    Raises:
        ValueError: the shapes do not fit, or `penalty` is not positive.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        shapes = f"{tuple(features.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"features and labels have shapes {shapes}: pass (N, K) and (N,)")
    if penalty <= 0:
        raise ValueError(f"penalty must be positive, not {penalty:g}")
    x = features.detach().double()
    weights = None if weights is None else weights.to(x)
    probe = nn.Linear(x.shape[1], classes, dtype=torch.float64, device=x.device)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = torch.optim.LBFGS(
        probe.parameters(), max_iter=1000, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(probe(x), labels, weights, reduction="sum")
        value = (value + penalty / 2 * probe.weight.square().sum()) / len(x)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return probe.to(features.dtype)


def train_only(model: nn.Module, *names: str) -> nn.Module:
    """Freeze every parameter that is not in one of the named modules; returns the model.

    Raises:
        ValueError: the model has no module of that name.
    """
    modules = dict(model.named_modules())
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise ValueError(
            f"the model has no module {unknown[0]!r}: its parts are {', '.join(dict(model.named_children()))}"
        )
    model.requires_grad_(False)
    for name in names:
        modules[name].requires_grad_(True)
    return model


def layer_rates(model: nn.Module, groups: Sequence[Sequence[str]], rate: float, decay: float) -> list[dict]:
    """Return parameter groups for an optimizer: the last group of modules gets `rate`, each one before it less.

    After Howard and Ruder (2018, arXiv:1801.06146): early layers hold what is general and should move least.

    Args:
        model: the model; frozen parameters are left out.
        groups: names of modules, from the input to the output, such as ``[["stem"], ["blocks"], ["head"]]``.
        rate: learning rate of the last group.
        decay: factor from each group to the one before it, 0 to 1.

    Raises:
        ValueError: a parameter that is to be trained is in no group.
    """
    modules = dict(model.named_modules())
    made, seen = [], set()
    for steps_from_end, names in zip(range(len(groups) - 1, -1, -1), groups, strict=True):
        parameters = [p for name in names for p in modules[name].parameters() if p.requires_grad]
        seen |= {id(p) for p in parameters}
        if parameters:
            made.append({"params": parameters, "lr": rate * decay**steps_from_end})
    forgotten = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in seen]
    if forgotten:
        raise ValueError(f"{forgotten[0]} is in no group: name its module, or freeze it")
    return made
