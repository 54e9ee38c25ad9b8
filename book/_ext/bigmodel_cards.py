"""The networks that come with the package, made from the cards beside their weights."""

from pathlib import Path
from typing import Any

from bigmodel_text import NBSP, as_recorded, day, duration, plain, read_record, table
from sphinx.errors import ExtensionError

KEYS = [
    "name",
    "parameters",
    "sha256",
    "data",
    "recipe",
    "seed",
    "train_seconds",
    "device",
    "torch",
    "date",
    "limits",
]
OF_IMAGES = ["classes", "test_images", "test_accuracy", "test_interval", "test_mirror"]
OF_TEXT = ["seen_tokens", "test_documents", "bits_per_byte", "interval"]


def card_markdown(path: Path) -> str:
    """Return one card, of images beside its weights or of text in the folder with them, as a heading and a table."""
    of_text = path.name == "card.json"
    card = read_record(path, [*KEYS, *(OF_TEXT if of_text else OF_IMAGES)], "write the card again")
    weights = path.with_name("model.safetensors") if of_text else path.with_suffix(".safetensors")
    rows = [
        ("Parameters", f"{card['parameters']:,}, a file of {weights.stat().st_size / 1e6:.1f}{NBSP}MB"),
        ("Data", card["data"]),
        *(_text_rows(card) if of_text else _image_rows(card)),
        ("Recipe", as_recorded(card["recipe"], f"{card['recipe']}; seed {card['seed']}")),
        ("Training", f"{duration(card['train_seconds'])} on {card['device']}, torch {card['torch']}"),
        ("Date", day(card["date"])),
        ("Limits", card["limits"]),
        ("SHA-256", f"`{card['sha256'][:16]}…`"),
    ]
    return f"### `{card['name']}`\n\n{table(('Card', ''), [(key, plain(value)) for key, value in rows])}\n"


def _image_rows(card: dict[str, Any]) -> list[tuple[str, str]]:
    low, high = (f"{100 * end:.1f}" for end in card["test_interval"])
    accuracy = (
        f"{100 * card['test_accuracy']:.1f}{NBSP}% ({low}–{high}, 95{NBSP}% interval, "
        f"{card['test_images']:,} images); averaged with mirror images {100 * card['test_mirror']:.1f}{NBSP}%"
    )
    return [("Classes", ", ".join(card["classes"])), ("Test accuracy", accuracy)]


def _text_rows(card: dict[str, Any]) -> list[tuple[str, str]]:
    low, high = (f"{end:.2f}" for end in card["interval"])
    bits = f"{card['bits_per_byte']:.2f} ({low}–{high}, 95{NBSP}% interval, {card['test_documents']} new documents)"
    return [("Read", f"{card['seen_tokens']:,} tokens"), ("Bits per byte", bits)]


def cards_markdown(folder: Path) -> str:
    """Return all cards in `folder`, by name."""
    paths = card_paths(folder)
    if not paths:
        raise ExtensionError(f"{folder}: no card of a network: train one with tools.records.train_resnet")
    return "\n".join(card_markdown(path) for path in paths)


def card_paths(folder: Path) -> list[Path]:
    """Return the cards in `folder`: beside the weights of an image network, and in the folder of a language model."""
    return sorted([*folder.glob("*.json"), *folder.glob("*/card.json")])
