"""Whether the tensors of a checkpoint are those of a `Transformer`."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from bigmodel_helpers.data._paths import shown
from bigmodel_helpers.models._safetensors import Stored
from bigmodel_helpers.models.transformer import Transformer, TransformerConfig


def _expected(config: TransformerConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of each tensor of the network, without making all its layers."""
    try:
        with torch.device("meta"):
            small = Transformer(replace(config, layers=1)).state_dict()
    except (RuntimeError, TypeError):  # sizes beyond 64 bits
        raise ValueError(f"no machine holds {config!r:.200}: get its configuration again") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in small.items()}
    yield from ((name, shape) for name, shape in shapes.items() if not name.startswith("layers."))
    for layer in range(config.layers):
        for name, shape in shapes.items():
            if name.startswith("layers."):
                yield name.replace(".0.", f".{layer}.", 1), shape


def compare(where: str, config: TransformerConfig, tensors: Mapping[str, Stored]) -> None:
    """Refuse a checkpoint whose tensors are not exactly those of the network."""
    rest = dict(tensors)
    for name, shape in _expected(config):
        tensor = rest.pop(name, None)
        if tensor is None and not (config.tied and name == "lm_head.weight"):
            raise ValueError(f"{where} has no tensor {name}: it belongs to another model, or is not complete")
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"{where}: {tensor.name} has the shape {tensor.shape}, its configuration wants {shape} for {name}"
            )
    for tensor in rest.values():
        raise ValueError(f"{where} has a tensor {shown(tensor.name):.99} that the network has no place for")
