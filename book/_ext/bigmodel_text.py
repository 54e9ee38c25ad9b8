"""Small pieces of Markdown: times, percentages, dates, tables; and the records that they are made of."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sphinx.errors import ExtensionError

NBSP = "\u00a0"  # keeps a number and its unit on one line
NAMES_NOW = {  # a record keeps the command as it was given; these names in one have changed since
    "tools/train_cifar.py": "python -m tools.records.train_cifar",
    "tools/train_resnet.py": "python -m tools.records.train_resnet",
    "tools/scaling.py": "python -m tools.records.scaling",
    "bigmodel_helpers.recipes.": "bigmodel_helpers.training.recipes",
}


def read_record(path: Path, keys: Iterable[str], cure: str) -> dict[str, Any]:
    """Return the JSON object in file `path`; one that cannot be read or lacks one of `keys` is an error."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExtensionError(f"{path.name}: not JSON ({error}): {cure}") from None
    if not isinstance(record, dict):
        raise ExtensionError(f"{path.name}: not a JSON object: {cure}")
    if missing := [key for key in keys if key not in record]:
        raise ExtensionError(f"{path.name} lacks {', '.join(missing)}: {cure}")
    return record


def duration(seconds: float) -> str:
    """Write a time in seconds as people say it, such as ``9.4 s``, ``4 min 05 s``, ``2 h 10 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        text = f"{hours} h {minutes:02d} min"
    elif minutes:
        text = f"{minutes} min {rest:02d} s"
    else:
        text = f"{seconds:.1f} s"
    return text.replace(".0 s", " s").replace(" 00 min", "").replace(" 00 s", "").replace(" ", NBSP)


def percent(fraction: float) -> str:
    """Write a fraction as a percentage with two decimals."""
    return f"{100 * fraction:.2f}{NBSP}%"


def day(date: str) -> str:
    """Write a date such that it is not broken at its hyphens."""
    return date.replace("-", "\u2011")


def plain(text: str) -> str:
    """Escape what Markdown would read as an HTML tag."""
    return text.replace("<", "&lt;")


def as_recorded(command: str, text: str) -> str:
    """Return `text`, which shows `command` of a record, and behind it today's names of what has moved since."""
    now = [f"`{new}`" for old, new in NAMES_NOW.items() if old in command]
    return f"{text} (as recorded; today {' and '.join(now)})" if now else text


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table; a bar inside a cell is escaped."""
    lines = [list(header)]
    lines += [["---"] * len(lines[0])]
    lines += [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
