"""A LoRA adapter, merged into the weights of a network. Introduced in chapter 15."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from bigmodel_helpers.data._paths import expanded, shown
from bigmodel_helpers.models._parametrized import refuse_shared_weight
from bigmodel_helpers.models._safetensors import Stored, open_file, read_json
from bigmodel_helpers.models.transformer import Transformer

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
# What a configuration may say besides r and lora_alpha without another computation.
HARMLESS = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "lora_dropout", "megatron_core", "qalora_group_size", "r", "lora_alpha", "exclude_modules",
    "layers_to_transform", "layers_pattern", "init_lora_weights",
}  # fmt: skip
KNOWN = {"peft_type": "LORA", "bias": "none"}
LARGEST = 2**20


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
    for name, pair in _pairs(open_file(folder / WEIGHTS)).items():
        layer = layers.get(name)
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"the adapter is for {shown(name):.99}, and the model has no such linear layer")
        refuse_shared_weight(model, name, layer)
        a = _read(name, pair, "A", (rank, layer.in_features))
        b = _read(name, pair, "B", (layer.out_features, rank))
        updates.append((layer.weight, scale * (b @ a)))
    for weight, update in updates:
        weight += update.to(weight.dtype)


def _rank_and_scale(config: Mapping[str, Any]) -> tuple[int, float]:
    for key, value in config.items():
        if value != KNOWN[key] if key in KNOWN else value and key not in HARMLESS:
            raise ValueError(f"{CONFIG} has {key!r:.99} = {value!r:.99}, which plain LoRA does not have")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or bool in (type(rank), type(alpha)):
        raise ValueError(f"{CONFIG} has r = {rank!r:.99} and lora_alpha = {alpha!r:.99}: get it again")
    if not 1 <= rank < LARGEST or not 0 < abs(alpha) < LARGEST:
        raise ValueError(f"{CONFIG} has r = {rank} and lora_alpha = {alpha}, beyond any use: get it again")
    return rank, alpha / rank


def _pairs(tensors: Mapping[str, Stored]) -> dict[str, dict[str, Stored]]:
    """Return the two matrices of each layer by its name in `Transformer`."""
    pairs: dict[str, dict[str, Stored]] = {}
    for name, tensor in tensors.items():
        layer, dot, part = name.removesuffix(".weight").rpartition(".lora_")
        if not dot or part not in ("A", "B") or not name.startswith(PREFIX) or not name.endswith(".weight"):
            raise ValueError(
                f"{WEIGHTS} has a tensor {shown(name):.99}, which is none of a LoRA adapter of peft"
            )
        pairs.setdefault(layer.removeprefix(PREFIX).removeprefix("model."), {})[part] = tensor
    if not pairs:
        raise ValueError(f"{WEIGHTS} has no tensors: get it again")
    return pairs


def _read(name: str, pair: Mapping[str, Stored], part: str, shape: tuple[int, int]) -> Tensor:
    found = pair[part].shape if part in pair else "not there"
    if found != shape:
        raise ValueError(f"lora_{part} of {shown(name):.99} is {found}: the model and the rank want {shape}")
    try:
        values = pair[part].read()
    except SafetensorError as error:
        raise ValueError(f"lora_{part} of {shown(name):.99} cannot be read ({error}): get it again") from None
    if not values.is_floating_point() or values.shape != shape or not values.float().isfinite().all():
        raise ValueError(
            f"lora_{part} of {shown(name):.99} is not finite or no floating numbers: get it again"
        )
    return values.float()
