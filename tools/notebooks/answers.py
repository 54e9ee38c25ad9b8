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

_answers = {answers!r}
_launch, _together = globals().get("launch"), {{}}
{together}
try:
    for _index, (_code, _hint) in enumerate(_answers):
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
finally:
    if _launch:
        launch = _launch
"""
# Starting processes takes longer than what an exercise does in them. So each check is called twice: first to note
# what it would launch, and all answers run in one launch; then it gets what its answer returned there. An answer
# that raises an error is launched alone, and so are all where one of them keeps the others from ending.
TOGETHER = """
class _Noted(BaseException):
    pass

def _note(fn, *args, processes=2, **_options):
    import cloudpickle
    _asked.setdefault(processes, {{}})[_index] = cloudpickle.dumps((fn, args))
    raise _Noted

def _run_all(asked):
    import cloudpickle, contextlib, pickle
    values = {{}}
    for index, one in asked.items():
        fn, args = pickle.loads(one)
        with contextlib.suppress(Exception):
            values[index] = cloudpickle.dumps(fn(*args))
    return values

def _replay(*args, **options):
    import pickle
    ranks = _together.pop(_index, None)  # a second launch of the same check is a real one
    return list(map(pickle.loads, ranks)) if ranks else _launch(*args, **options)

if _launch:
    launch, _asked = _note, {{}}
    for _index, (_code, _) in enumerate(_answers):
        exec(_code)
        try:
            check_{name}()
        except (_Noted, AssertionError):
            pass
    for _processes, _these in _asked.items():
        try:
            _ranks = _launch(_run_all, _these, processes=_processes, timeout=60)
        except RuntimeError:
            continue
        for _index in _these:
            if all(_index in _rank for _rank in _ranks):
                _together[_index] = [_rank[_index] for _rank in _ranks]
    launch = _replay
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
    return TRY_THEM.format(name=name, answers=answers, together=TOGETHER.format(name=name))
