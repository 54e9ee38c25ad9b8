"""The cache of `Engine` in blocks: who uses which, and the memory itself (Kwon et al. 2023, arXiv:2309.06180)."""

from array import array
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor

from bigmodel_helpers.inference._packs import grouped_attention
from bigmodel_helpers.inference.packed import Packed

SIZE = 16  # tokens in a block


class NoBlocks(Exception):  # noqa: N818
    """All blocks are in use."""


class Blocks:
    """Which blocks are free, how many texts use each of the others, and which ones hold known text.

    A block that holds known text and that nobody uses is idle: whoever needs that text takes it back, and where no
    block is free, the one that has been idle longest is written anew.
    """

    def __init__(self, count: int) -> None:
        self.references = [0] * count
        self._free = deque(range(count))
        self._block_of: dict[bytes, int] = {}
        self._name_of: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.references)

    def available(self) -> int:
        """Return how many blocks could be taken now."""
        return len(self._free) + len(self._idle)

    def take(self) -> int:
        """Return a block for one text; its content is of no use."""
        if self._free:
            block = self._free.popleft()
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            del self._block_of[self._name_of.pop(block)]
        else:
            raise NoBlocks
        self.references[block] = 1
        return block

    def share(self, block: int) -> int:
        """Note that one more text uses a block."""
        self._idle.pop(block, None)
        self.references[block] += 1
        return block

    def release(self, blocks: Sequence[int]) -> None:
        """Note that one text less uses these blocks; what stands last in the text is written anew first."""
        for block in reversed(blocks):
            self.references[block] -= 1
            if not self.references[block]:
                if block in self._name_of:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def name(self, block: int, name: bytes) -> None:
        """Note what a full block holds, if no other block is known for it."""
        if name not in self._block_of and block not in self._name_of:
            self._block_of[name], self._name_of[block] = block, name

    def shared_prefix(self, names: Sequence[bytes]) -> list[int]:
        """Return the blocks that hold the beginning of a text, shared from now on."""
        found = []
        for name in names:
            if name not in self._block_of:
                break
            found.append(self.share(self._block_of[name]))
        return found


def extend_names(names: list[bytes], tokens: Sequence[int]) -> None:
    """Add the names that the full blocks of `tokens` lack: a hash of their tokens and of all before them."""
    for start in range(len(names) * SIZE, len(tokens) - SIZE + 1, SIZE):
        content = array("q", tokens[start : start + SIZE]).tobytes()
        names.append(sha256((names[-1] if names else b"") + content).digest())


@dataclass
class Part:
    """Rows of a batch that attend together: the next `count` tokens of some texts.

    Attributes:
        count: new tokens per text.
        places: where these stand in their texts, row by row.
        slots: where their keys and values are written, block * SIZE + place in the block.
        table: (texts, blocks), the blocks of each text, filled up with its first.
    """

    count: int
    places: list[int]
    slots: list[int]
    table: list[list[int]]


def part_of(texts: Sequence[tuple[Sequence[int], int]], count: int) -> Part:
    """Return the part for texts, each with its blocks and the number of its tokens that are in the cache."""
    places = [place for _, done in texts for place in range(done, done + count)]
    slots = [
        blocks[place // SIZE] * SIZE + place % SIZE
        for blocks, done in texts
        for place in range(done, done + count)
    ]
    longest = max(places) // SIZE + 1
    table = [[*blocks[:longest], *[blocks[0]] * (longest - len(blocks))] for blocks, _ in texts]
    return Part(count, places, slots, table)


class Pool:
    """The memory of all blocks: (layers, 2, blocks, SIZE, kv_heads, head_width), keys and values.

    What is masked counts with weight 0, and 0 times NaN is NaN. So a text reads its own blocks only, and a block
    holds zeros before it is written.
    """

    def __init__(self, packed: Packed, blocks: int) -> None:
        config = packed.config
        shape = (config.layers, 2, blocks, SIZE, config.kv_heads, config.head_width)
        self.packed = packed
        self.memory = torch.zeros(shape, dtype=packed.dtype, device=packed.device)

    def clear(self, block: int) -> None:
        """Fill a block with zeros."""
        self.memory[:, :, block] = 0

    def copy(self, source: int, target: int) -> None:
        """Copy the content of a block."""
        self.memory[:, :, target] = self.memory[:, :, source]

    def scores(self, tokens: Sequence[int], parts: Sequence[Part], rows: Sequence[int]) -> Tensor:
        """Compute tokens, keep their keys and values, and return the scores after those of `rows`."""
        device = self.packed.device
        places = [place for part in parts for place in part.places]
        slots = torch.tensor([slot for part in parts for slot in part.slots], device=device)
        tables = [torch.tensor(part.table, device=device) for part in parts]
        masks = [self._mask(part) for part in parts]
        counts = [len(part.places) for part in parts]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self.memory[layer]
            keys.flatten(0, 1)[slots], values.flatten(0, 1)[slots] = key, value
            found = []
            for rows, part, table, mask in zip(query.split(counts), parts, tables, masks, strict=True):
                texts = rows.unflatten(0, (-1, part.count))
                found.append(grouped_attention(texts, _gather(keys, table), _gather(values, table), mask))
            return torch.cat(found)

        ids, where = torch.tensor([*tokens], device=device), torch.tensor(places, device=device)
        return self.packed.scores(ids, where, attend, [*rows])

    def _mask(self, part: Part) -> Tensor:
        """Return what is added to the scores of attention, (texts, 1, rows of a key head, seen)."""
        config, device = self.packed.config, self.packed.device
        places = torch.tensor(part.places, device=device).view(-1, part.count, 1)
        hidden = torch.arange(len(part.table[0]) * SIZE, device=device) > places
        hidden = hidden.repeat(1, config.heads // config.kv_heads, 1)[:, None]
        return torch.zeros(hidden.shape, dtype=self.packed.dtype, device=device).masked_fill_(
            hidden, -torch.inf
        )


def _gather(cache: Tensor, table: Tensor) -> Tensor:
    """Return keys or values of texts, (texts, kv_heads, seen, head_width)."""
    found = cache.index_select(0, table.flatten()).unflatten(0, table.shape)
    return found.flatten(1, 2).transpose(1, 2)
