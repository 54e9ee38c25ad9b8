"""Numbers in the prose of pages that are not notebooks: bound to records and to sums, in ``book/numbers.yml``.

``python -m tools.notebooks.page_numbers`` puts them into the pages anew. The file has, for each page, what
``tools.notebooks.bindings`` has for a cell. An expression may use what ``names`` returns.
"""

import json
import math
from functools import cache
from typing import Any

import yaml

from tools.notebooks import bindings, notebook


def bound() -> dict[str, list[dict[str, Any]]]:
    """Return the bound numbers of each page."""
    return yaml.safe_load((notebook.ROOT / "book" / "numbers.yml").read_text(encoding="utf-8"))


@cache
def names() -> dict[str, Any]:
    """Return what expressions may use: `math`, medians of `goals`, the records, `stamps` of chapters."""
    book = notebook.ROOT / "book"
    goals = json.loads((book / "goals.json").read_text(encoding="utf-8"))["figures"]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (book / "records").glob("*.json")]
    return {
        "math": math,
        "goals": {figure["name"]: figure["median"] for figure in goals},
        "model": json.loads((book / "model.json").read_text(encoding="utf-8")),
        "gpu": json.loads((book / "gpu.json").read_text(encoding="utf-8")),
        "records": {record["name"]: record for record in records},
        "stamps": {
            path.stem[:2]: notebook.read(path).metadata.get("bigmodel", {}) for path in notebook.find([])
        },
    }


def anew(text: str, numbers: list[dict[str, Any]]) -> str:
    """Return `text` with its bound numbers as they are now.

    Raises:
        ValueError: an expression fails, a phrase does not stand there, or no word fits a value.
    """
    values = []
    for each in numbers:
        try:
            values.append(bindings.number(eval(each["value"], dict(names()))))
        except (NameError, KeyError, SyntaxError, TypeError, ZeroDivisionError) as error:
            raise ValueError(
                f"book/numbers.yml binds {each['phrase']!r} to {each['value']!r}: {error!r}"
            ) from None
    return bindings.rewritten(text, numbers, values)


def problems() -> list[str]:
    """Say which bound numbers of pages are not what the records say."""
    found = []
    for name, numbers in bound().items():
        text = (notebook.ROOT / name).read_text(encoding="utf-8")
        try:
            if anew(text, numbers) != text:
                found.append(f"{name} does not say what is recorded: python -m tools.notebooks.page_numbers")
        except ValueError as error:
            found.append(f"{name}: {error}")
    return found


def main() -> None:
    """Write the bound numbers into the pages."""
    for name, numbers in bound().items():
        path = notebook.ROOT / name
        path.write_text(anew(path.read_text(encoding="utf-8"), numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
