"""From the scores of a CTC network to text, by the best path or by many. Introduced in chapter 16."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable

import torch
from torch import Tensor

NEVER = float("-inf")


def ctc_greedy(scores: Tensor, letters: str) -> str:
    """Return the text of the likeliest path: repeated letters merged, then blanks left out (Graves et al. 2006).

    Introduced in chapter 16.

    Args:
        scores: (steps, 1 + letters), logits or log-probabilities; number 0 is the blank.
        letters: what number 1, 2, ... stand for.

    Raises:
        ValueError: there are not as many scores in a step as letters and the blank, or they are not finite.

    >>> inference.ctc_greedy(torch.eye(3)[[1, 1, 0, 1, 2, 2]], "ab")
    'aab'
    """
    _check(scores, letters)
    path = torch.unique_consecutive(scores.argmax(1)).tolist()
    return "".join(letters[number - 1] for number in path if number)


def ctc_beam(scores: Tensor, letters: str, *, width: int = 16, words: Iterable[str] | None = None) -> str:
    """Return a likely text, adding up all paths that spell it (prefix beam search, Hannun et al. 2014).

    Introduced in chapter 16.

    Args:
        scores: (steps, 1 + letters), logits or log-probabilities; number 0 is the blank.
        letters: what number 1, 2, ... stand for.
        width: how many beginnings are kept from one step to the next.
        words: only texts of these words, with single spaces between them, are allowed; None for any text.

    Raises:
        ValueError: the shape is another, scores are not finite, `width` is below 1, or a word cannot be spelled with
            `letters`.

    >>> inference.ctc_beam(torch.eye(3)[[1, 1, 0, 1, 2, 2]].mul(9), "ab", words=["ab", "aab"])
    'aab'
    """
    _check(scores, letters)
    if width < 1:
        raise ValueError(f"a width of {width}: take 1 or more")
    if isinstance(words, str):
        raise ValueError(f"words {words!r:.99}: pass a list of words")
    words = None if words is None else frozenset(words)
    for word in words or ():
        if not word or " " in word or set(word) - set(letters):
            raise ValueError(f"the word {word!r} cannot be spelled with {letters!r}")
    beginnings = None if words is None else {word[:end] for word in words for end in range(len(word) + 1)}
    beams: dict[str, tuple[float, float]] = {
        "": (0.0, NEVER)
    }  # paths that end in a blank, and in the last letter
    for step in scores.log_softmax(1).tolist():
        added: dict[str, list[float]] = defaultdict(lambda: [NEVER, NEVER])
        for text, (blank, letter) in beams.items():
            both = _add(blank, letter)
            same = added[text]
            same[0] = _add(same[0], both + step[0])
            if text:
                same[1] = _add(same[1], letter + step[1 + letters.index(text[-1])])
            for number, sign in enumerate(letters, 1):
                if beginnings is not None and not _allowed(text, sign, beginnings, words):
                    continue
                longer = added[text + sign]
                before = blank if text[-1:] == sign else both
                longer[1] = _add(longer[1], before + step[number])
        best = sorted(added.items(), key=lambda pair: -_add(*pair[1]))[:width]
        beams = {text: (blank, letter) for text, (blank, letter) in best}
    whole = [text for text in beams if words is None or not text or text.split(" ")[-1] in words]
    best = max(whole or beams, key=lambda text: _add(*beams[text]))
    return best.rstrip() if whole else best.rpartition(" ")[0]  # the sound ended within a word


def _allowed(text: str, sign: str, beginnings: Collection[str], words: Collection[str] | None) -> bool:
    last = text.split(" ")[-1]
    return last in words if sign == " " else last + sign in beginnings


def _add(a: float, b: float) -> float:
    """Return the logarithm of the sum of two probabilities, given by their logarithms."""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))


def _check(scores: Tensor, letters: str) -> None:
    if scores.ndim != 2 or scores.shape[1] != len(letters) + 1:
        raise ValueError(
            f"scores of shape {tuple(scores.shape)} for {len(letters)} letters: pass (steps, {len(letters) + 1})"
        )
    if scores.isnan().any() or scores.isposinf().any():
        raise ValueError("scores that are nan or infinite: train again, the network has diverged")
