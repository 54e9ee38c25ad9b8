"""A decoder-only transformer in one file: GPT-2, Llama, Qwen2, Qwen3, SmolLM2, by configuration.

Its parameters have the names of the published checkpoints of Llama. `published.load` reads such checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bigmodel_helpers.models.transformer_config import TransformerConfig


class Cache:
    """Keys and values of the tokens so far, for each layer: (batch, kv_heads, tokens, head_width).

    Introduced in chapter 10.

    >>> cache, config = models.Cache(layers=2), models.TransformerConfig(2, 8, 16, 2, 1, vocabulary=10)
    >>> models.Transformer(config)(torch.tensor([[3, 1, 4]]), cache=cache).shape
    torch.Size([1, 3, 10])
    >>> len(cache), cache.keys[0].shape
    (3, torch.Size([1, 1, 3, 4]))
    """

    def __init__(self, layers: int) -> None:
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens to those of a layer, and return all."""
        if self.keys[layer] is not None:
            keys = torch.cat([self.keys[layer], keys], dim=2)
            values = torch.cat([self.values[layer], values], dim=2)
        self.keys[layer], self.values[layer] = keys, values
        return keys, values

    def __len__(self) -> int:
        return 0 if self.keys[0] is None else self.keys[0].shape[2]


def _rotary(positions: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the angles by which rotary positions turn (Su et al. 2021), fp32.

    Number i of the first half of a head and number i of its second half are the two coordinates of a plane that turns
    by the position times ``theta ** (-2i / head_width)``.

    Args:
        positions: (batch, tokens) int64.

    Returns:
        two tensors (batch, 1, tokens, head_width).
    """
    even = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32)
    angles = positions[:, None, :, None].float() * theta ** (-even / head_width)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the planes of each head of x, (batch, heads, tokens, head_width), by the angles of `_rotary`."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], dim=-1) * sin.to(x.dtype)


def _mask(
    tokens: int, seen: int, real: Tensor | None, documents: Tensor | None, device: torch.device
) -> Tensor | None:
    """Return which token may look at which, (batch or 1, 1, tokens, seen) bool; None where no mask is needed.

    Args:
        tokens: number of new tokens, the last ones of `seen`.
        seen: number of tokens with those in the cache.
        real: (batch, seen) bool, False at padding; None where there is none.
        documents: (batch, seen) int64, the document of each token; None where a row is one.
    """
    if real is None and documents is None and (tokens == 1 or tokens == seen):
        return None
    rows = torch.arange(seen - tokens, seen, device=device)[:, None]
    columns = torch.arange(seen, device=device)
    mask = (columns <= rows)[None, None]
    if real is not None:
        mask = mask & real[:, None, None] | (columns == rows)  # a padding token sees itself: no empty softmax
    if documents is not None:
        before = torch.cat([documents[:, :1], documents[:, :-1]], dim=1)
        runs = (documents != before).cumsum(1)
        mask = mask & (runs[:, None, :, None] == runs[:, None, None])
    return mask


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return what each query collects: from the keys of its mask, without one from those up to its own.

    With a mask and 64 tokens, or 64 more than a multiple of 128, cuDNN's gradients of the queries may be nan where
    all scores of a query are far below zero (PyTorch 2.11 on Hopper, pytorch/pytorch#196678): it is not asked.
    """
    if mask is None:
        causal, grouped = q.shape[2] > 1, k.shape[1] < q.shape[1]
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)
    if not (q.is_cuda and q.requires_grad):
        return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=k.shape[1] < q.shape[1])
    k, v = (each.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for each in (k, v))
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return F.scaled_dot_product_attention(q, k, v, mask)


class Attention(nn.Module):
    """Causal self-attention with grouped queries, rotary positions, and a cache. Introduced in chapter 10."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_width = layer, config.head_width
        bias = config.bias or config.qkv_bias
        self.q_proj = nn.Linear(config.width, config.q_width, bias)
        self.k_proj = nn.Linear(config.width, config.kv_width, bias)
        self.v_proj = nn.Linear(config.width, config.kv_width, bias)
        self.o_proj = nn.Linear(config.q_width, config.width, config.bias)
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(config.head_width, config.eps)
            self.k_norm = nn.RMSNorm(config.head_width, config.eps)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor] | None, mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        q, k, v = (
            project(x).unflatten(2, (-1, self.head_width))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        if turn is not None:
            q, k = _rotate(q, *turn), _rotate(k, *turn)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        return self.o_proj(_attend(q, k, v, mask).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """What works on each token of a block alone: SwiGLU (Shazeer 2020), or GELU. Introduced in chapter 10."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        if config.gated:
            self.gate_proj = nn.Linear(config.width, config.hidden, config.bias)
        self.up_proj = nn.Linear(config.width, config.hidden, config.bias)
        self.down_proj = nn.Linear(config.hidden, config.width, config.bias)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "gate_proj"):
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))


def _norm(config: TransformerConfig) -> nn.Module:
    """Make the normalization of the configuration: LayerNorm with biases, or RMSNorm."""
    return (nn.LayerNorm if config.bias else nn.RMSNorm)(config.width, config.eps)


class Block(nn.Module):
    """Attention and MLP, each on normalized input, each added to the residual stream. Introduced in chapter 10."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = _norm(config), Attention(config, layer)
        self.post_attention_layernorm, self.mlp = _norm(config), MLP(config)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor] | None, mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turn, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """A decoder-only transformer: tokens in, scores of the next token out. Introduced in chapter 10.

    The weights begin as in GPT-2 (normal, deviation 0.02, biases zero), but what is added to the residual stream
    begins at zero: the output projections of attention and MLP.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        if config.positions:
            self.embed_positions = nn.Embedding(config.positions, config.width)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = _norm(config)
        self.lm_head = nn.Linear(config.width, config.vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in self.layers:
            nn.init.zeros_(block.self_attn.o_proj.weight)
            nn.init.zeros_(block.mlp.down_proj.weight)
        if config.tied:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(
        self,
        tokens: Tensor,
        *,
        real: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Return the scores of the next token after each token.

        Args:
            tokens: (batch, tokens) int64.
            real: (batch, tokens with those in the cache) bool, False at padding, which stands on the left.
            documents: (batch, tokens) int64, the number of the document of each token, for training on rows of
                several: a run of equal numbers is one document, whose tokens see no other, and whose positions
                begin at 0. A number that comes back after another one is a new document. Introduced in chapter 11.
            cache: keys and values of earlier tokens, to which those of `tokens` are added.

        Returns:
            (batch, tokens, vocabulary) in the dtype of the weights.

        Raises:
            ValueError: a row has more tokens, with padding, than learned positions; `tokens`, `real`, `documents`
                or `cache` has another shape; `documents` comes with one of the other two.
        """
        seen = self._seen(tokens, real, documents, cache)
        new = tokens.shape[1]
        mask = _mask(new, seen, real, documents, tokens.device)
        if mask is None:
            places = torch.arange(seen - new, seen, device=tokens.device)[None]
        else:
            places = mask[:, 0].sum(-1) - 1  # the place of a token is how many it sees before it
        x = self.embed_tokens(tokens)
        turn = None
        if self.config.positions:
            x = x + self.embed_positions(places)
        else:
            turn = _rotary(places, self.config.head_width, self.config.theta)
        for block in self.layers:
            x = block(x, turn, mask, cache)
        return self.lm_head(self.norm(x))

    def _seen(
        self, tokens: Tensor, real: Tensor | None, documents: Tensor | None, cache: Cache | None
    ) -> int:
        """Return the number of tokens with those in the cache; what does not fit together is an error."""
        if tokens.ndim != 2:
            raise ValueError(f"tokens of shape {tuple(tokens.shape)}: pass (batch, tokens)")
        if documents is not None and (real is not None or cache is not None):
            raise ValueError(
                "documents with real or cache: these are for rows of one document each: pass documents alone"
            )
        if cache is not None and len(cache.keys) != len(self.layers):
            raise ValueError(f"a cache for {len(cache.keys)} layers: make one for {len(self.layers)}")
        seen = tokens.shape[1] + (len(cache) if cache is not None else 0)
        for name, given, dtype in (("real", real, torch.bool), ("documents", documents, torch.int64)):
            if given is not None and (given.shape != (len(tokens), seen) or given.dtype != dtype):
                raise ValueError(
                    f"{name} is {given.dtype} of shape {tuple(given.shape)}: pass {dtype} of {(len(tokens), seen)}"
                )
        if 0 < self.config.positions < seen:
            raise ValueError(
                f"{seen} tokens are more than {self.config.positions} positions: shorten the text"
            )
        return seen
