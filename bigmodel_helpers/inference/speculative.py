"""Several tokens per pass of a network: a drafter proposes, the network keeps or corrects. Introduced in chapter 15.

What comes out is distributed as if the network had chosen each token alone (speculative decoding, Leviathan et al.
2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from bigmodel_helpers.inference.packed import Decoder
from bigmodel_helpers.inference.sampling import chances

_Distribution: TypeAlias = Callable[[Tensor], Tensor]
_Generator: TypeAlias = torch.Generator | None


def verify(
    drafts: Sequence[int], q: Tensor, p: Tensor, generator: torch.Generator | None = None
) -> list[int]:
    """Return the drafts that are kept and one token more, together distributed as `p` says.

    Draft i is kept with the probability min(1, p / q) of its token. The first one that is not kept is replaced by a
    token drawn from the residual max(0, p - q); if all are kept, one more is drawn from the last row of `p`.

    Args:
        drafts: token ids, each drawn from its row of `q`.
        q: (drafts, vocabulary), row i the probabilities that the drafter gave draft i after those before it.
        p: (drafts + 1, vocabulary), those of the network at the same places, and after all drafts.
        generator: of the random numbers, on the device of `p`; by default the global one.

    Raises:
        ValueError: the shapes do not fit, or a draft has probability 0 in its row of `q`.

    >>> p = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> inference.verify([1], p[:1], p), inference.verify([2], p[1:], p)
    ([1, 2], [1])
    """
    if len(q) != len(drafts) or len(p) != len(drafts) + 1 or (drafts and q.shape[1:] != p.shape[1:]):
        raise ValueError(
            f"{len(drafts)} drafts, q of {tuple(q.shape)}, p of {tuple(p.shape)}: "
            "pass a row of q for each draft, and one row more of p"
        )
    if drafts:
        places = range(len(drafts))
        of_q = q[places, drafts]
        if not (of_q > 0).all():
            raise ValueError("a draft has probability 0 in q: pass the probabilities it was drawn from")
        rejected = torch.rand(len(drafts), generator=generator, device=p.device) >= p[places, drafts] / of_q
        if rejected.any():
            place = int(rejected.int().argmax())
            residual = (p[place] - q[place]).clamp(min=0)
            weights = residual if residual.any() else p[place]  # p and q that differ by rounding alone
            return [*drafts[:place], _draw(weights, generator)]
    return [*drafts, _draw(p[-1], generator)]


def _draw(weights: Tensor, generator: _Generator) -> int:
    return int(torch.multinomial(weights, 1, generator=generator))


def acceptance(p: Tensor, q: Tensor) -> Tensor:
    """Return the probability that a draft is kept, 1 minus the total variation distance of `p` and `q`.

    Args:
        p: (..., vocabulary), probabilities of the network.
        q: (..., vocabulary), those of the drafter.

    Returns:
        (...), 0 to 1.

    >>> inference.acceptance(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.25, 0.5]))
    tensor(0.5000)
    """
    return torch.minimum(p, q).sum(dim=-1)


def expected_tokens(chance: float, count: int) -> float:
    """Return how many tokens a pass of the network gives on average, (1 - chance**(count + 1)) / (1 - chance).

    Args:
        chance: the probability that a draft is kept, the same for each and independent of the others.
        count: drafts per pass.

    Raises:
        ValueError: `chance` is not in 0 to 1, or `count` is no whole number of at least 0.

    >>> inference.expected_tokens(0.5, 2)
    1.75
    """
    if not 0 <= chance <= 1 or type(count) is not int or count < 0:
        raise ValueError(
            f"chance is {chance!r:.99}, count is {count!r:.99}: take 0 to 1, and 0 or more drafts"
        )
    return float(sum(chance**place for place in range(count + 1)))


class _Drafter(Protocol):
    def propose(
        self, tokens: Sequence[int], count: int, distribution: _Distribution, generator: _Generator
    ) -> tuple[list[int], Tensor]: ...


@dataclass
class Lookup:
    """Drafts what came next where the last tokens stood before: prompt lookup. Introduced in chapter 15.

    It costs nothing and helps where a text repeats itself, such as code that is edited.

    Args:
        vocabulary: how many tokens the network knows.
        longest: it looks for so many last tokens first, then for fewer.
        shortest: with fewer equal tokens it drafts nothing. Of 1 token most matches are chance.

    Raises:
        ValueError: a number is out of range.
    """

    vocabulary: int
    longest: int = 3
    shortest: int = 2

    def __post_init__(self) -> None:
        sizes = (self.vocabulary, self.longest, self.shortest)
        if not all(type(size) is int and size >= 1 for size in sizes) or self.longest < self.shortest:
            raise ValueError(f"{self}: take whole numbers of at least 1, longest not below shortest")

    def propose(
        self,
        tokens: Sequence[int],
        count: int,
        distribution: Callable[[Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[list[int], Tensor]:
        """Return at most `count` drafts after `tokens`, and a row of probabilities for each, all on the draft.

        Args:
            tokens: ids of the text so far.
            count: how many drafts.
            distribution, generator: not used, as nothing is drawn.
        """
        drafts = self._after_the_last_match([*tokens])[:count]
        q = torch.zeros(len(drafts), self.vocabulary)
        q[range(len(drafts)), drafts] = 1.0
        return drafts, q

    def _after_the_last_match(self, tokens: list[int]) -> list[int]:
        for size in range(min(self.longest, len(tokens) - 1), self.shortest - 1, -1):
            pattern = tokens[-size:]
            for start in range(len(tokens) - size - 1, -1, -1):
                if tokens[start : start + size] == pattern:
                    return tokens[start + size :]
        return []


class Draft:
    """Drafts of a smaller network with the same tokens. Introduced in chapter 15.

    Args:
        decoder: of the smaller network; nothing else may use it meanwhile.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self._read = decoder, []

    def propose(
        self,
        tokens: Sequence[int],
        count: int,
        distribution: Callable[[Tensor], Tensor],
        generator: torch.Generator | None = None,
    ) -> tuple[list[int], Tensor]:
        """Return `count` drafts after `tokens`, and the probabilities that each was drawn from.

        Args:
            tokens: ids of the text so far; what was read at the last call is not read again.
            count: how many drafts.
            distribution: makes probabilities of a row of scores, as `chances` does.
            generator: of the random numbers, on the device of the decoder.
        """
        tokens, common = [*tokens], 0
        for known, token in zip(self._read, tokens[:-1], strict=False):
            if known != token:
                break
            common += 1
        self.decoder.length, self._read, new = common, tokens[:common], tokens[common:]
        rows = [torch.zeros(0, self.decoder.packed.config.vocabulary)] if not count else []
        drafts: list[int] = []
        for _ in range(count):
            rows.append(distribution(self.decoder.read(new)))
            new = [_draw(rows[-1][0], generator)]
            drafts += new
        if drafts:
            self._read = tokens + drafts[:-1]
        return drafts, torch.cat(rows)


@dataclass
class Counts:
    """What happened in `speculate`: passes of the network, drafts, how many were kept, tokens that came of it.

    A pass gives the drafts that it keeps and one token more. Tokens after the end of a text count, too.
    """

    passes: int = 0
    drafted: int = 0
    kept: int = 0
    made: int = 0


def speculate(
    target: Decoder,
    drafter: Lookup | Draft | _Drafter,
    prompt: Sequence[int],
    *,
    most: int,
    count: int = 4,
    end: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    generator: torch.Generator | None = None,
    counts: Counts | None = None,
) -> Iterator[int]:
    """Yield the tokens that go on from a prompt, as `Decoder.generate` does, in fewer passes of the network.

    They have the distribution of the network alone. At temperature 0 they are the same tokens, except where several
    rows round to another highest score than one row: in fp32 such ties are rare, in bf16 and with rounded weights
    they are not.

    Args:
        target: of the network; its text is forgotten.
        drafter: `Lookup`, `Draft`, or what has such a method ``propose``.
        prompt: token ids.
        most: how many tokens.
        count: drafts per pass.
        end: the token after which nothing comes; None where there is none.
        temperature, top_k, top_p, min_p: as in `sample`, for the network and the drafter.
        generator: of the random numbers, on the device of `target`; by default the global one.
        counts: is added to while tokens are made.

    Raises:
        ValueError: a number is out of range, drafter and network share a decoder, or what `Decoder.read` raises.
    """
    _check(target, drafter, prompt, most, count)
    distribution = partial(chances, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    counts = Counts() if counts is None else counts
    tokens, target.length = [*prompt], 0
    while left := len(prompt) + most - len(tokens):
        room = min(count, left - 1)
        drafts, q = (some[:room] for some in drafter.propose(tokens, room, distribution, generator))
        p = distribution(target.read(tokens[target.length :] + drafts, len(drafts) + 1))
        made = verify(drafts, q.to(p), p, generator)
        tokens += made
        target.length = len(tokens) - 1
        counts.passes, counts.made = counts.passes + 1, counts.made + len(made)
        counts.drafted, counts.kept = counts.drafted + len(drafts), counts.kept + len(made) - 1
        if end in made:
            yield from made[: made.index(end) + 1]
            return
        yield from made


def _check(target: Decoder, drafter: _Drafter, prompt: Sequence[int], most: int, count: int) -> None:
    if not prompt:
        raise ValueError("the prompt is empty: pass one token at least")
    for name, value in (("most", most), ("count", count)):
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} is {value!r:.99}: take a whole number of at least 0")
    if getattr(drafter, "decoder", None) is target:
        raise ValueError("drafter and network share a decoder: make one for each of them")
