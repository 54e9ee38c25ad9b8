"""Chromium, which prints the book and looks at its pages in the tests."""

import os
import shutil

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
FLAGS += ["--disable-component-update", "--disable-sync"]


def find_chromium() -> str | None:
    """Return the program of the browser: the one in BIGMODEL_CHROMIUM, or one on the path."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
    return os.environ.get("BIGMODEL_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
