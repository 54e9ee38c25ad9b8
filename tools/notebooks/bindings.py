"""Numbers in prose that are bound to values: how they are written, found, put in anew and compared.

The metadata of a text cell says where its numbers come from::

    "bigmodel": {"numbers": [{"phrase": "takes {} of the bits", "value": "after / before", "format": "part"}]}

`phrase` stands once in the cell, with a number in place of ``{}``. `value` is an expression over the variables that
the notebook has at this place (with ``"late": true``, at its end). `format` is one of Python's (``.1f``), or one that
writes words: ``count`` (three), ``times`` (twice, three times), ``fold`` (threefold), ``part`` (a third, two thirds).
"""

import math
import re
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
COUNTS = dict(enumerate([*SMALL.split(), "seventeen", "eighteen", "nineteen"]))
COUNTS |= {20 + 10 * i: word for i, word in enumerate(TENS.split())}
COUNTS |= {
    100: "a hundred",
    1000: "a thousand",
    10_000: "ten thousand",
    100_000: "a hundred thousand",
    10**6: "a million",
}
ORDINALS = "third quarter fifth sixth seventh eighth ninth tenth"
PARTS = {0.5: "half", 2 / 3: "two thirds", 0.75: "three quarters", 2 / 5: "two fifths", 3 / 5: "three fifths"}
PARTS |= {1 / n: f"{'an' if n == 8 else 'a'} {word}" for n, word in enumerate(ORDINALS.split(), start=3)}
PARTS |= {1 / 20: "a twentieth", 1 / 100: "a hundredth", 1 / 1000: "a thousandth"}
TIMES = {n: f"{word.removeprefix('a ') if n < 100 else word} times" for n, word in COUNTS.items()}
TIMES |= {1: "once", 2: "twice"}
FOLDS = {n: f"{word}fold" for n, word in COUNTS.items() if n < 100}
WORDS = {"count": COUNTS, "times": TIMES, "fold": FOLDS, "part": PARTS}
NEAR = 0.1  # a word may be this far from the value, as a share of it; a count is exact
FIGURES = r"[-−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?%?"


def written(value: float, form: str) -> str:
    """Return `value` as prose writes it.

    Raises:
        ValueError: no word of this form is near the value, or the form is unknown.
    """
    if form not in WORDS:
        return format(value, form)
    number, word = min(WORDS[form].items(), key=lambda pair: abs(pair[0] - value))
    if abs(number - value) > (0 if form == "count" else NEAR) * abs(value):
        raise ValueError(
            f"no word of the format {form!r} is near {value:.4g}: change it, then execute --restamp"
        )
    return word


def place(text: str, bound: dict[str, Any]) -> re.Match[str]:
    """Return the match of the phrase of a bound number in `text`; its group 1 is the number.

    Raises:
        ValueError: the phrase does not stand there, or more than once.
    """
    words = WORDS.get(bound["format"])
    number = FIGURES
    if words:
        longest_first = sorted(words.values(), key=len, reverse=True)
        number = "|".join(word.replace(" ", r"\s+") for word in longest_first)
    before, hole, after = bound["phrase"].partition("{}")
    if not hole:
        raise ValueError(f"the phrase {bound['phrase']!r} has no {{}}")
    pattern = [r"\s+".join(map(re.escape, re.split(r"\s+", part))) for part in (before, after)]
    found = list(re.finditer(rf"{pattern[0]}((?i:{number})){pattern[1]}", text))
    if len(found) != 1:
        raise ValueError(f"{bound['phrase']!r} stands {len(found)} times in the text")
    return found[0]


def of(cell: NotebookNode) -> list[dict[str, Any]]:
    """Return the bound numbers of a text cell."""
    return cell.metadata.get("bigmodel", {}).get("numbers", []) if cell.cell_type == "markdown" else []


def rewritten(text: str, bound: list[dict[str, Any]], values: list[float]) -> str:
    """Return `text` with the numbers that the values have now; a number keeps its capital letter.

    Raises:
        ValueError: a phrase does not stand there, or no word fits a value.
    """
    for each, value in zip(bound, values, strict=True):
        match = place(text, each)
        new = written(value, each["format"])
        new = new[0].upper() + new[1:] if match[1][0].isupper() else new
        if " ".join(match[1].split()) != new:
            text = text[: match.start(1)] + new + text[match.end(1) :]
    return text


def without(text: str, bound: list[dict[str, Any]]) -> str:
    """Return `text` without its bound numbers; a phrase that does not stand there is another rule's affair."""
    for each in bound:
        try:
            match = place(text, each)
        except ValueError:
            continue
        text = text[: match.start(1)] + "N" + text[match.end(1) :]
    return text


def has_bound_numbers_as_measured(path: Path, nb: NotebookNode) -> list[str]:
    """Each bound number is well formed, and is what the last run measured."""
    measured, found = nb.metadata.get("bigmodel", {}).get("numbers", {}), []
    for cell in nb.cells:
        values = measured.get(cell.id, {})
        problems = [problem for each in of(cell) for problem in malformed(cell.source, each)]
        if not problems and values.keys() != {each["value"] for each in of(cell)}:
            problems = [f"binds numbers that no run measured, or no more; cure: make execute NB={path.stem}"]
        elif not problems:
            problems = differing(cell, values, path.stem)
        found += [f"cell {cell.id} {problem}" for problem in problems]
    return found


def differing(cell: NotebookNode, values: dict[str, float], stem: str) -> list[str]:
    """Say where the text of a cell is not what its measured values make of it."""
    try:
        if rewritten(cell.source, of(cell), [values[each["value"]] for each in of(cell)]) == cell.source:
            return []
    except ValueError as error:
        return [f"binds a number that cannot be written: {error}"]
    return [
        f"does not say what the last run measured; cure: python -m tools.notebooks.execute --restamp {stem}"
    ]


def malformed_numbers(nb: NotebookNode) -> list[str]:
    """Say which numbers of `nb` are bound wrongly."""
    return [
        f"cell {cell.id} {problem}"
        for cell in nb.cells
        for each in of(cell)
        for problem in malformed(cell.source, each)
    ]


def malformed(text: str, bound: dict[str, Any]) -> list[str]:
    """Say what is wrong with how a number is bound."""
    if set(bound) - {"late"} != {"phrase", "value", "format"}:
        return [f"binds a number by {sorted(bound)}: phrase, value, format [late]"]
    try:
        place(text, bound)
        compile(bound["value"], "value", "eval")
    except (ValueError, SyntaxError) as error:
        return [f"binds a number wrongly: {error}"]
    return []


def number(value: Any) -> float:
    """Return a measured value as a number.

    Raises:
        ValueError: it is no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number that prose can hold")
    return value


def keep(nb: NotebookNode, values: dict[str, dict[str, Any]]) -> list[str]:
    """Keep the measured values in the stamp of `nb`; return what is no number."""
    kept, found = {}, []
    for cell in nb.cells:
        if bound := of(cell):
            try:
                kept[cell.id] = {each["value"]: number(values[cell.id][each["value"]]) for each in bound}
            except ValueError as error:
                found.append(f"cell {cell.id}: {error}")
    nb.metadata["bigmodel"]["numbers"] = kept
    return found


def write(nb: NotebookNode) -> list[str]:
    """Put the numbers in the stamp of `nb` into its prose; return those that cannot be written."""
    found = []
    for cell in nb.cells:
        values = nb.metadata["bigmodel"]["numbers"].get(cell.id, {})
        if values.keys() >= {each["value"] for each in of(cell)}:
            try:
                cell.source = rewritten(cell.source, of(cell), [values[each["value"]] for each in of(cell)])
            except ValueError as error:
                found.append(f"cell {cell.id}: {error}")
    return found


def expressions(cell: NotebookNode, late: bool) -> list[str]:
    """Return the expressions of a cell's bound numbers that are evaluated at its place, or at the end if `late`."""
    return [each["value"] for each in of(cell) if bool(each.get("late")) is late]
