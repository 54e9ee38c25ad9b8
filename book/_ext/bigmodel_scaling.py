"""The scaling experiment of the outlook: numbers, tables and figure, made from `book/scaling.json`."""

import math
from pathlib import Path
from typing import Any

from bigmodel_text import NBSP, as_recorded, day, duration, plain, read_record, table
from sphinx.errors import ExtensionError

Record = dict[str, Any]

REQUIRED = """title command device torch python date data context batch_size train_seconds train_cpu_seconds
held_out_width fit runs"""
RUN = "width layers parameters block_parameters bytes seed rate loss seconds cpu_seconds kind"
CITED = [  # law, parameters counted, a, b, E, exponent of N
    ("sum, {cite:t}`hoffmann2022chinchilla`, third method", "all", "0.34", "0.28", "1.69", "0.46"),
    ("sum, {cite:t}`besiroglu2024replication`, the same data", "all", "0.35", "0.37", "1.82", "0.51"),
    (
        "joint, {cite:t}`kaplan2020scaling`",
        "without embeddings",
        "0.076",
        "0.103",
        "–",
        "0.73 (found otherwise)",
    ),
]
DASH = "\u2060–\u2060"  # a line is not broken here
COUNTS = {"parameters": "all", "block_parameters": "without embeddings"}


def load_scaling(path: Path) -> Record:
    """Read the record; a missing key or an impossible loss is an error."""
    record = read_record(path, REQUIRED.split(), "run tools.records.scaling again")
    if missing := sorted({key for run in record["runs"] for key in RUN.split() if key not in run}):
        raise ExtensionError(f"{path.name} lacks {', '.join(missing)}: run tools.records.scaling again")
    if not all(0 < run["loss"] < math.inf for run in record["runs"]):
        raise ExtensionError(
            f"{path.name}: a loss is not positive and finite: run tools.records.scaling again"
        )
    return record


def amount(size: float) -> str:
    """Write a number of bytes, such as ``0.52 MB``."""
    return f"{size / 1e6:.{1 if size >= 1e6 else 2}f}{NBSP}MB"


def count(number: float) -> str:
    """Write a number of parameters with two digits that count, such as ``870,000``."""
    return f"{float(f'{number:.2g}'):,.0f}"


def spread(value: list[float], digits: int = 2) -> str:
    """Write a number with its interval."""
    middle, low, high = (f"{number:.{digits}f}" for number in value)
    return f"{middle} ({low}{DASH}{high})"


def grid(record: Record) -> list[Record]:
    """Return the runs of the experiment itself, without those that chose the learning rate."""
    return [run for run in record["runs"] if run["kind"] == "grid"]


def cells(record: Record) -> dict[int, dict[int, list[Record]]]:
    """Return the runs by bytes, then by width; both ascending."""
    runs = sorted(grid(record), key=lambda run: (run["bytes"], run["width"], run["seed"]))
    found: dict[int, dict[int, list[Record]]] = {}
    for run in runs:
        found.setdefault(run["bytes"], {}).setdefault(run["width"], []).append(run)
    return found


def mean_loss(runs: list[Record]) -> float:
    """Return the mean loss over seeds."""
    return sum(run["loss"] for run in runs) / len(runs)


def inside(row: Record) -> bool:
    """Say whether the measured loss lies in the predicted interval."""
    return row["interval"][0] <= row["measured"] <= row["interval"][1]


def scaling_numbers(record: Record) -> dict[str, str]:
    """Return what the text of the page says in numbers, by name."""
    runs, fit, held_out = grid(record), record["fit"], record["held_out_width"]
    by_size = cells(record)
    largest = next(run for run in runs if run["width"] == held_out)
    next_size = max(run["parameters"] for run in runs if run["width"] != held_out)
    gains = {
        size: mean_loss(by_width[min(by_width)]) - mean_loss(by_width[held_out])
        for size, by_width in by_size.items()
        if held_out in by_width
    }
    fitted = fit["sum"]["parameters"]
    best, budget = fitted["best_size"], max(gains) * largest["parameters"]  # N and N * D for that compute
    at_best, at_twice = (loss_by("sum", fitted, n, budget / n) for n in (best[0], 2 * best[0]))
    numbers = {
        "runs": len(runs),
        "sweep_runs": len(record["runs"]) - len(runs),
        "sizes": len({run["width"] for run in runs}),
        "smallest": count(min(run["parameters"] for run in runs)),
        "largest": count(largest["parameters"]),
        "step": f"{largest['parameters'] / next_size:.1f}",
        "least_text": amount(min(by_size)),
        "least_steps": min(by_size) // (record["context"] * record["batch_size"]),
        "most_text": amount(max(by_size)),
        "context": record["context"],
        "time": duration(record["train_cpu_seconds"]),
        "noise": f"{100 * fit['seed_noise']:.1f}{NBSP}%",
        "gain_least": f"{gains[min(gains)]:.2f}",
        "gain_text": amount(max(gains)),
        "gain_most": f"{gains[max(gains)]:.2f}",
        "E": spread(fitted["E"]),
        "best_size": count(best[0]),
        "best_size_interval": " to ".join(map(count, best[1:])),
        "twice_cost": f"{100 * (at_twice / at_best - 1):.1f}{NBSP}%",
    }
    for law in ("sum", "joint"):
        fitted, rows = fit[law]["parameters"], fit[law]["parameters"]["predictions"]
        numbers |= {
            f"{law}_share": spread(fitted["share"]),
            f"{law}_share_blocks": spread(fit[law]["block_parameters"]["share"]),
            f"{law}_misfit": f"{100 * fitted['rms_log_error']:.1f}{NBSP}%",
            f"{law}_inside": f"{sum(map(inside, rows))} of {len(rows)}",
            f"{law}_error": f"{100 * max(abs(row['predicted'] / row['measured'] - 1) for row in rows):.1f}{NBSP}%",
        }
    return {name: str(number) for name, number in numbers.items()}


def laws_markdown(record: Record) -> str:
    """Return the table of exponents: ours with intervals, then the published ones."""
    rows = [
        (
            f"{law}, this book",
            words,
            *(spread(fitted[name], 3 if law == "joint" else 2) for name in ("a", "b")),
            spread(fitted["E"]) if "E" in fitted else "–",
            spread(fitted["share"]),
        )
        for law in ("sum", "joint")
        for key, words in COUNTS.items()
        for fitted in [record["fit"][law][key]]
    ]
    header = ("Law", "Parameters counted", "$a$", "$b$", "$E$", "$N$ grows as $C$ to the power")
    return table(header, [*rows, *CITED])


def predictions_markdown(record: Record) -> str:
    """Return the table of what both laws predicted for the largest model, and what it reached."""

    def told(row: Record) -> str:
        low, high = row["interval"]
        return f"{row['predicted']:.3f} ({low:.3f}{DASH}{high:.3f}){'' if inside(row) else ', missed'}"

    laws = (record["fit"][law]["parameters"]["predictions"] for law in ("sum", "joint"))
    rows = [
        (amount(a["bytes"]), f"{a['measured']:.3f}", a["seeds"], told(a), told(b))
        for a, b in zip(*laws, strict=True)
    ]
    return table(("Text", "Measured", "Seeds", "Sum predicts (95 % interval)", "Joint law predicts"), rows)


def runs_markdown(record: Record) -> str:
    """Return what repeats the experiment, and the loss of every run, folded."""
    facts = {
        "Command": as_recorded(record["command"], f"`{record['command']}`"),
        "Device": plain(record["device"]),
        "Versions": f"torch {record['torch']}, Python {record['python']}",
        "Data": plain(record["data"]),
        "Date (UTC)": day(record["date"]),
        "Training time": f"{duration(record['train_seconds'])}, CPU time {duration(record['train_cpu_seconds'])}",
        "Windows": f"{record['context']} bytes, {record['batch_size']} in a batch",
    }
    rows = [
        (
            f"{runs[0]['parameters']:,}",
            f"{runs[0]['block_parameters']:,}",
            f"{runs[0]['layers']} × {width}",
            amount(size),
            f"{runs[0]['rate']:.4f}",
            ", ".join(f"{run['loss']:.4f}" for run in runs),
        )
        for size, by_width in cells(record).items()
        for width, runs in by_width.items()
    ]
    header = ("Parameters", "In blocks", "Layers × width", "Text", "Learning rate", "Loss of each seed")
    sweep = [run for run in record["runs"] if run["kind"] == "sweep"]
    tried = [(run["width"], f"{run['rate']:.4f}", f"{run['loss']:.4f}") for run in sweep]
    text = " and ".join(sorted({amount(run["bytes"]) for run in sweep}))
    return (
        f"{table(('Fact', 'Value'), facts.items())}\n\n"
        f":::{{dropdown}} All runs\n{table(header, rows)}\n\n"
        f"Learning rates that were tried, with {text} of text:\n\n"
        f"{table(('Width', 'Learning rate', 'Loss'), tried)}\n:::\n"
    )


def loss_by(law: str, fitted: Record, parameters: float, size: float) -> float:
    """Return the loss by a fitted law."""
    value = {name: numbers[0] for name, numbers in fitted.items() if isinstance(numbers, list)}
    if law == "sum":
        return value["E"] + value["A"] * parameters ** -value["a"] + value["B"] * size ** -value["b"]
    by_n = math.exp((value["log_nc"] - math.log(parameters)) * value["a"] / value["b"])
    return (by_n + math.exp(value["log_dc"]) / size) ** value["b"]


def scaling_svg(record: Record) -> str:
    """Draw loss against parameters, both on log scales: points measured, lines fitted to the smaller models."""
    width, height, left, top, right = 560, 360, 46, 30, 84
    runs, smaller = (
        grid(record),
        {law: record["fit"][law]["parameters"]["smaller"] for law in ("sum", "joint")},
    )
    first, last = (f(run["parameters"] for run in runs) for f in (min, max))
    losses = [run["loss"] for run in runs]
    bottom, ceiling = min(losses) / 1.04, max(losses) * 1.03

    def x(parameters: float) -> float:
        return left + 12 + (width - left - right - 12) * math.log(parameters / first) / math.log(last / first)

    def y(loss: float) -> float:
        return top + (height - top) * (1 - math.log(loss / bottom) / math.log(ceiling / bottom))

    def line(law: str, size: float, end: float) -> str:
        steps = [first * (end / first) ** (step / 24) for step in range(25)]
        return " ".join(f"{x(n):.1f},{y(loss_by(law, smaller[law], n, size)):.1f}" for n in steps)

    parts = [f'<text x="{left - 30}" y="{top - 14}">loss, nats per byte</text>']
    for fifth in range(math.ceil(bottom * 5), math.floor(ceiling * 5) + 1):
        at = y(fifth / 5)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{fifth / 5:.1f}</text>')
    for tick in (digit * 10**power for power in range(3, 8) for digit in (1, 2, 5)):
        if first <= tick <= last:
            at = f"{x(tick):.1f}"
            parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{top}" y2="{height}"/>')
            parts.append(f'<text x="{at}" y="{height + 18}" text-anchor="middle">{tick / 1000:g} k</text>')
    middle = (left + width - right) / 2
    parts.append(f'<text x="{middle}" y="{height + 40}" text-anchor="middle">parameters</text>')
    for number, (size, by_width) in enumerate(cells(record).items()):
        points = [(group[0]["parameters"], mean_loss(group)) for group in by_width.values()]
        parts.append(
            f'<g class="series{number % 6}"><polyline points="{line("joint", size, points[-1][0])}"/>'
        )
        parts.append(f'<polyline class="dotted" points="{line("sum", size, points[-1][0])}"/>')
        for run_width, (parameters, loss) in zip(by_width, points, strict=True):
            hollow = ' class="hollow"' if run_width == record["held_out_width"] else ""
            parts.append(f'<circle{hollow} cx="{x(parameters):.1f}" cy="{y(loss):.1f}" r="4"/>')
        parts.append("</g>")
        parts.append(
            f'<text x="{x(points[-1][0]) + 10:.1f}" y="{y(points[-1][1]) + 5:.1f}">{amount(size)}</text>'
        )
    row = height + 68
    for at, style, words in ((left, "", "joint law"), (left + 130, ' class="dotted"', "sum")):
        parts.append(f'<g class="series5"><polyline{style} points="{at},{row - 4} {at + 26},{row - 4}"/></g>')
        parts.append(f'<text x="{at + 34}" y="{row}">{words}</text>')
    parts.append(f'<g class="series5"><circle class="hollow" cx="{left + 230}" cy="{row - 5}" r="4"/></g>')
    parts.append(f'<text x="{left + 242}" y="{row}">measured, not used in the fit</text>')
    return f'<svg viewBox="0 0 {width} {height + 76}">{"".join(parts)}</svg>'


def scaling_alt(record: Record) -> str:
    """Say in words what `scaling_svg` shows."""
    lines = []
    for size, by_width in cells(record).items():
        first, *_, last = by_width.values()
        lines.append(
            f"with {amount(size)} of text from {mean_loss(first):.2f} at {count(first[0]['parameters'])} parameters "
            f"to {mean_loss(last):.2f} at {count(last[0]['parameters'])}"
        )
    numbers = scaling_numbers(record)
    return (
        f"Validation loss falls with the number of parameters, both axes logarithmic: {'; '.join(lines)}. Two laws, "
        f"fitted to the smaller models, are drawn up to the largest one, which they miss by at most "
        f"{numbers['joint_error']} (joint law) and {numbers['sum_error']} (sum)."
    )
