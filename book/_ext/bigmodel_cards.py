"""The networks that come with the package, made from the cards beside their weights."""

from pathlib import Path

from bigmodel_text import NBSP, as_recorded, day, duration, plain, read_record, table
from sphinx.errors import ExtensionError

KEYS = ["name", "parameters", "sha256", "data", "recipe", "seed", "train_seconds", "device", "torch", "date"]
KEYS += ["classes", "test_images", "test_accuracy", "test_interval", "test_mirror", "limits"]


def card_markdown(path: Path) -> str:
    """Return one card as a heading and a table."""
    card = read_record(path, KEYS, "write the card again")
    weights = path.with_suffix(".safetensors")
    low, high = (f"{100 * end:.1f}" for end in card["test_interval"])
    rows = [
        ("Parameters", f"{card['parameters']:,}, a file of {weights.stat().st_size / 1e6:.1f}{NBSP}MB"),
        ("Classes", ", ".join(card["classes"])),
        ("Data", card["data"]),
        (
            "Test accuracy",
            f"{100 * card['test_accuracy']:.1f}{NBSP}% ({low}–{high}, 95{NBSP}% interval, "
            f"{card['test_images']:,} images); averaged with mirror images {100 * card['test_mirror']:.1f}{NBSP}%",
        ),
        ("Recipe", as_recorded(card["recipe"], f"{card['recipe']}; seed {card['seed']}")),
        ("Training", f"{duration(card['train_seconds'])} on {card['device']}, torch {card['torch']}"),
        ("Date", day(card["date"])),
        ("Limits", card["limits"]),
        ("SHA-256", f"`{card['sha256'][:16]}…`"),
    ]
    return f"### `{card['name']}`\n\n{table(('Card', ''), [(key, plain(value)) for key, value in rows])}\n"


def cards_markdown(folder: Path) -> str:
    """Return all cards in `folder`, by name."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ExtensionError(f"{folder}: no card of a network: train one with tools.records.train_resnet")
    return "\n".join(card_markdown(path) for path in paths)
