"""The ``config.json`` of a `Transformer`, as Llama, Qwen2 and Qwen3 are published."""

import torch

from bigmodel_helpers.models.transformer_config import TransformerConfig


def published_config(config: TransformerConfig, dtype: torch.dtype) -> dict[str, object]:
    """Return what `published.config_of` reads back; a ValueError where no published Llama has such parts."""
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
