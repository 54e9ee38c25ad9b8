"""A LoRA adapter, merged into the weights of a network. Introduced in chapter 15."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bigmodel_helpers.data._paths import expanded, shown
from bigmodel_helpers.models import _lora_files
from bigmodel_helpers.models._lora_files import CONFIG, LARGEST, WEIGHTS
from bigmodel_helpers.models._parametrized import refuse_shared_weight
from bigmodel_helpers.models._safetensors import Stored, open_file, read_json
from bigmodel_helpers.models.transformer import Transformer

HARMLESS = {*_lora_files.HARMLESS, "init_lora_weights"}


@torch.no_grad()
def merge_adapter(model: Transformer, path: str | Path) -> None:
    """Add the adapter of a folder, as `lora.save` or peft writes it, to the weights of `model`, in place.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is damaged, of another kind than plain LoRA, or does not fit the model; nothing has been
            changed then.
    """
    folder = expanded(path)
    rank, scale = _rank_and_scale(read_json(folder / CONFIG))
    layers, updates = dict(model.named_modules()), list[tuple[Tensor, Tensor]]()
    for name, pair in _lora_files.pairs(open_file(folder / WEIGHTS)).items():
        layer = layers.get(name)
        if not isinstance(layer, nn.Linear):
            raise _lora_files.no_layer(name)
        refuse_shared_weight(model, name, layer)
        a = _read(name, pair, "A", (rank, layer.in_features))
        b = _read(name, pair, "B", (layer.out_features, rank))
        updates.append((layer.weight, scale * (b @ a)))
    for weight, update in updates:
        weight += update.to(weight.dtype)


def _rank_and_scale(config: Mapping[str, Any]) -> tuple[int, float]:
    key = _lora_files.beyond_plain(config, harmless=HARMLESS)
    if key is not None:
        raise ValueError(f"{CONFIG} has {key!r:.99} = {config[key]!r:.99}, which plain LoRA does not have")
    rank, alpha = _lora_files.rank_and_alpha(config)
    if not 1 <= rank < LARGEST or not 0 < abs(alpha) < LARGEST:
        raise ValueError(f"{CONFIG} has r = {rank} and lora_alpha = {alpha}, beyond any use: get it again")
    return rank, alpha / rank


def _read(name: str, pair: Mapping[str, Stored], part: str, shape: tuple[int, int]) -> Tensor:
    _lora_files.refuse_shape(name, pair, part, shape, "the rank")
    called = f"lora_{part} of {shown(name):.99}"
    values = _lora_files.read(pair[part], called)
    if not values.is_floating_point() or values.shape != shape or not values.float().isfinite().all():
        raise ValueError(f"{called} is not finite or no floating numbers: get it again")
    return values.float()
