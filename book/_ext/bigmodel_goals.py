"""The table of floors and goals, made from what `make bench` last recorded in `book/goals.json`."""

from pathlib import Path
from typing import Any

from bigmodel_text import day, plain, read_record, table
from sphinx.errors import ExtensionError

HEADER = ("What", "Measured: median (range)", "Repeats", "Floor", "Goal", "Reached")
KEYS = ["what", "unit", "median", "low", "high", "runs", "floor", "goal", "less_is_better", "date"]


def goal_row(figure: dict[str, Any]) -> list[str]:
    """Return one row of the table; what is reached follows from the numbers.

    A goal that the median reaches and an end of the range does not is reached "by the median".
    """
    missing = [key for key in KEYS if key not in figure]
    if missing:
        raise ExtensionError(f"book/goals.json: a figure lacks {', '.join(missing)}: run make bench again")
    sign = -1 if figure["less_is_better"] else 1
    reached = [name for name in ("goal", "floor") if sign * figure["median"] >= sign * figure[name]]
    worst = figure["high" if figure["less_is_better"] else "low"]
    if reached and sign * worst < sign * figure[reached[0]]:
        reached[0] += ", by the median"
    bound = "at most" if figure["less_is_better"] else "at least"
    measured = f"{figure['median']:.4g} {figure['unit']} ({figure['low']:.4g}–{figure['high']:.4g})"
    bounds = [f"{bound} {figure[name]:g} {figure['unit']}" for name in ("floor", "goal")]
    return [figure["what"], measured, str(figure["runs"]), *bounds, reached[0] if reached else "not reached"]


def goals_markdown(path: Path) -> str:
    """Return the table with a line on what it was measured with; a sentence where nothing is recorded."""
    if not path.exists():
        return "No benchmark is recorded yet.\n"
    record = read_record(path, ["figures", "device", "torch", "data"], "run make bench again")
    rows = [goal_row(figure) for figure in record["figures"]]
    dates = sorted(figure["date"] for figure in record["figures"])
    days = " to ".join(map(day, dict.fromkeys((dates[0], dates[-1]))))
    made_with = f"{plain(record['device'])}, torch {record['torch']}, {days}; {record['data']}"
    return f"{table(HEADER, rows)}\n\nMeasured with {made_with}.\n"
