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
