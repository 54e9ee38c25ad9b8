"""Questions and answers as tokens, and rows of several that a network trains on. Introduced in chapter 12."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bigmodel_helpers.data._seeds import seeded
from bigmodel_helpers.data.batches import Batches

if TYPE_CHECKING:
    from tokenizers import Tokenizer

IGNORED = -100  # a target of this value is left out, as in PyTorch's own loss
Example = tuple[list[int], list[int]]


@dataclass(frozen=True)
class ChatTemplate:
    """How turns of a chat are written as tokens, as ChatML has it: start, role, line break, text, end, line break.

    What spells a special token in a text stays text, as with all tokenizers of `tokens`.

    Args:
        tokenizer: its ``encode(text).ids`` cuts texts.
        start: the token that begins a turn, such as ``tokenizer.token_to_id("<|im_start|>")``.
        end: the token that ends one; a model that knows one special token only may take it for both.
        system: what the system says first in each chat whose messages do not begin with it; None for nothing.
    """

    tokenizer: "Tokenizer"
    start: int
    end: int
    system: str | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or not 0 <= value < self.tokenizer.get_vocab_size():
                raise ValueError(
                    f"{name}={value!r:.99} is no token: take tokenizer.token_to_id of a special token"
                )

    def prompt(self, question: str) -> list[int]:
        """Return the ids of a turn of the user and of the beginning of the assistant's."""
        return self.turns([{"role": "user", "content": question}])

    def turns(self, messages: Iterable[Mapping[str, str]]) -> list[int]:
        """Return the ids of a chat so far, and of the beginning of the assistant's next turn.

        Args:
            messages: one for each turn, with a `role`, such as "system", "user" or "assistant", and its `content`.

        Raises:
            ValueError: there are no messages, or one has something else than these two texts.
        """
        ids, messages = [], [*messages]
        for number, message in enumerate(messages):
            if not isinstance(message, Mapping) or {*map(type, map(message.get, ("role", "content")))} != {
                str
            }:
                raise ValueError(
                    f"message {number} is {message!r:.99}: take a role and a content, both texts"
                )
        if not messages:
            raise ValueError("there are no messages: begin with one of the user")
        if self.system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.system})
        for message in messages:
            said = self._ids(f"{message['role']}\n{message['content']}")
            ids += [self.start, *said, self.end, *self._ids("\n")]
        return [*ids, self.start, *self._ids("assistant\n")]

    def reply(self, answer: str) -> list[int]:
        """Return the ids of the assistant's answer, with the token that ends it."""
        return [*self._ids(answer), self.end]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of an answer: what stands before the token that ends it."""
        ids = [*ids]
        return self.tokenizer.decode(ids[: ids.index(self.end)] if self.end in ids else ids)


@dataclass(repr=False, eq=False)
class ChatBatches:
    """Batches of rows that hold several whole examples each; iterate once per epoch. Introduced in chapter 12.

    The examples are put into rows in an order that depends on `seed`, as many as fit; what is left of a row is
    padding. Each epoch shows all rows in another order, which depends on (seed, epoch); rows that fill no batch are
    left out.

    Yields (inputs, targets, documents), int64 (B, T) each on `device`: a target is the token that follows its input,
    or -100 where none is to be learned: in padding and, with `answers_only`, in prompts. `documents` is the number of
    the example in its row, so that `models.Transformer` lets no token look into another example.

    Args:
        examples: (prompt, reply), token ids each, as `ChatTemplate` makes them.
        length: tokens per row, T.
        batch_size: rows, B.
        answers_only: learn the replies; False learns prompts, too.
        seed: of rows and order.

    Raises:
        ValueError: an example does not fit in a row or is empty, the rows fill no batch, or a number is out of range.
    """

    examples: Sequence[Example]
    length: int
    batch_size: int
    _: KW_ONLY
    answers_only: bool = True
    seed: int = 0
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        for name in ("length", "batch_size"):
            if not isinstance(value := getattr(self, name), Integral) or value < 1:
                raise ValueError(f"{name}={value!r:.99} must be a whole number of at least 1")
        for number, (prompt, reply) in enumerate(self.examples):
            if not prompt or not reply:
                raise ValueError(f"example {number} has no prompt or no reply: give both, token ids each")
            if not all(type(one) is int and one >= 0 for one in (*prompt, *reply)):
                raise ValueError(f"example {number} holds something else than token ids: give whole numbers")
            if (size := len(prompt) + len(reply) - 1) > self.length:
                raise ValueError(
                    f"example {number} needs {size} tokens, length={self.length}: shorten it or take more"
                )
        rows = [_row(row, self.length, self.answers_only) for row in self._rows()]
        if len(rows) < self.batch_size:
            raise ValueError(
                f"{len(rows)} rows fill no batch of {self.batch_size}: add examples or take a smaller one"
            )
        self.parts = [torch.stack(part).to(self.device) for part in zip(*rows, strict=True)]
        self.set_epoch(0)

    def __len__(self) -> int:
        """Return the number of batches, the same in each epoch."""
        return len(self.parts[0]) // self.batch_size

    set_epoch, state_dict, load_state_dict = Batches.set_epoch, Batches.state_dict, Batches.load_state_dict

    def _order(self) -> dict[str, int]:
        names = ("seed", "length", "batch_size", "answers_only")
        return {name: getattr(self, name) for name in names} | {
            "examples": len(self.examples),
            "rows": len(self.parts[0]),
        }

    def _rows(self) -> Iterator[list[Example]]:
        row, used = [], 0
        for index in torch.randperm(len(self.examples), generator=seeded(self.seed)).tolist():
            prompt, reply = self.examples[index]
            size = len(prompt) + len(reply) - 1
            if used + size > self.length:
                yield row
                row, used = [], 0
            row.append((prompt, reply))
            used += size
        if row:
            yield row

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        epoch, first = self.epoch, self.first_batch
        self.first_batch = 0  # only one iteration goes on from a place
        order = torch.randperm(len(self.parts[0]), generator=seeded(self.seed, 1 + epoch)).to(self.device)
        for index in range(first, len(self)):
            chosen = order[index * self.batch_size :][: self.batch_size]
            self.epoch, self.position = epoch, index + 1  # another iteration may have changed them
            yield tuple(part[chosen] for part in self.parts)
        self.set_epoch(epoch + 1)


def _row(examples: list[Example], length: int, answers_only: bool) -> tuple[Tensor, Tensor, Tensor]:
    inputs, targets, documents = [], [], []
    for number, (prompt, reply) in enumerate(examples):
        ids = [*prompt, *reply]
        inputs += ids[:-1]
        targets += [*([IGNORED] * (len(prompt) - 1) if answers_only else prompt[1:]), *reply]
        documents += [number] * (len(ids) - 1)
    missing = length - len(inputs)
    filled = inputs + [0] * missing, targets + [IGNORED] * missing, documents + [len(examples)] * missing
    return tuple(torch.tensor(part) for part in filled)
