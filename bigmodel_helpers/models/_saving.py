"""Write a `Transformer` as a folder in the layout of the hubs. Introduced in chapter 11."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from bigmodel_helpers.data._paths import expanded
from bigmodel_helpers.models.transformer import Transformer, TransformerConfig


def save(model: Transformer, path: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write ``config.json`` and ``model.safetensors`` into a folder, as Llama, Qwen2 or Qwen3 are published.

    `load` and the library `transformers` read them; the tokenizer goes beside them, ``tokenizer.save(...)``.

    Args:
        model: with RMSNorm, rotary positions and SwiGLU.
        path: a folder, made where it is not there; files of these names in it are replaced.
        dtype: of the weights in the file, such as torch.bfloat16.

    Raises:
        ValueError: the model has parts that no published Llama has, or `dtype` is no floating type.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"weights cannot be {dtype}: take a floating type, such as torch.bfloat16")
    folder = expanded(path)
    config = _published(model.config, dtype)
    state = {_name(name): value.detach().to("cpu", dtype) for name, value in model.state_dict().items()}
    if model.config.tied:
        del state["lm_head.weight"]
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in state.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _name(name: str) -> str:
    return name if name.startswith("lm_head.") else f"model.{name}"


def _published(config: TransformerConfig, dtype: torch.dtype) -> dict[str, object]:
    kind = "qwen2" if config.qkv_bias else "qwen3" if config.qk_norm else "llama"
    if config.positions or config.bias or not config.gated or (config.qkv_bias and config.qk_norm):
        raise ValueError(
            "only Llama's parts can be saved: no learned positions, bias only as Qwen2 has it, gated=True"
        )
    return {
        "architectures": [{"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind] + "ForCausalLM"],
        "model_type": kind,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "vocab_size": config.vocabulary,
        "tie_word_embeddings": config.tied,
        "rope_theta": config.theta,
        "rms_norm_eps": config.eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": 2048,
        "dtype": str(dtype).removeprefix("torch."),
    }
