"""Text from a `Transformer`, token by token. Introduced in chapter 10."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bigmodel_helpers.models.transformer import Cache, Transformer


def chances(
    scores: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    """Return the probability with which `sample` chooses each token. Introduced in chapter 15.

    What is left out has probability 0; the rest keep their ratios. The filters work in the order of their names here,
    each on what the one before has left, as in the library transformers.

    Args:
        scores: (batch, vocabulary), as the network returns them.
        temperature: divides the scores; 0 gives the highest score all probability.
        top_k: keeps this many tokens (Fan et al. 2018, arXiv:1805.04833), of equal scores the first ones; None for
            all.
        top_p: keeps the fewest tokens that have this probability together (nucleus sampling, Holtzman et al. 2020,
            arXiv:1904.09751).
        min_p: keeps the tokens that are at least this part as likely as the likeliest (Nguyen et al. 2024,
            arXiv:2407.01082).

    Returns:
        (batch, vocabulary) fp32.

    Raises:
        ValueError: `temperature` is negative, `top_k` is no positive whole number, `top_p` is not in (0, 1], `min_p`
            is not in [0, 1], or a row of scores is not finite.

    >>> inference.chances(torch.tensor([[0.5, 0.25, 0.25]]).log(), top_p=0.75).round(decimals=2)
    tensor([[0.6700, 0.3300, 0.0000]])
    """
    scores = _checked(scores, temperature, top_k, top_p, min_p)
    if temperature == 0:
        return torch.zeros_like(scores).scatter_(-1, scores.argmax(dim=-1, keepdim=True), 1.0)
    weights = _weights(scores, temperature, top_k, top_p, min_p)
    return weights / weights.sum(dim=-1, keepdim=True)


def sample(
    scores: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose a token from the scores of each row.

    Args:
        scores: (batch, vocabulary), as the network returns them.
        temperature: divides the scores; 0 takes the highest score.
        top_k, top_p, min_p: leave out unlikely tokens, as in `chances`; by default none.
        generator: of the random numbers, on the device of `scores`; by default the global one.

    Returns:
        (batch,) int64.

    Raises:
        ValueError: as in `chances`.

    >>> inference.sample(torch.tensor([[0.0, 2.0, 1.0]]), temperature=0)
    tensor([1])
    """
    scores = _checked(scores, temperature, top_k, top_p, min_p)
    if temperature == 0:
        return scores.argmax(dim=-1)
    weights = _weights(scores, temperature, top_k, top_p, min_p)
    return torch.multinomial(weights, 1, generator=generator).squeeze(-1)


def _checked(scores: Tensor, temperature: float, top_k: int | None, top_p: float, min_p: float) -> Tensor:
    """Return the scores in fp32; settings without a meaning are an error."""
    if not temperature >= 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature is {temperature}, top_p is {top_p}: take at least 0, and more than 0 up to 1"
        )
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise ValueError(f"top_k is {top_k!r:.99}: take a whole number of at least 1, or None for all tokens")
    if not 0 <= min_p <= 1:
        raise ValueError(f"min_p is {min_p!r:.99}: take 0 up to 1")
    scores = scores.float()
    if not scores.amax(dim=-1).isfinite().all():
        raise ValueError("a row of scores is not finite: look for the first NaN in the network")
    return scores


def _weights(scores: Tensor, temperature: float, top_k: int | None, top_p: float, min_p: float) -> Tensor:
    """Return numbers to which the probabilities are proportional, 0 for tokens that are left out."""
    if top_k is not None and top_k < scores.shape[-1]:
        rest = scores.argsort(dim=-1, descending=True, stable=True)[..., top_k:]
        scores = scores.scatter(-1, rest, -torch.inf)
    weights = ((scores - scores.amax(dim=-1, keepdim=True)) / temperature).softmax(dim=-1)
    if top_p < 1:
        ordered, order = weights.sort(descending=True, stable=True)
        ordered[ordered.cumsum(dim=-1) - ordered >= top_p] = 0
        weights = torch.zeros_like(weights).scatter(-1, order, ordered)
    if min_p > 0:
        weights = weights.where(weights >= min_p * weights.amax(dim=-1, keepdim=True), 0)
    return weights


def penalize(
    scores: Tensor,
    made: Sequence[int] | Sequence[Sequence[int]],
    *,
    repetition: float = 1.0,
    presence: float = 0.0,
    frequency: float = 0.0,
    prompt: Sequence[int] | Sequence[Sequence[int]] = (),
) -> Tensor:
    """Return scores that are lower for tokens which the text has already. Introduced in chapter 15.

    Args:
        scores: (vocabulary,) with the ids of one text, or (batch, vocabulary) with those of one text per row.
        made: tokens of the answer so far.
        repetition: divides positive scores of tokens in prompt or answer (Keskar et al. 2019, arXiv:1909.05858), and
            multiplies negative ones, which the paper would raise; 1 changes nothing.
        presence: is subtracted once for a token that is in the answer (as OpenAI defines it).
        frequency: is subtracted for each time that a token is in the answer (as OpenAI defines it).
        prompt: tokens before the answer.

    Returns:
        of the shape and dtype of `scores`.

    Raises:
        ValueError: `repetition` is not positive, a number is not finite, a token is none of the vocabulary, or the
            texts are not as many as the rows.

    >>> inference.penalize(torch.tensor([2.0, 2.0, -2.0]), [0, 2, 2], repetition=2.0, frequency=0.5)
    tensor([ 0.5000,  2.0000, -5.0000])
    """
    if not repetition > 0 or not all(map(math.isfinite, (repetition, presence, frequency))):
        raise ValueError(
            f"repetition is {repetition}, presence is {presence}, frequency is {frequency}: take finite numbers, "
            "the first more than 0"
        )
    if scores.ndim == 2:
        before = prompt if len(prompt) else [()] * len(scores)
        if not len(made) == len(before) == len(scores):
            raise ValueError(
                f"{len(scores)} rows of scores, {len(made)} answers, {len(before)} prompts: pass one per row"
            )
        options = {"repetition": repetition, "presence": presence, "frequency": frequency}
        rows = (penalize(scores[row], made[row], prompt=before[row], **options) for row in range(len(scores)))
        return torch.stack([*rows]) if len(scores) else scores
    counts = _counts(made, scores)
    seen = (counts > 0) | (_counts(prompt, scores) > 0)
    divided = torch.where(scores > 0, scores / repetition, scores * repetition)
    return torch.where(seen, divided, scores) - presence * (counts > 0).to(counts) - frequency * counts


def _counts(ids: Sequence[int], scores: Tensor) -> Tensor:
    """Return how often each token is in a text, in the dtype and on the device of the scores."""
    found, size = torch.tensor([*ids], dtype=torch.int64), len(scores)
    strange = found[(found < 0) | (found >= size)]
    if len(strange):
        raise ValueError(f"token {strange[0]} is none of {size}: take the tokenizer of the network")
    return found.bincount(minlength=size).to(scores)


@torch.inference_mode()
def generate(
    model: Transformer,
    tokens: Tensor,
    *,
    most: int,
    stop: int | None = None,
    real: Tensor | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Yield the tokens that go on from each row, one for each row at a time, as soon as they are known.

    Args:
        model: scores the tokens.
        tokens: (batch, tokens) int64, shorter rows padded on the left.
        most: how many tokens per row.
        stop: the token that ends a row; a row that has ended yields it again until all have ended.
        real: (batch, tokens) bool, False at padding; None where there is none.
        temperature, top_k, top_p, min_p, generator: as in `sample`; the default takes the highest score each time.

    Yields:
        (batch,) int64 per step.

    Raises:
        ValueError: there is no token to go on from, one that the network does not know, a row ends with padding, or
            the positions of the network are used up; what has been yielded until then is right.

    >>> network = models.Transformer(models.TransformerConfig(1, 8, 16, 2, 1, vocabulary=10))
    >>> len([*inference.generate(network, torch.tensor([[3, 1, 4]]), most=5)])
    5
    """
    _check(model.config.vocabulary, tokens, most, stop)
    if real is not None and real.shape == tokens.shape and not real[:, -1].all():
        raise ValueError("a row ends with padding: pad on the left, so that all rows go on from their end")
    cache = Cache(model.config.layers)
    ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    for _ in range(most):
        scores = model(tokens, real=real, cache=cache)[:, -1]
        chosen = sample(
            scores, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, generator=generator
        )
        if stop is not None:
            chosen = torch.where(ended, stop, chosen)
            ended = chosen == stop
        yield chosen
        if stop is not None and ended.all():
            return
        tokens = chosen[:, None]
        if real is not None:
            real = torch.cat([real, torch.ones_like(real[:, :1])], dim=1)


def _check(vocabulary: int, tokens: Tensor, most: int, stop: int | None) -> None:
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64:
        kind = getattr(tokens, "dtype", type(tokens).__name__)
        raise ValueError(f"tokens are {kind}: pass a tensor of torch.int64, (batch, tokens)")
    if tokens.ndim != 2 or not tokens.shape[1]:
        raise ValueError(
            f"tokens of shape {tuple(tokens.shape)}: pass (batch, tokens) with one token at least"
        )
    strange = tokens[(tokens < 0) | (tokens >= vocabulary)]
    if len(strange):
        raise ValueError(f"token {strange[0]} is none of {vocabulary}: take the tokenizer of the network")
    if type(most) is not int or most < 0:
        raise ValueError(f"most is {most!r:.99}: pass how many tokens, at least 0")
    if stop is not None and (type(stop) is not int or not 0 <= stop < vocabulary):
        raise ValueError(f"stop is {stop!r:.99}: pass one token, at least 0 and less than {vocabulary}")
