"""Documents as one stream of tokens, and batches that show all of it. Introduced in chapter 11."""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from numbers import Integral

import torch
from torch import Tensor

from bigmodel_helpers.data._paths import shown
from bigmodel_helpers.data._seeds import seeded
from bigmodel_helpers.data.batches import Batches
from bigmodel_helpers.data.documents import Documents


@dataclass(frozen=True)
class Packed:
    """A stream of tokens, int32 (N,), with start and size of its documents. Introduced in chapter 11.

    A document begins with the token that parts it from the one before, at its place in `starts`, int64 (D,); its text
    has as many bytes of UTF-8 as `sizes` says, int64 (D,).
    """

    tokens: Tensor
    starts: Tensor
    sizes: Tensor


def pack(documents: Documents, encode: Callable[[str], Iterable[int]], end: int) -> Packed:
    """Turn documents into one stream: of each `end`, then the ids of its text. Introduced in chapter 11.

    Args:
        documents: at least one.
        encode: text -> ids, such as ``lambda text: tokenizer.encode(text).ids``.
        end: an id that no text has, such as ``tokenizer.token_to_id("<|end|>")``.

    Raises:
        ValueError: there is no document, `end` is no id, or `encode` returns anything but other ids.

    >>> letters = data.documents.Documents(texts=("ab", "c"), names=("one", "two"))
    >>> data.pack(letters, str.encode, end=256).tokens
    tensor([256,  97,  98, 256,  99], dtype=torch.int32)
    """
    if not isinstance(documents, Documents) or not len(documents):
        raise ValueError(f"{shown(documents)}: no Documents with a text: get some with documents.folder")
    if not isinstance(end, Integral) or not 0 <= end < 2**31:
        raise ValueError(f"end={end!r} is no id of a token: take that of a special token of the tokenizer")
    tokens, starts, sizes = array("i"), [], []
    for name, text in zip(documents.names, documents.texts, strict=True):
        try:
            size, ids = len(text.encode()), array("i", list(encode(text)))
        except (TypeError, OverflowError, UnicodeEncodeError) as error:
            raise ValueError(
                f"{shown(name)}: encode gives no list of ids ({error}): mend it or the text"
            ) from error
        if (least := min(ids, default=0)) < 0 or end in ids:
            wrong = f"the id {least}" if least < 0 else f"end={end} among its ids"
            raise ValueError(f"{shown(name)} has {wrong}: ids are at least 0, and no text has end")
        starts.append(len(tokens))
        sizes.append(size)
        tokens.extend([int(end), *ids])
    return Packed(torch.frombuffer(tokens, dtype=torch.int32), torch.tensor(starts), torch.tensor(sizes))


@dataclass(repr=False, eq=False)
class PackedBatches:
    """Batches of windows that show the stream once an epoch; iterate once per epoch. Introduced in chapter 11.

    An epoch cuts the stream into windows of `length` inputs and their targets; the last target of one is the first
    input of the next. Where the first begins is random, as far as no batch is lost by it, and so is the order of the
    windows. Both depend only on (seed, epoch). Windows that fill no batch are left out.

    Yields (inputs, targets, documents), int64 (B, T) each on `device`: a target is the token that follows its input,
    `documents` the number of the input's document; without `boundaries` (inputs, targets) only.

    Args:
        length: tokens per window, T.
        batch_size: windows, B.
        seed: of cut and order; ranks that train together take the same one.
        rank: one of `ranks` that share an epoch: their batches together are those of one process with `ranks` times
            the batch size.

    Raises:
        ValueError: the stream is too short for one batch of each rank, or a number is out of range.
        TypeError: `packed` is something else.
    """

    packed: Packed
    length: int
    batch_size: int
    _: KW_ONLY
    seed: int = 0
    device: torch.device | str = "cpu"
    boundaries: bool = True
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.packed, Packed):
            raise TypeError(f"a {type(self.packed).__name__} is no Packed: make one with pack")
        for name in ("length", "batch_size", "ranks"):
            if not isinstance(value := getattr(self, name), Integral) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
        if self.rank not in range(self.ranks):
            raise ValueError(f"rank={self.rank!r} must be one of {self.ranks} ranks, counted from 0")
        tokens, need = len(self.packed.tokens), self.length * self.batch_size * self.ranks + 1
        if tokens < need:
            batch = f"a batch of {self.batch_size} windows of {self.length} tokens on {self.ranks} ranks"
            raise ValueError(
                f"{tokens:,} tokens are too few, {batch} needs {need:,}: add text or use smaller numbers"
            )
        self.tokens, self.starts = (part.to(self.device) for part in (self.packed.tokens, self.packed.starts))
        self.set_epoch(0)

    def __len__(self) -> int:
        """Return the number of batches, the same in each epoch."""
        return (len(self.tokens) - 1) // (self.length * self.batch_size * self.ranks)

    set_epoch, state_dict, load_state_dict = Batches.set_epoch, Batches.state_dict, Batches.load_state_dict

    def _order(self) -> dict[str, int]:
        names = ("seed", "length", "batch_size", "rank", "ranks")
        return {name: getattr(self, name) for name in names} | {"tokens": len(self.tokens)}

    def _places(self, epoch: int) -> Tensor:
        """Return where the windows of this rank begin, int64 (batches, B, 1)."""
        generator, shape = seeded(self.seed, epoch), (len(self), self.ranks, self.batch_size, 1)
        count, last = math.prod(shape), len(self.tokens) - 1
        room = min(self.length, last - count * self.length + 1)  # all batches are there, whatever the offset
        offset = torch.randint(room, (1,), generator=generator)
        order = torch.randperm((last - int(offset)) // self.length, generator=generator)[:count]
        return (offset + self.length * order).view(shape)[:, self.rank]

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        epoch, first = self.epoch, self.first_batch
        self.first_batch = 0  # only one iteration goes on from a place
        device = self.tokens.device
        places, steps = self._places(epoch).to(device), torch.arange(self.length + 1, device=device)
        for index in range(first, len(self)):
            where = places[index] + steps
            tokens = self.tokens[where].long()
            batch = (tokens[:, :-1], tokens[:, 1:])
            if self.boundaries:
                batch += (torch.searchsorted(self.starts, where[:, :-1].contiguous(), right=True) - 1,)
            self.epoch, self.position = epoch, index + 1  # another iteration may have changed them
            yield batch
        self.set_epoch(epoch + 1)
