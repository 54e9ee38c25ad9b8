"""How well a language model predicts and answers. Introduced in chapter 9."""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bigmodel_helpers.evaluation._mode import evaluating
from bigmodel_helpers.evaluation.comparison import Estimate, bootstrap

IGNORED = -100  # a target of this value is left out, as in PyTorch's own loss


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


def document_losses(
    model: nn.Module,
    documents: Iterable[Tensor],
    length: int,
    *,
    stride: int | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 16,
) -> Tensor:
    """Return how well a language model predicts each document, for `bits_per_byte` and `perplexity`.

    A document of more than `length` + 1 tokens is read in windows, each `stride` tokens after the one before. What
    two windows share is only context to the later one, so that each token counts once; a small stride gives more
    context and costs more time. The model is in evaluation mode meanwhile. Introduced in chapter 11.

    Args:
        model: maps tokens (B, T) to scores of the next token (B, T, V); no token sees a later one.
        documents: int64 (tokens,) each; the first token, which separates documents, is only context.
        length: most tokens that the model reads at once.
        stride: 1 to `length`; None for half of it.
        dtype: format of mixed precision (autocast); None computes in the format of the model.
        batch_size: windows at once; less for a large vocabulary, whose scores take most of the memory.

    Returns:
        float64 (D,) on the CPU, the sum of the cross-entropies of all tokens of each document, in nats.

    Raises:
        ValueError: a number is out of range, a document has fewer than 2 tokens or is no such tensor, the model has
            no parameters or returns no scores.

    >>> texts = [torch.tensor([0, 72, 105]), torch.tensor([0, 33])]
    >>> evaluation.document_losses(models.ByteLM(width=32, layers=1), texts, length=64).shape
    torch.Size([2])
    """
    documents = [*documents]
    _check_documents(documents)
    stride = _check_windows(length, stride, batch_size)
    shared = length - stride
    windows = [
        (index, start, document[start : start + length + 1])
        for index, document in enumerate(documents)
        for start in range(0, max(1, len(document) - 1 - shared), stride)
    ]
    windows.sort(key=lambda window: -len(window[2]))  # alike ones need little padding
    losses = torch.zeros(len(documents), dtype=torch.float64)
    with evaluating(model, dtype) as device:
        for first in range(0, len(windows), batch_size):
            indices, starts, pieces = zip(*windows[first : first + batch_size], strict=True)
            inputs = pad_sequence([piece[:-1] for piece in pieces], batch_first=True)
            targets = pad_sequence([piece[1:] for piece in pieces], batch_first=True, padding_value=IGNORED)
            targets[torch.tensor(starts) > 0, :shared] = IGNORED
            found = _token_losses(model, inputs.to(device), targets.to(device))
            losses.index_add_(0, torch.tensor(indices), found.cpu().double().sum(1))
    return losses


def pass_at_k(right: Tensor, k: int) -> Tensor:
    """Return the chance that at least one of `k` answers to an item is right (Chen et al. 2021, arXiv:2107.03374).

    The unbiased estimator: of the n answers that were drawn, c are right, and 1 - C(n - c, k) / C(n, k) of all sets
    of k hold one of those. Introduced in chapter 13.

    Args:
        right: bool (N, n), whether answer number j to item i is right.
        k: 1 to n.

    Returns:
        float64 (N,), one number for each item.

    Raises:
        ValueError: `right` is not bool (N, n), or `k` is out of range.

    >>> evaluation.pass_at_k(torch.tensor([[True, False, False, False]]), 2)
    tensor([0.5000], dtype=torch.float64)
    """
    if right.ndim != 2 or right.dtype != torch.bool:
        raise ValueError(f"right is {right.dtype} {tuple(right.shape)}: pass torch.bool of (items, answers)")
    right, drawn = right.cpu(), right.shape[1]  # not every accelerator has float64
    if type(k) is not int or not 1 <= k <= drawn:
        raise ValueError(f"k is {k!r:.99}: take a whole number from 1 to the {drawn} answers")
    wrong = drawn - right.sum(1).double()
    places = torch.arange(k, dtype=torch.float64)
    return 1 - ((wrong[:, None] - places).clamp(min=0) / (drawn - places)).prod(1)


def _token_losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    scores = model(inputs)
    if not isinstance(scores, Tensor) or scores.ndim != 3 or scores.shape[:2] != inputs.shape:
        wanted = f"({inputs.shape[0]}, {inputs.shape[1]}, V)"
        raise ValueError(f"the model returned {_kind(scores)}: pass one that returns the scores {wanted}")
    scores = scores.flatten(0, 1)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    losses = F.cross_entropy(scores, targets.flatten(), reduction="none", ignore_index=IGNORED)
    return losses.view_as(targets)


def _check_windows(length: Any, stride: Any, batch_size: Any) -> int:
    """Return the stride; numbers that are out of range are errors."""
    for name, number in (("length", length), ("batch_size", batch_size)):
        if type(number) is not int or number < 1:
            raise ValueError(f"{name} is {number!r:.99}: take a whole number of at least 1")
    if stride is None:
        return max(1, length // 2)
    if type(stride) is not int or not 1 <= stride <= length:
        raise ValueError(f"stride is {stride!r:.99}: take a whole number from 1 to the length, {length}")
    return stride


def _check_documents(documents: list[Any]) -> None:
    if not documents:
        raise ValueError("no document: pass at least one")
    for index, document in enumerate(documents):
        if not isinstance(document, Tensor) or document.dtype != torch.int64 or document.ndim != 1:
            raise ValueError(f"document {index} is {_kind(document)}: pass torch.int64 of (tokens,)")
        if len(document) < 2:
            raise ValueError(
                f"document {index} has {len(document)} of 2 tokens: the first is context, so pass one more at least"
            )
        if document.min() < 0:
            raise ValueError(
                f"document {index} has the token {document.min()}: take the tokenizer of the network"
            )


def _kind(thing: Any) -> str:
    if isinstance(thing, Tensor):
        return f"{thing.dtype} of shape {tuple(thing.shape)}"
    return f"a {type(thing).__name__}"
