"""How much of what was said was understood: word and character error rates. Introduced in chapter 16."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bigmodel_helpers.evaluation.comparison import Estimate, bootstrap


def edit_distance(heard: Sequence[Any], said: Sequence[Any]) -> int:
    """Return the least number of insertions, deletions and substitutions that turn one sequence into the other.

    Levenshtein 1966, by the table of Wagner and Fischer 1974, one row at a time. Introduced in chapter 16.

    >>> evaluation.edit_distance("fove", "five"), evaluation.edit_distance(["one"], ["one", "two"])
    (1, 1)
    """
    row = list(range(len(said) + 1))
    for i, here in enumerate(heard, 1):
        above, row = row, [i]
        for j, there in enumerate(said, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (here != there)))
    return row[-1]


def count_errors(
    heard: Sequence[str], said: Sequence[str], unit: Literal["words", "characters"] = "words"
) -> tuple[Tensor, Tensor]:
    """Return the errors in each text, and how many words or characters were said in it.

    Introduced in chapter 16.

    Args:
        heard: what was understood, a text for each utterance.
        said: what was said.
        unit: what is counted.

    Returns:
        two tensors int64 (utterances,).

    Raises:
        ValueError: there are more texts of one kind, or none, or `unit` is another.

    >>> evaluation.count_errors(["one two"], ["one too two"])
    (tensor([1]), tensor([3]))
    """
    if len(heard) != len(said) or not said:
        raise ValueError(f"{len(heard)} texts heard, {len(said)} said: pass one of each for an utterance")
    if unit not in ("words", "characters"):
        raise ValueError(f"unit {unit!r}: take 'words' or 'characters'")
    pairs = zip(heard, said, strict=True)
    parts = [(a.split(), b.split()) if unit == "words" else (a, b) for a, b in pairs]
    return (
        torch.tensor([edit_distance(a, b) for a, b in parts]),
        torch.tensor([len(b) for _, b in parts]),
    )


def error_rate(
    heard: Sequence[str],
    said: Sequence[str],
    unit: Literal["words", "characters"] = "words",
    *,
    voices: Sequence[str] | None = None,
) -> Estimate:
    """Return the errors for each word, or character, that was said, with a bootstrap interval.

    It can be above 1: words that nobody said are errors, too. Introduced in chapter 16.

    Args:
        heard: what was understood, a text for each utterance.
        said: what was said.
        unit: what is counted.
        voices: who said it. The interval is then one over voices, at least two: utterances of one voice are
            understood well or badly together. None: over utterances.

    Raises:
        ValueError: the numbers of texts or voices differ, nothing was said, or there are fewer than two voices.

    >>> evaluation.error_rate(["one", "two"], ["one", "too"]).value
    0.5
    """
    errors, lengths = count_errors(heard, said, unit)
    if not lengths.sum():
        raise ValueError("nothing was said: an error rate needs words")
    if voices is not None:
        if len(voices) != len(said):
            raise ValueError(f"{len(voices)} voices for {len(said)} texts: pass one for each")
        names = {name: number for number, name in enumerate(dict.fromkeys(voices))}
        places = torch.tensor([names[name] for name in voices])
        errors, lengths = (
            torch.zeros(len(names), dtype=torch.int64).index_add(0, places, of) for of in (errors, lengths)
        )

    def rate(wrong: Tensor, of: Tensor) -> float:
        """Return nan for a draw in which nothing was said: `bootstrap` leaves it out."""
        return float(wrong.sum() / of.sum()) if of.sum() else float("nan")

    return bootstrap(rate, errors, lengths)
