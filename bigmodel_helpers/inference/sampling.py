"""Text from a `Transformer`, token by token. Introduced in chapter 10."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bigmodel_helpers.models.transformer import Cache, Transformer


def sample(
    scores: Tensor, *, temperature: float = 1.0, top_p: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Choose a token from the scores of each row.

    Args:
        scores: (batch, vocabulary), as the network returns them.
        temperature: divides the scores; 0 takes the highest score.
        top_p: keeps the fewest tokens that have this probability together (nucleus sampling, Holtzman et al. 2020).
        generator: of the random numbers, on the device of `scores`; by default the global one.

    Returns:
        (batch,) int64.

    Raises:
        ValueError: `temperature` is negative, `top_p` is not in (0, 1], or a row of scores is not finite.

    >>> inference.sample(torch.tensor([[0.0, 2.0, 1.0]]), temperature=0)
    tensor([1])
    """
    if not temperature >= 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature is {temperature}, top_p is {top_p}: take at least 0, and more than 0 up to 1"
        )
    scores = scores.float()
    highest = scores.amax(dim=-1, keepdim=True)
    if not highest.isfinite().all():
        raise ValueError("a row of scores is not finite: look for the first NaN in the network")
    if temperature == 0:
        return scores.argmax(dim=-1)
    chances = ((scores - highest) / temperature).softmax(dim=-1)
    if top_p < 1:
        ordered, order = chances.sort(descending=True, stable=True)
        ordered[ordered.cumsum(dim=-1) - ordered >= top_p] = 0
        chances = torch.zeros_like(chances).scatter(-1, order, ordered)
    return torch.multinomial(chances, 1, generator=generator).squeeze(-1)


@torch.inference_mode()
def generate(
    model: Transformer,
    tokens: Tensor,
    *,
    most: int,
    stop: int | None = None,
    real: Tensor | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Yield the tokens that go on from each row, one for each row at a time, as soon as they are known.

    Args:
        model: scores the tokens.
        tokens: (batch, tokens) int64, shorter rows padded on the left.
        most: how many tokens per row.
        stop: the token that ends a row; a row that has ended yields it again until all have ended.
        real: (batch, tokens) bool, False at padding; None where there is none.
        temperature, top_p, generator: as in `sample`; the default takes the highest score each time.

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
        chosen = sample(scores, temperature=temperature, top_p=top_p, generator=generator)
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
