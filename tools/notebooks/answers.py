"""Answers to the exercises, right ones and wrong ones: the check of the notebooks tries each in its chapter.

They lie in ``tests/answers/NN_topic.toml``, for the tests and not for readers: under the name of a check,
without ``check_``, a list of tables, each with `right` (code) or with `wrong` (code) and `hint` (a pattern that
the check's line must contain).
"""

import tomllib

from tools.notebooks import notebook

FOLDER = notebook.ROOT / "tests" / "answers"
TRY_THEM = """\
import re as _re

for _code, _hint in {answers!r}:
    exec(_code)
    _told = "correct"
    try:
        check_{name}()
    except AssertionError as _error:
        _told = str(_error)
    if _hint is None and _told != "correct":
        raise AssertionError("check_{name} refuses a right answer (" + _told + "): " + _code)
    if _hint is not None and not _re.search(_hint, _told):
        raise AssertionError("check_{name} says '" + _told + "', not '" + _hint + "', of: " + _code)
"""


def read(stem: str) -> dict[str, list[tuple[str, str | None]]]:
    """Return the answers of a chapter by the name of the exercise: code, and the hint that a wrong one must get.

    Raises:
        ValueError: a table is neither a right answer nor a wrong one with its hint.
    """
    path = FOLDER / f"{stem}.toml"
    if not path.exists():
        return {}
    found: dict[str, list[tuple[str, str | None]]] = {}
    for name, tables in tomllib.loads(path.read_text(encoding="utf-8")).items():
        for table in tables:
            if set(table) not in ({"right"}, {"wrong", "hint"}):
                raise ValueError(
                    f"{path.name}: {name} has a table of {sorted(table)}: right, or wrong and hint"
                )
            code = table.get("right") or table["wrong"]
            found.setdefault(name, []).append((code, table.get("hint")))
    return found


def trying(name: str, answers: list[tuple[str, str | None]]) -> str:
    """Return the code that tries answers in the kernel of the chapter."""
    return TRY_THEM.format(name=name, answers=answers)
