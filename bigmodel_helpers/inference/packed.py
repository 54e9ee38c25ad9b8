"""A `Transformer` packed for inference: fewer and faster operations per token. Introduced in chapter 15."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigmodel_helpers.inference._packs import PACKS, Product, grouped_attention, normalization
from bigmodel_helpers.inference.sampling import sample
from bigmodel_helpers.models.transformer import Block, Transformer

Attend: TypeAlias = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Packed:
    """The weights of a `Transformer` for inference: matrices that read the same input are joined and packed.

    It computes what the network computes, up to rounding; ``"fp16"``, ``"int8"`` and ``"int4"`` round the weights,
    too. After a change of the network, pack it again. Introduced in chapter 15.

    Memory: it shares embeddings and normalizations with the network, and holds copies of the matrices. With
    ``"plain"``, only those that were joined (queries, keys, values; gate and up) are copies. It does not keep the
    network itself: ``del model`` frees the originals of the copies, which until then are held twice.

    Args:
        model: a network with the weights of `Transformer` in plain linear layers.
        pack: how matrices are stored and multiplied.
            ``"plain"``: as they are, on any device and in any dtype.
            ``"transposed"``: those with more rows than columns are stored by columns, which a CPU reads faster when
            it computes one token in fp32.
            ``"onednn"``: in the layout of oneDNN, which uses all threads for a few tokens; fp32 on a CPU.
            ``"fp16"``: 16 bits per weight, and all else in fp32; fp32 on a CPU for which PyTorch has fbgemm.
            ``"int8"``: 8 bits per weight and one scale per row; bf16 on a CPU.
            ``"int4"``: 4 bits per weight, scale and offset for each 32 of a row, but 8 bits in the output layer; bf16
            on a CPU.

    Attributes:
        config: the sizes of the network.
        dtype, device: of its weights.

    Raises:
        ValueError: there is no such pack, the dtype, the device or a size does not suit it, a weight is too large for
            it or not finite, a layer is none of `Transformer`, or this PyTorch cannot do it.
    """

    def __init__(self, model: Transformer, pack: str = "plain") -> None:
        if pack not in PACKS:
            raise ValueError(f"pack is {pack!r:.99}: take one of {', '.join(PACKS)}")
        self.config, self.pack = model.config, pack
        self.dtype, self.device = model.embed_tokens.weight.dtype, model.embed_tokens.weight.device
        self._embed_tokens = model.embed_tokens.weight.detach()
        self._embed_positions = model.embed_positions.weight.detach() if self.config.positions else None
        self._blocks = [_PackedBlock(block, pack) for block in model.layers]
        self._norm = normalization(model.norm)
        self._head = _joined("int8" if pack == "int4" else pack, model.lm_head)

    @torch.inference_mode()
    def scores(self, tokens: Tensor, places: Tensor, attend: Attend, rows: Sequence[int] | slice) -> Tensor:
        """Return the scores after some of the tokens, which may come from several texts.

        Args:
            tokens: (tokens,) int64.
            places: (tokens,) int64, where in its text each token stands.
            attend: ``attend(layer, query, key, value)`` returns what the tokens attend to, (tokens, q_width); `query`
                is (tokens, heads, head_width), `key` and `value` are (tokens, kv_heads, head_width). It keeps what
                later tokens need of keys and values.
            rows: the tokens after which scores are wanted.

        Returns:
            (rows, vocabulary).
        """
        x = F.embedding(tokens, self._embed_tokens)
        turn = None
        if self._embed_positions is not None:
            x = x + F.embedding(places, self._embed_positions)
        else:
            turn = self._turn(places)
        for layer, block in enumerate(self._blocks):
            x = x + block.out(attend(layer, *self._heads(block, x, turn)))
            x = x + block.mlp(x)
        x = x[rows]
        return self._head(self._norm(x)) if len(x) else x.new_zeros(0, self.config.vocabulary)

    def _turn(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and signed sine of the rotary angles, (tokens, 1, head_width) each."""
        even = torch.arange(0, self.config.head_width, 2, dtype=torch.float32, device=self.device)
        angles = places[:, None, None].float() * self.config.theta ** (-even / self.config.head_width)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([cos, cos], -1).to(self.dtype), torch.cat([-sin, sin], -1).to(self.dtype)

    def _heads(
        self, block: "_PackedBlock", x: Tensor, turn: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads, kv_heads = self.config.heads, self.config.kv_heads
        y = block.qkv(block.attention_norm(x)).unflatten(1, (-1, self.config.head_width))
        both, value = y.split([heads + kv_heads, kv_heads], dim=1)
        if block.query_norm is not None:
            query, key = both.split([heads, kv_heads], dim=1)
            both = torch.cat([block.query_norm(query), block.key_norm(key)], dim=1)
        if turn is not None:
            both = torch.addcmul(both * turn[0], both.roll(self.config.head_width // 2, -1), turn[1])
        query, key = both.split([heads, kv_heads], dim=1)
        return query, key, value


class _PackedBlock:
    """The matrices and normalizations of a `Block`."""

    def __init__(self, block: Block, pack: str) -> None:
        attention, mlp = block.self_attn, block.mlp
        self.attention_norm = normalization(block.input_layernorm)
        self.mlp_norm = normalization(block.post_attention_layernorm)
        normalized = hasattr(attention, "q_norm")
        self.query_norm = normalization(attention.q_norm) if normalized else None
        self.key_norm = normalization(attention.k_norm) if normalized else None
        self.qkv = _joined(pack, attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = _joined(pack, attention.o_proj)
        self.gated = hasattr(mlp, "gate_proj")
        self.up = _joined(pack, mlp.gate_proj, mlp.up_proj) if self.gated else _joined(pack, mlp.up_proj)
        self.down = _joined(pack, mlp.down_proj)

    def mlp(self, x: Tensor) -> Tensor:
        y = self.up(self.mlp_norm(x))
        if not self.gated:
            return self.down(F.gelu(y, approximate="tanh"))
        gate, up = y.chunk(2, dim=-1)
        return self.down(F.silu(gate).mul_(up))


def _joined(pack: str, *layers: nn.Module) -> Product:
    """Return the product with the matrices of some layers, below each other."""
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"a layer is {type(layer).__name__}, not nn.Linear: bring the network back to plain layers first"
            )
    weights = [layer.weight.detach() for layer in layers]
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    return PACKS[pack](weight, torch.cat(biases) if biases else None)


class Decoder:
    """One text and its keys and values, in memory that is taken once. Introduced in chapter 15.

    Args:
        packed: the network.
        capacity: the most tokens of a text.

    Attributes:
        length: tokens of the text so far; setting it to a smaller number forgets those after it.
        capacity: the most tokens of a text.

    Raises:
        ValueError: `capacity` is no positive whole number.

    >>> network = models.Transformer(models.TransformerConfig(1, 8, 16, 2, 1, vocabulary=10))
    >>> decoder = inference.Decoder(inference.Packed(network), capacity=8)
    >>> decoder.read([3, 1, 4]).shape, decoder.length
    (torch.Size([1, 10]), 3)
    """

    def __init__(self, packed: Packed, capacity: int = 1024) -> None:
        if type(capacity) is not int or capacity < 1:
            raise ValueError(f"capacity is {capacity!r:.99}: take a whole number of at least 1")
        config = packed.config
        shape = (config.layers, 2, 1, config.kv_heads, capacity, config.head_width)
        self.packed, self.capacity, self._length = packed, capacity, 0
        self._cache = torch.zeros(shape, dtype=packed.dtype, device=packed.device)

    @property
    def length(self) -> int:
        """Tokens of the text so far; setting it to a smaller number forgets those after it."""
        return self._length

    @length.setter
    def length(self, length: int) -> None:
        if type(length) is not int or not 0 <= length <= self._length:
            raise ValueError(f"length is {length!r:.99}: take a whole number from 0 to {self._length}")
        self._length = length

    def read(self, tokens: Sequence[int], rows: int = 1) -> Tensor:
        """Add tokens to the text, and return the scores after each of the last `rows` of them, (rows, vocabulary).

        Raises:
            ValueError: there is no token, one that the network does not know, no room for them, or `rows` is out of
                range.
        """
        start, stop = self.length, self.length + len(tokens)
        self._check(tokens, stop, rows)
        device = self.packed.device
        places, mask = torch.arange(start, stop, device=device), None
        if len(tokens) > 1:
            mask = torch.arange(stop, device=device) <= places[:, None]
            mask = mask.repeat(self.packed.config.heads // self.packed.config.kv_heads, 1)[None, None]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self._cache[layer, :, :, :, :stop]
            keys[0, :, start:], values[0, :, start:] = key.transpose(0, 1), value.transpose(0, 1)
            return grouped_attention(query[None], keys, values, mask)

        ids = torch.tensor([*tokens], device=device)
        scores = self.packed.scores(ids, places, attend, slice(-rows, None))
        self._length = stop
        return scores

    def _check(self, tokens: Sequence[int], stop: int, rows: int) -> None:
        config = self.packed.config
        if not len(tokens):
            raise ValueError("no token to read: pass one at least")
        if type(rows) is not int or not 1 <= rows <= len(tokens):
            raise ValueError(f"rows is {rows!r:.99}: take a whole number from 1 to {len(tokens)}")
        for token in tokens:
            if type(token) is not int or not 0 <= token < config.vocabulary:
                raise ValueError(
                    f"token {token!r:.99}: tokens are whole numbers from 0 to {config.vocabulary - 1}"
                )
        room = min(self.capacity, config.positions or self.capacity)
        if stop > room:
            raise ValueError(
                f"{stop} tokens do not fit into {room}: shorten the text or take a larger capacity"
            )

    def generate(
        self,
        prompt: Sequence[int],
        *,
        most: int,
        end: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Iterator[int]:
        """Forget the text, read a prompt, and yield the tokens that go on from it, as soon as they are known.

        Args:
            prompt: token ids.
            most: how many tokens.
            end: the token after which nothing comes; None where there is none.
            temperature, top_k, top_p, min_p, generator: as in `sample`; the default takes the highest score.

        Raises:
            ValueError: as in `read`.
        """
        self._length, tokens = 0, prompt
        for _ in range(most):
            scores = self.read(tokens)
            chosen = sample(
                scores, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, generator=generator
            )
            token = int(chosen)
            yield token
            if token == end:
                return
            tokens = [token]
