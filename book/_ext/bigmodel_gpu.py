"""What was measured on one graphics card: two tables of the results page, made from `book/gpu.json`."""

import statistics
from pathlib import Path
from typing import Any

from bigmodel_text import NBSP, day, plain, read_record, table
from sphinx.errors import ExtensionError

Record = dict[str, Any]

REQUIRED = ("command", "device", "torch", "date", "flops_per_token", "bytes_by_formula", "steps", "images")
DENSE_BF16 = 989e12  # FLOPs a second by NVIDIA's data sheets, the same for H100 and H200 (SXM)
TOKENS = 1024  # in a row
COMPILED = {None: "no", "default": "yes", "reduce-overhead": "yes, with CUDA graphs"}
AGAIN = "run python -m tools.records.gpu again"


def load_gpu(path: Path) -> Record:
    """Read the record; a missing key, or a rate that no card has, is an error."""
    record = read_record(path, REQUIRED, AGAIN)
    for step in record["steps"]:
        if not 0 < share(record, step) < 1:
            raise ExtensionError(
                f"{path.name}: {step['compiled']}: a share of the peak outside 0..1: {AGAIN}"
            )
    return record


def share(record: Record, step: Record) -> float:
    """Return the part of the card's dense peak in bfloat16 that a training step reached, by its median."""
    flops = step["rows"] * TOKENS * record["flops_per_token"]
    return flops / statistics.median(step["seconds"]) / DENSE_BF16


def _measured_on(record: Record) -> str:
    return (
        f"{plain(record['device'])}, torch {plain(record['torch'])}, {day(record['date'])}; made by "
        f"{plain(record['command'])}."
    )


def steps_markdown(record: Record) -> str:
    """Return a row for each way to take a training step of GPT-2's shape."""
    rows = []
    for step in record["steps"]:
        times = [1e3 * seconds for seconds in step["seconds"]]
        middle = statistics.median(times)
        rows.append(
            (
                step["compiled"],
                str(step["rows"]),
                f"{middle:.1f} ({min(times):.1f} to {max(times):.1f})",
                f"{1e3 * step['rows'] * TOKENS / middle:,.0f}",
                f"{100 * share(record, step):.1f}{NBSP}%",
                f"{step['peak_bytes'] / 1e9:.1f}{NBSP}GB",
                f"{record['bytes_by_formula'][str(step['rows'])] / 1e9:.1f}{NBSP}GB",
            )
        )
    header = ("Compiled", "Rows", "Milliseconds", "Tokens a second", "Of the peak", "Memory", "By formula")
    return f"{table(header, rows)}\n\n{_measured_on(record)}\n"


def images_markdown(record: Record) -> str:
    """Return a row for each run of a recipe for images: images a second in its passes."""
    rows = []
    for run in record["images"]:
        rates = run["images_per_second"]
        rows.append(
            (
                f"`{run['recipe']}`",
                f"{run['batch_size']:,}",
                COMPILED[run["compiled"]],
                f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})",
            )
        )
    header = ("Recipe", "Batch", "Compiled", "Images a second")
    return f"{table(header, rows)}\n\n{_measured_on(record)}\n"
