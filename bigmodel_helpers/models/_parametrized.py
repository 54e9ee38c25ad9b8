"""What the rooms share about weights that are computed from other weights."""

from torch import nn
from torch.nn.utils import parametrize


def merge(layer: nn.Module, name: str) -> None:
    """Write the computed tensor `name` into `layer` and remove what computes it.

    PyTorch made a class for the layer, which its deep copies share, and takes the name off that class; so this layer
    gets one for itself first, and a copy keeps its weight.
    """
    made = type(layer)
    layer.__class__ = type(made.__name__, made.__bases__, dict(vars(made)))
    parametrize.remove_parametrizations(layer, name, leave_parametrized=True)


def refuse_shared_weight(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Raise a ValueError where `layer`, called `name`, is the model itself or shares its weight with another."""
    if not name:
        raise ValueError(f"the model is a {type(layer).__name__} by itself: put it into nn.Sequential first")
    weight = getattr(layer, "weight", None)
    for other, parameter in model.named_parameters(remove_duplicate=False):
        if parameter is weight and other.rpartition(".")[0] != name:
            raise ValueError(f"{name} shares its weight with {other}: leave it out")
