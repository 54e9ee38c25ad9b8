"""The model that one command makes: tables, samples and numbers of its page, made from `book/model.json`."""

import math
from pathlib import Path
from typing import Any

from bigmodel_text import NBSP, day, duration, plain, read_record, table
from sphinx.errors import ExtensionError

Record = dict[str, Any]

REQUIRED = """title command profile device torch python platform date data options parameters text cost bytes board
always_the_same differences samples curves"""
SHOWN = ("pretrained", "instructed", "reinforced", "in 4 bits")  # of the samples
AGAIN = "run make model again and copy OUT/record.json"


def load_model(path: Path) -> Record:
    """Read the record; a missing key, an impossible number, or a run that was interrupted is an error."""
    record = read_record(path, REQUIRED.split(), AGAIN)
    for name, row in record["board"].items():
        for kind, highest in (("bits", math.inf), ("greedy", 1), ("drawn", 1)):
            value, low, high = row[kind]
            if not 0 <= low <= value <= high <= highest:
                raise ExtensionError(f"{path.name}: {kind} of {name} is {row[kind]}: {AGAIN}")
    if any(cost["attempts"] > 1 for cost in record["cost"].values()):
        raise ExtensionError(f"{path.name}: a stage was resumed, so its seconds are not all: {AGAIN}")
    return record


def spread(value: list[float], scale: float = 100, digits: int = 1) -> str:
    """Write a number with its interval."""
    middle, low, high = (f"{scale * number:.{digits}f}" for number in value)
    return f"{middle} ({low} to {high})"


def model_numbers(record: Record) -> dict[str, str]:
    """Return what the text of the page says in numbers, by name."""
    board, text, cost = record["board"], record["text"], record["cost"]
    numbers = {
        "parameters": f"{record['parameters'] / 1e6:.1f} million",
        "minutes": f"{sum(one['seconds'] for one in cost.values()) / 60:.0f} minutes",
        "text": f"{text['text_tokens'] / 1e6:.1f} million",
        "read": f"{cost['pretrain']['tokens'] / 1e6:.1f} million",
        "demonstrations": f"{record['options']['solved']:,}",
        "always": f"{100 * record['always_the_same']:.0f}{NBSP}%",
        "bytes": f"{record['bytes']['model.safetensors'] / 1e6:.1f}{NBSP}MB",
        "bytes_4": f"{record['bytes']['model-int4.gguf'] / 1e6:.1f}{NBSP}MB",
    }
    for name, row in board.items():
        numbers |= {f"{kind} {name}": f"{100 * row[kind][0]:.0f}{NBSP}%" for kind in ("greedy", "drawn")}
        numbers[f"bits {name}"] = f"{row['bits'][0]:.2f}"
    for name, (value, low, high) in record["differences"].items():
        numbers[name] = (
            f"{100 * abs(value):.1f} points (95{NBSP}% interval: {100 * low:+.1f} to {100 * high:+.1f})"
        )
    return numbers


def board_markdown(record: Record) -> str:
    """Return the board, and the differences of its rows."""
    rows = [
        (n, spread(r["bits"], 1, 2), spread(r["greedy"]), spread(r["drawn"]))
        for n, r in record["board"].items()
    ]
    told = [(name, spread(value)) for name, value in record["differences"].items()]
    header = ("Model", "Bits per byte of new code", "Greedy, % right", "Drawn, % right")
    return f"{table(header, rows)}\n\n{table(('Difference', 'Points'), told)}\n"


def tasks_markdown(record: Record) -> str:
    """Return the shares by task."""
    rows = [
        (n, *(f"{100 * share:.0f}" for share in r["by_task"].values())) for n, r in record["board"].items()
    ]
    return table(("Greedy, % right", *record["board"]["pretrained"]["by_task"]), rows)


def code(text: str) -> str:
    """Write a text of a model so that nothing in it is markup."""
    text = " ".join(text.split())[:80].replace("`", "'")
    return f"`` {text} ``" if text else "(nothing)"


def samples_markdown(record: Record) -> str:
    """Return what the models answer to the first question of each task."""
    samples = record["samples"]
    rows = [(code(asked), *(code(samples[name][asked]) for name in SHOWN)) for asked in samples[SHOWN[0]]]
    return table(("Asked", *SHOWN), rows)


def run_markdown(record: Record) -> str:
    """Return what the run cost, and what repeats it."""
    costs = [
        (
            name,
            duration(cost["seconds"]),
            duration(cost["cpu_seconds"]),
            f"{cost['tokens']:,}" if "tokens" in cost else "",
            f"{cost['flops']:.1e}" if "flops" in cost else "",
        )
        for name, cost in record["cost"].items()
    ]
    facts = {
        "Command": f"`{record['command']}`",
        "Device": plain(record["device"]),
        "Versions": f"torch {record['torch']}, Python {record['python']}",
        "Data": plain(record["data"]),
        "Date (UTC)": day(record["date"]),
        **{name: f"{size:,} bytes" for name, size in record["bytes"].items()},
    }
    header = ("Stage", "Time", "CPU time", "Tokens", "FLOPs")
    return f"{table(header, costs)}\n\n{table(('Fact', 'Value'), facts.items())}\n"
