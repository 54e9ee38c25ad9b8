"""The files of a LoRA adapter, as peft writes them: what they are called, what they may say, and what of it fits."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from bigmodel_helpers.data._paths import shown
from bigmodel_helpers.models._safetensors import Stored

PREFIX = "base_model.model."  # of names in the files of peft; the network of a published Llama adds "model."
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# What a configuration of peft may say besides r and lora_alpha without another computation.
HARMLESS = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "lora_dropout", "megatron_core", "qalora_group_size", "r", "lora_alpha", "exclude_modules",
    "layers_to_transform", "layers_pattern",
}  # fmt: skip
KNOWN = {"peft_type": ("LORA",), "bias": ("none",)}
LARGEST = 2**20  # of rank and alpha, far beyond any that somebody trained


def beyond_plain(
    config: Mapping[str, Any], known: Mapping[str, Sequence[Any]] = KNOWN, harmless: Set[str] = HARMLESS
) -> str | None:
    """Return the first key of a configuration that asks for more than plain LoRA; None where there is none."""
    for key, value in config.items():
        if value not in known[key] if key in known else value and key not in harmless:
            return key
    return None


def rank_and_alpha(config: Mapping[str, Any]) -> tuple[int, float]:
    """Return the rank, a whole number, and alpha, any number; a ValueError where they are something else."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or type(alpha) not in (int, float):
        raise wrong_numbers(config)
    return rank, alpha


def wrong_numbers(config: Mapping[str, Any]) -> ValueError:
    """Make the error about rank and alpha."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    return ValueError(f"{CONFIG} has r = {rank!r:.99} and lora_alpha = {alpha!r:.99}: get it again")


def pairs(tensors: Mapping[str, Stored]) -> dict[str, dict[str, Stored]]:
    """Return the matrices of each layer, as "A" and "B", by its name in `Transformer`.

    Raises:
        ValueError: there is no tensor, one that is none of an adapter, or one under two names.
    """
    found: dict[str, dict[str, Stored]] = {}
    for name, tensor in tensors.items():
        layer, dot, part = name.removesuffix(".weight").rpartition(".lora_")
        if not dot or part not in ("A", "B") or not name.startswith(PREFIX) or not name.endswith(".weight"):
            raise ValueError(
                f"{WEIGHTS} has a tensor {shown(name):.99}, which is none of a LoRA adapter of peft"
            )
        pair = found.setdefault(layer.removeprefix(PREFIX).removeprefix("model."), {})
        if part in pair:
            raise ValueError(f"{WEIGHTS} has lora_{part} of {shown(layer):.99} twice: get it again")
        pair[part] = tensor
    if not found:
        raise ValueError(f"{WEIGHTS} has no tensors: get it again")
    return found


def no_layer(name: str) -> ValueError:
    """Make the error about an adapter of a layer that the model does not have."""
    return ValueError(f"the adapter is for {shown(name):.99}, and the model has no such linear layer")


def refuse_shape(name: str, pair: Mapping[str, Stored], part: str, shape: tuple[int, int], rank: str) -> None:
    """Raise a ValueError where a matrix of a layer is missing or not of `shape`; `rank` is what it calls the rank."""
    found = pair[part].shape if part in pair else "not there"
    if found != shape:
        raise ValueError(f"lora_{part} of {shown(name):.99} is {found}: the model and {rank} want {shape}")


def read(stored: Stored, called: str) -> Tensor:
    """Return the values of a matrix; a ValueError that calls it `called` where the file is damaged."""
    try:
        return stored.read()
    except SafetensorError as error:
        raise ValueError(f"{called} cannot be read ({error}): get it again") from None
