"""How well a language model predicts, per token and per byte. Introduced in chapter 9."""

import math

from torch import Tensor

from bigmodel_helpers.evaluation.comparison import Estimate, bootstrap


def _ratio_of_sums(losses: Tensor, sizes: Tensor, draws: int, seed: int) -> Estimate:
    if losses.ndim != 1 or losses.shape != sizes.shape or not (sizes > 0).all():
        shapes = f"{tuple(losses.shape)} and {tuple(sizes.shape)}"
        raise ValueError(f"losses and sizes have shapes {shapes}: pass (D,) and (D,), sizes above 0")
    return bootstrap(lambda a, b: a.sum() / b.sum(), losses.double(), sizes.double(), draws=draws, seed=seed)


def perplexity(losses: Tensor, tokens: Tensor, *, draws: int = 1000, seed: int = 0) -> Estimate:
    """Return the perplexity of a language model, with its bootstrap interval over documents.

    Args:
        losses: (D,), the sum of the cross-entropies of all tokens of each document, in nats.
        tokens: (D,), the number of tokens of each document.
        draws: resamples of the documents (whole ones: neighboring tokens are not independent).
        seed: of the choice.

    Raises:
        ValueError: the shapes do not fit, a document has no token, or there are fewer than 2.
    """
    mean = _ratio_of_sums(losses, tokens, draws, seed)
    return Estimate(math.exp(mean.value), math.exp(mean.low), math.exp(mean.high))


def bits_per_byte(losses: Tensor, sizes: Tensor, *, draws: int = 1000, seed: int = 0) -> Estimate:
    """Return the bits that a language model needs per byte of text, with its interval over documents.

    It does not depend on what the tokens are, so it compares models with different ones.

    Args:
        losses: (D,), the sum of the cross-entropies of all tokens of each document, in nats.
        sizes: (D,), the number of bytes of each document.
        draws: resamples of the documents.
        seed: of the choice.

    Raises:
        ValueError: the shapes do not fit, a document is empty, or there are fewer than 2.
    """
    return _ratio_of_sums(losses / math.log(2), sizes, draws, seed)
