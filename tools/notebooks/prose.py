"""What a reader reads in a markdown cell, and the numbers in it that look measured."""

import re

NUMBER_WITH_UNIT = re.compile(
    r"(?<![\w.])(?!(?:19|20)\d\ds\b)\d[\d,]*(?:\.\d+)?[\s\u00a0\u202f-]?"
    r"(?:%|[×x](?![\w]|\s*\d)|(?:percent|points?|times|images?/s|img/s|images per second|ms|s|sec|seconds?"
    r"|min|minutes?|h|hours?|fps|W|[kKMGT]i?B|[MGT]FLOPS?)\b)"
)
SOURCE_IS_NAMED = re.compile(r"\{cite|\b(?:deriv|assum)\w+|\bby definition\b|\bgoal\b", re.IGNORECASE)


def sentences(markdown: str) -> str:
    """Return the sentences of a markdown cell: no code, no formulas, no directive lines, no link targets."""
    kept: list[str] = []
    fences: list[tuple[int, bool]] = []  # the open ones: number of back-ticks, holds code
    for line in markdown.splitlines():
        ticks, info = re.match(r"\s*(`{3,}|)(.*)", line).groups()
        in_code = bool(fences) and fences[-1][1]
        if ticks and fences and not info.strip() and len(ticks) >= fences[-1][0]:
            fences.pop()
        elif ticks and not in_code:
            fences.append((len(ticks), not re.match(r"\{(?!code|math)", info)))
        elif not in_code and not re.match(r"\s*(:{3,}|:[\w-]+:)", line):
            kept.append(line)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", " ", "\n".join(kept), flags=re.DOTALL)
    return re.sub(r"\]\([^)]*\)|<?https?://\S+", "]", text)


def numbers_with_unit(markdown: str) -> list[str]:
    """Return the numbers with a unit (``93 %``, ``1.5 s``, ``4 times``, ``8×``) whose source is not told.

    A paragraph says it by a citation or by one of the words derived, assumed, by definition, goal.
    """
    found = []
    for paragraph in re.split(r"\n\s*\n", sentences(markdown)):
        if not SOURCE_IS_NAMED.search(paragraph):
            found += NUMBER_WITH_UNIT.findall(re.sub(r"`[^`]*`", " ", paragraph))
    return found
