"""Small transformers of each kind that `published` reads, with random weights; folders as on the hubs."""

import contextlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bigmodel_helpers import models
from bigmodel_helpers.models import published

CONFIGS = {
    "gpt2": models.TransformerConfig(
        3, 48, 192, 6, 6, 97, positions=64, bias=True, gated=False, tied=True, eps=1e-5
    ),
    "llama": models.TransformerConfig(3, 48, 80, 6, 2, 97, eps=1e-5),
    "tied llama": models.TransformerConfig(3, 48, 80, 6, 2, 97, tied=True, theta=100_000.0),
    "qwen2": models.TransformerConfig(3, 48, 80, 6, 2, 97, qkv_bias=True, eps=1e-6),
    "qwen3": models.TransformerConfig(3, 48, 80, 6, 2, 97, qk_norm=True, head_width=16, eps=1e-6),
}
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"},
    "tie_word_embeddings": False,
}


def network(config: models.TransformerConfig) -> models.Transformer:
    """Make a network in which no parameter has a value that hides a fault, such as 0 or 1."""
    torch.manual_seed(0)
    model = models.Transformer(config).requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def published_llama(model: models.Transformer) -> dict[str, torch.Tensor]:
    """Return the tensors of a Llama by the names that they have on the hubs."""
    return {
        name if name == "lm_head.weight" else f"model.{name}": tensor
        for name, tensor in model.state_dict().items()
    }


def write_llama(folder: Path, tensors: dict[str, torch.Tensor], **changes: Any) -> Path:
    """Write a folder with a configuration, that of `LLAMA` with changes, and safetensors."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA | changes), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder


def refuse(path: Path | str, error: type[Exception] = ValueError) -> str:
    """Return why a checkpoint is refused; it takes little memory to find that out."""
    with contextlib.suppress(error):
        published.load(path)  # what is imported at the first use of the meta device is no memory of the file
    tracemalloc.start()
    with pytest.raises(error, match=r"^[^\n]{,700}$") as caught:
        published.load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
    return str(caught.value)
