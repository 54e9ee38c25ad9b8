"""The transformer: its sizes, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TransformerConfig:
    """The sizes of a decoder-only transformer. `budgets` works out what they cost; chapter 10 builds the network.

    Introduced in chapter 1.

    Attributes:
        layers: number of blocks.
        width: numbers per token between the blocks.
        hidden: numbers per token inside the MLP.
        heads: attention heads; `width` is divided among them.
        kv_heads: heads of keys and values, fewer than `heads` in grouped-query attention.
        vocabulary: number of different tokens.
        positions: learned position embeddings, 0 for none (rotary positions have no parameters).
        bias: linear and normalization layers have biases.
        gated: the MLP multiplies by a gate (SwiGLU), so it has three matrices instead of two.
        tied: the output layer shares the matrix of the token embedding.
    """

    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    vocabulary: int
    positions: int = 0
    bias: bool = False
    gated: bool = True
    tied: bool = False

    @property
    def kv_width(self) -> int:
        """Numbers per token in the keys, and in the values."""
        return self.width * self.kv_heads // self.heads
