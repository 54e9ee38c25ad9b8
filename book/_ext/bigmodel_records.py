"""The results page, made from the recorded runs in `book/records/*.json`."""

import math
import re
from html import escape
from pathlib import Path
from typing import Any

from bigmodel_text import as_recorded, day, duration, percent, plain, read_record, table
from sphinx.errors import ExtensionError

Record = dict[str, Any]

REQUIRED = """name title chapter command profile device torch python date data seed parameters epochs
batch_size train_seconds test_accuracy test_interval test_images history"""
TICK_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1200, 3600, 7200, 18000, 36000, 86400)


def load_records(folder: Path) -> list[Record]:
    """Read all recorded runs, fastest first; a missing key or an impossible accuracy is an error."""
    records = []
    for path in sorted(folder.glob("*.json")):
        record = read_record(path, REQUIRED.split(), "add it or record again")
        if not re.match(r"\d+", str(record["chapter"])):
            raise ExtensionError(f"{path.name}: chapter {record['chapter']!r} is no number: write one")
        for entry in record["history"]:
            if not {"epoch", "seconds", "train_loss"} <= entry.keys():
                raise ExtensionError(
                    f"{path.name}: an epoch lacks its number, seconds or train_loss: record again"
                )
        low, high = record["test_interval"]
        if not 0 <= low <= record["test_accuracy"] <= high <= 1:
            raise ExtensionError(f"{path.name}: test_accuracy must lie in test_interval, both in 0..1")
        records.append(record)
    return sorted(records, key=lambda record: record["train_seconds"])


def accuracy(record: Record) -> str:
    """Write a record's test accuracy with its interval."""
    low, high = record["test_interval"]
    return f"{percent(record['test_accuracy'])} ({100 * low:.1f}–{100 * high:.1f})"


def curve(record: Record) -> list[tuple[float, float]]:
    """Return (seconds, test accuracy) of each epoch that was tested; time zero has no place on a log axis."""
    points = [(entry["seconds"], entry.get("test_accuracy")) for entry in record["history"]]
    return [(seconds, value) for seconds, value in points if seconds > 0 and value is not None]


def curve_svg(records: list[Record]) -> str:
    """Draw test accuracy over training time (log scale), one line per record; `book.css` colors them."""
    width, height, left, top = 520, 260, 52, 10
    points = [point for record in records for point in curve(record)]
    first, last = min(p[0] for p in points) / 1.15, max(p[0] for p in points) * 1.15
    bottom = math.floor(min(p[1] for p in points) * 10) / 10

    def x(seconds: float) -> float:
        return left + (width - left - 12) * math.log(seconds / first) / math.log(last / first)

    def y(value: float) -> float:
        return top + (height - top) * (1 - (value - bottom) / (1 - bottom))

    parts = []
    for tenth in range(round(bottom * 10), 11):
        at = y(tenth / 10)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 12}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{10 * tenth} %</text>')
    free = left
    for tick in (tick for tick in TICK_SECONDS if first <= tick <= last):
        at = x(tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{height}"/>')
        if at >= free:
            parts.append(f'<text x="{at:.1f}" y="{height + 18}" text-anchor="middle">{duration(tick)}</text>')
            free = at + 55
    middle = (left + width) / 2
    parts.append(f'<text x="{middle}" y="{height + 38}" text-anchor="middle">training time</text>')
    for number, record in enumerate(records):
        path = " ".join(f"{x(seconds):.1f},{y(value):.1f}" for seconds, value in curve(record))
        row = height + 66 + 22 * number
        parts.append(f'<g class="series{number % 6}"><polyline points="{path}"/>')
        parts += [f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="3"/>' for s, v in curve(record)]
        parts.append(f'<polyline points="{left},{row - 4} {left + 26},{row - 4}"/></g>')
        label = escape(f"{record['title']}, {record['device']}")
        parts.append(f'<text x="{left + 34}" y="{row}">{label}</text>')
    return f'<svg viewBox="0 0 {width} {height + 60 + 22 * len(records)}">{"".join(parts)}</svg>'


def curve_alt(records: list[Record]) -> str:
    """Say in words what `curve_svg` shows."""
    ends = [
        f"{run['title']} reaches {percent(run['test_accuracy'])} after {duration(run['train_seconds'])}"
        for run in records
    ]
    return f"Test accuracy over training time, logarithmic time axis: {'; '.join(ends)}."


def record_markdown(record: Record) -> str:
    """Return the section of one recorded run: its facts, its caveat, its epochs."""
    facts = {
        "Test accuracy": f"{accuracy(record)} on {record['test_images']:,} images, 95 % interval in brackets",
        "With a mirrored view": percent(record["test_mirror"]) if "test_mirror" in record else None,
        "Training time": duration(record["train_seconds"]),
        "CPU time": duration(record["train_cpu_seconds"]) if "train_cpu_seconds" in record else None,
        "Device": plain(record["device"]),
        "Data": plain(record["data"]),
        "Model": f"{record['parameters']:,} parameters",
        "Schedule": f"{record['epochs']} epochs, batch size {record['batch_size']}, seed {record['seed']}",
        "Profile": f"`{record['profile']}`",
        "Versions": f"torch {record['torch']}, Python {record['python']}",
        "Date (UTC)": record["date"],
        "Command": as_recorded(record["command"], f"`{record['command']}`"),
    }
    history = [
        [e["epoch"], duration(e["seconds"]), f"{e['train_loss']:.3f}", percent(a) if a is not None else "–"]
        for e in record["history"]
        for a in [e.get("test_accuracy")]
    ]
    note = f"{record['note']}\n\n" if record.get("note") else ""
    epochs = table(["Epoch", "Time", "Training loss", "Test accuracy"], history)
    return (
        f"### {plain(record['title'])}\n\n{note}"
        f"{table(['Fact', 'Value'], [(k, v) for k, v in facts.items() if v is not None])}\n\n"
        f":::{{dropdown}} All epochs\n{epochs}\n:::\n"
    )


def chapter_number(record: Record) -> int:
    """Return the chapter a record belongs to; ``4``, ``"04"``, ``"04_cifar_training"`` all mean 4."""
    return int(re.match(r"\d+", str(record["chapter"]))[0])


def results_markdown(records: list[Record], notebooks: list[str]) -> str:
    """Return the whole results page below its introduction: per chapter a table, the curves, and each run."""
    if not records:
        return "No run is recorded yet.\n"
    parts = []
    for number in sorted({chapter_number(record) for record in records}):
        runs = [record for record in records if chapter_number(record) == number]
        links = [f"{{doc}}`/{name}`" for name in notebooks if name.startswith(f"notebooks/{number:02d}_")]
        rows = [
            [plain(r["title"]), plain(r["device"]), duration(r["train_seconds"]), accuracy(r), day(r["date"])]
            for r in runs
        ]
        header = ["Run", "Device", "Training time", "Test accuracy (95 % interval)", "Date"]
        parts += [f"## Chapter {number}", f"Runs of {links[0]}." if links else "", table(header, rows)]
        parts += [f"```{{bigmodel-curves}} {number}\n```"] if any(curve(run) for run in runs) else []
        parts += [record_markdown(run) for run in runs]
    return "\n\n".join(parts) + "\n"
