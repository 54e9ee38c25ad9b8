"""A request to `Engine`, and what the engine counts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

Choose: TypeAlias = Callable[[list[int], Tensor], int]


class Full(Exception):  # noqa: N818
    """As many requests wait as may, or as many run as may: come back later. Introduced in chapter 15."""


def _greedy(tokens: list[int], scores: Tensor) -> int:
    token = int(scores.argmax())
    if not scores[token].isfinite():
        raise ValueError("a row of scores is not finite: look for the first NaN in the network")
    return token


@dataclass(eq=False)
class Request:
    """A prompt and the answer that grows behind it. Introduced in chapter 15.

    Args:
        prompt: token ids.
        most: how many tokens the answer may have, with `end`.
        end: the token that ends the answer; None where there is none.
        choose: ``choose(tokens, scores)`` returns the next token from those so far, prompt and answer, and from the
            scores, (vocabulary,), which it may change; by default that with the highest score.

    Attributes:
        answer: token ids so far.
        state: ``"new"``, ``"waiting"``, ``"running"``, and then ``"finished"``, ``"cancelled"`` or ``"failed"``.
        error: what `choose` raised, where the request failed.
        times: when the request came and when each token of the answer was chosen, seconds of `time.perf_counter`.
        shared: tokens whose keys and values were in the cache already.
        preempted: how often it had to give its memory back, to be computed again later.
    """

    prompt: list[int]
    most: int
    end: int | None = None
    choose: Choose = field(default=_greedy, repr=False)
    answer: list[int] = field(default_factory=list, init=False)
    state: str = field(default="new", init=False)
    error: Exception | None = field(default=None, init=False)
    times: list[float] = field(default_factory=list, init=False, repr=False)
    shared: int = field(default=0, init=False)
    preempted: int = field(default=0, init=False)
    _blocks: list[int] = field(default_factory=list, init=False, repr=False)
    _names: list[bytes] = field(default_factory=list, init=False, repr=False)
    _done: int = field(default=0, init=False, repr=False)  # tokens in the cache

    @property
    def tokens(self) -> list[int]:
        """Prompt and answer."""
        return [*self.prompt, *self.answer]

    @property
    def _missing(self) -> int:
        return len(self.prompt) + len(self.answer) - self._done


@dataclass
class Statistics:
    """What an `Engine` has done. Introduced in chapter 15.

    Attributes:
        steps: passes through the network.
        computed: tokens that went through it.
        shared: tokens that did not have to, since they were in the cache: left by a request with the same beginning,
            or by the same one before it gave its memory back.
        preemptions: how often a request had to give its memory back.
    """

    steps: int = 0
    computed: int = 0
    shared: int = 0
    preemptions: int = 0
