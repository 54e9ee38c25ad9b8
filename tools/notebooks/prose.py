"""What a reader reads in a markdown cell or on a page, and the numbers in it that look measured."""

import re
from pathlib import Path

EXEMPT = Path(__file__).with_name("exempt_numbers.txt")
UNIT = (
    r"(?:percent|points?|times|images?/s|img/s|images per second|ms|s|sec|seconds?|min|minutes?|h|hours?|days?|weeks?"
    r"|years?|fps|W|[kMGT]?Wh|[kKMGT]i?B|[MGT]FLOPS?)\b"
)
FIGURES = (
    r"(?<![\w.])(?!(?:19|20)\d\ds\b)\d(?:[\d,]*\d)?(?:\.\d+)?[\s\u00a0\u202f-]?"
    rf"(?:%|[×x](?![\w]|\s*\d)|(?:(?:thousand|million|billion|trillion)\s)?(?:(?:card|GPU|core)\s)?{UNIT})"
)
COUNT = (
    r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty|fifty|sixty"
    r"|seventy|eighty|ninety|hundred|thousand|million|dozen)"
)
PART = r"(?:third|quarter|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth|millionth)"
WORDS = (
    rf"\b(?:twice|thrice|half|halves|halved|halving|doubles|doubled|doubling|tripled?|triples|{COUNT}-?fold|{PART}s"
    rf"|(?:an?|one)\s{PART}(?=\s(?:of|as|the|its|less|more|for)\b|[.,;:)])|orders? of magnitude|{COUNT}[\s-]{UNIT})\b"
)
NUMBER = re.compile(rf"{FIGURES}|(?i:{WORDS})")
SOURCE_IS_NAMED = re.compile(r"\{cite|\b(?:deriv|assum)\w+|\bby definition\b|\bgoal\b", re.IGNORECASE)
END = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"')*]))\s+(?=[\"'(*\[{`]*[A-Z\d$])|\n\s*(?=(?:[-*|]|\d+\.)\s)|\n\s*\n"
)


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
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", "$", "\n".join(kept), flags=re.DOTALL)
    return re.sub(r"\]\([^)]*\)|<?https?://\S+", "]", text)


def unsourced(markdown: str) -> list[tuple[str, list[str]]]:
    """Return each sentence that holds numbers whose source it does not tell, on one line, with these numbers.

    Numbers are those with a unit (``93 %``, ``1.5 s``, ``4 times``, ``8×``) and words (``twice``, ``a quarter``,
    ``ten times``). A sentence says where they come from by a citation or by one of the words derived, assumed, by
    definition, goal.
    """
    found = []
    for sentence in END.split(sentences(markdown)):
        numbers = NUMBER.findall(re.sub(r"`[^`]*`", " ", sentence))
        if numbers and not SOURCE_IS_NAMED.search(sentence):
            found.append((" ".join(sentence.split()), numbers))
    return found


def exempt(path: Path | None = None) -> dict[str, set[str]]:
    """Return the exempt sentences in file `path` (by default of numbers), by the chapter or page."""
    found: dict[str, set[str]] = {}
    for line in (path or EXEMPT).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            where, _, sentence = line.partition(": ")
            found.setdefault(where, set()).add(sentence)
    return found


def numbers_to_bind(where: str, markdown: str) -> list[str]:
    """Say which sentences of a chapter or page hold numbers from nowhere, but for the exempt ones."""
    allowed = exempt().get(where, set())
    advice = (
        "bind it (tools/notebooks/bindings.py), show it by code (display(Markdown(f'...'))), or say in the same "
        "sentence where it comes from: {cite}, derived, assumed, by definition, goal"
    )
    return [
        f"has {', '.join(numbers)} in {sentence!r}: {advice}"
        for sentence, numbers in unsourced(markdown)
        if sentence not in allowed
    ]
