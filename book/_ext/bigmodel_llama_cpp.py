"""PyTorch and llama.cpp on the same files: tables of the results page, made from `book/llama_cpp.json`."""

from pathlib import Path
from typing import Any

from bigmodel_text import day, plain, read_record, table
from sphinx.errors import ExtensionError

REQUIRED = "title command device torch python gguf node_llama_cpp date tokens models speed"
AGAIN = "run tools.records.llama_cpp again"
MODELS = {"base_lm": "network of chapter 11", "smollm2": "SmolLM2"}


def load_llama_cpp(path: Path) -> dict[str, Any]:
    """Read the record; a missing key or more equal tokens than were compared is an error."""
    record = read_record(path, REQUIRED.split(), AGAIN)
    for name, found in record["models"].items():
        for kind, row in found["kinds"].items():
            if not all(0 <= equal <= record["tokens"] for equal in row["equal"]):
                raise ExtensionError(
                    f"{path.name}: equal tokens of {name}, {kind} are {row['equal']}: {AGAIN}"
                )
    return record


def equal_markdown(record: dict[str, Any]) -> str:
    """Return the table of tokens and losses, by model and kind of file."""
    rows = [
        (
            f"{MODELS.get(name, name)}, {kind}",
            f"{row['bytes'] / 1e6:.1f}",
            ", ".join(map(str, row["equal"])),
            f"{100 * row['top_equal']:.1f}",
            f"{row['loss_torch']:.3f}",
            f"{row['loss_llama_cpp']:.3f}",
        )
        for name, found in record["models"].items()
        for kind, row in found["kinds"].items()
    ]
    header = ("File", "MB", f"Equal of {record['tokens']} tokens", "Same likeliest token, %")
    return f"{table((*header, 'Loss, PyTorch', 'Loss, llama.cpp'), rows)}\n"


def speed_markdown(record: dict[str, Any]) -> str:
    """Return the table of speeds, and what they were measured with."""
    rows = [
        (
            f"{row['kind']} and `{row['pack']}`, {row['threads']} thread{'s' if row['threads'] > 1 else ''}",
            f"{row['torch']:.0f}",
            f"{row['llama_cpp']:.0f}",
            "{:.2f} ({:.2f}–{:.2f})".format(*row["ratio"]),
            row["pairs"],
            f"{row['load']:.1f}",
        )
        for row in record["speed"]
    ]
    header = (
        "File and pack",
        "PyTorch, tokens/s",
        "llama.cpp, tokens/s",
        "Ratio: median (range)",
        "Pairs",
        "Load",
    )
    made = (
        f"{plain(record['device'])}; torch {record['torch']}, node-llama-cpp {record['node_llama_cpp']}, "
        f"gguf {record['gguf']}, Python {record['python']}; {day(record['date'])}; `{record['command']}`"
    )
    return f"{table(header, rows)}\n\nMeasured with {made}.\n"
