"""The configuration and the tensors of a `Transformer`, as Llama, Qwen2 and Qwen3 are published."""

import torch
from torch import Tensor

from bigmodel_helpers.models.transformer import Transformer, TransformerConfig


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
        "dtype": str(dtype).removeprefix("torch."),
    }


def published_tensors(model: Transformer, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights by their published names; a ValueError where they are not those of a bare `Transformer`."""
    with torch.device("meta"):
        wanted = Transformer(model.config).state_dict()
    state = model.state_dict()
    for name in sorted(state.keys() ^ wanted.keys()):
        raise ValueError(
            f"the model has other tensors than its configuration says ({name}): merge or remove adapters, "
            "and save the network itself, not what wraps it"
        )
    if model.config.tied:
        del state["lm_head.weight"]
    return {
        name if name == "lm_head.weight" else f"model.{name}": value.detach().to("cpu", dtype).contiguous()
        for name, value in state.items()
    }
