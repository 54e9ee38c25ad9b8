"""The sizes of a transformer, as data. Introduced in chapter 1."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class TransformerConfig:
    """The sizes of a decoder-only transformer. `budgets` works out what they cost, `Transformer` is the network.

    Introduced in chapter 1.

    Attributes:
        layers: number of blocks.
        width: numbers per token between the blocks, the residual stream.
        hidden: numbers per token inside the MLP.
        heads: attention heads.
        kv_heads: heads of keys and values, fewer than `heads` in grouped-query attention.
        vocabulary: number of different tokens.
        positions: learned position embeddings, 0 for rotary positions, which have no parameters.
        bias: linear layers have biases, and normalizations are LayerNorm with biases instead of RMSNorm.
        gated: the MLP multiplies by a gate (SwiGLU), so it has three matrices instead of two (GELU).
        tied: the output layer shares the matrix of the token embedding.
        head_width: numbers per head; 0 for `width` divided by `heads`.
        qkv_bias: queries, keys and values have biases, even without `bias` (Qwen2).
        qk_norm: queries and keys of each head are normalized (Qwen3).
        theta: base of the rotary positions.
        eps: what the normalizations add to the mean square.
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
    head_width: int = 0
    qkv_bias: bool = False
    qk_norm: bool = False
    theta: float = 10_000.0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check(field.name, field.type)
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} heads cannot share {self.kv_heads} of keys and values: take a divisor of {self.heads}"
            )
        if not self.head_width:
            if self.width % self.heads:
                raise ValueError(
                    f"a width of {self.width} is not divisible by {self.heads} heads: set head_width"
                )
            object.__setattr__(self, "head_width", self.width // self.heads)
        if self.head_width % 2 and not self.positions:
            raise ValueError(
                f"a head_width of {self.head_width} is odd, and rotary positions turn pairs: take an even one"
            )

    def _check(self, name: str, kind: type) -> None:
        value, least = getattr(self, name), 0 if name in ("positions", "head_width") else 1
        if kind is int and (type(value) is not int or value < least):
            raise ValueError(f"{name} is {value!r:.99}: take a whole number of at least {least}")
        if kind is bool and type(value) is not bool:
            raise ValueError(f"{name} is {value!r:.99}: take True or False")
        if kind is float and (type(value) not in (int, float) or not 0 < value < 1e38):
            raise ValueError(f"{name} is {value!r:.99}: take a positive number below 1e38")

    def __repr__(self) -> str:
        """Show what chapter 10 adds only where it was set."""
        plain = {"head_width": self.width // self.heads, "qkv_bias": False, "qk_norm": False}
        plain |= {"theta": 10_000.0, "eps": 1e-5}
        shown = (f"{name}={value!r}" for name, value in vars(self).items() if plain.get(name) != value)
        return f"TransformerConfig({', '.join(shown)})"

    @property
    def q_width(self) -> int:
        """Numbers per token in the queries."""
        return self.head_width * self.heads

    @property
    def kv_width(self) -> int:
        """Numbers per token in the keys, and in the values."""
        return self.head_width * self.kv_heads
