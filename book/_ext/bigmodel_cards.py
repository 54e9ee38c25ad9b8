"""The networks that come with the package, made from the cards beside their weights."""

from collections.abc import Callable
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
OF_WORDS = ["classes", "test_sounds", "test_accuracy", "test_interval"]
OF_STRINGS = ["letters", "test_strings", "test_word_error_rate", "test_interval"]
OF_TEXT = ["seen_tokens", "test_documents", "bits_per_byte", "interval"]


def card_markdown(path: Path) -> str:
    """Return one card, which lies beside its weights or, of a language model, in a folder with them, as a table."""
    keys, told = _kind(path)
    card = read_record(path, [*KEYS, *keys], "write the card again")
    weights = (
        path.with_name("model.safetensors") if path.name == "card.json" else path.with_suffix(".safetensors")
    )
    rows = [
        ("Parameters", f"{card['parameters']:,}, a file of {weights.stat().st_size / 1e6:.1f}{NBSP}MB"),
        ("Data", card["data"]),
        *told(card),
        ("Recipe", as_recorded(card["recipe"], f"{card['recipe']}; seed {card['seed']}")),
        ("Training", f"{duration(card['train_seconds'])} on {card['device']}, torch {card['torch']}"),
        ("Date", day(card["date"])),
        ("Limits", card["limits"]),
        ("SHA-256", f"`{card['sha256'][:16]}…`"),
    ]
    return f"### `{card['name']}`\n\n{table(('Card', ''), [(key, plain(value)) for key, value in rows])}\n"


def _kind(path: Path) -> tuple[list[str], Callable[[dict[str, Any]], list[tuple[str, str]]]]:
    """Return the keys that a card of this kind has beyond `KEYS`, and what makes rows of them."""
    if path.name == "card.json":
        return OF_TEXT, _text_rows
    architecture = str(read_record(path, [], "write the card again").get("architecture"))
    if architecture.endswith("KeywordNet"):
        return OF_WORDS, _speech_rows
    if architecture.endswith("SpeechEncoder"):
        return OF_STRINGS, _speech_rows
    return OF_IMAGES, _image_rows


def _speech_rows(card: dict[str, Any]) -> list[tuple[str, str]]:
    if "letters" in card:
        what, value, asked = (
            "Word error rate",
            card["test_word_error_rate"],
            f"{card['test_strings']:,} strings of digits",
        )
        words = []
    else:
        what, value, asked = "Test accuracy", card["test_accuracy"], f"{card['test_sounds']:,} sounds"
        words = [("Words", ", ".join(card["classes"]))]
    low, high = (f"{100 * end:.1f}" for end in card["test_interval"])
    told = f"{100 * value:.1f}{NBSP}% ({low}–{high}, 95{NBSP}% interval over voices, {asked})"
    return [*words, (what, told)]


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
