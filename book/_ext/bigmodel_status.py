"""The status table, made from the stamps that `make execute` leaves in the notebooks."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from bigmodel_text import day, duration, read_record, table
from sphinx.errors import ExtensionError

KEYS = ("profile", "device", "torch", "python", "data", "date", "duration_s")
HEADER = ("Page", "Profile, device", "Versions", "Data", "Date (UTC), run time")


def toc_files(toc: dict[str, Any]) -> list[str]:
    """Return all pages of a parsed `_toc.yml`, in reading order, without file endings."""
    pages = [toc["root"]]
    for part in toc["parts"]:
        for chapter in part["chapters"]:
            pages += [chapter["file"], *(page["file"] for page in chapter.get("sections", ()))]
    return pages


def notebook_names(root: Path) -> list[str]:
    """Return the notebooks of the book in reading order, such as ``notebooks/04_cifar_training``."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [name for name in toc_files(toc) if name.startswith("notebooks/")]


def read_stamp(notebook: Path) -> dict[str, Any]:
    """Return what `make execute` wrote into the notebook about its last run; empty if it never ran."""
    return read_record(notebook, ["metadata"], "correct the notebook")["metadata"].get("bigmodel", {})


def status_row(name: str, stamp: dict[str, Any]) -> list[str]:
    """Return one row of the status table."""
    link = f"{{doc}}`/{name}`"
    if not stamp:
        return [link, f"not run yet: `make execute NB={Path(name).name}`", "–", "–", "–"]
    missing = [key for key in KEYS if key not in stamp]
    if missing:
        raise ExtensionError(f"{name}.ipynb: its stamp lacks {', '.join(missing)}: run make execute again")
    return [
        link,
        f"`{stamp['profile']}`, {stamp['device']}",
        f"torch {stamp['torch']}, Python {stamp['python']}",
        stamp["data"],
        f"{day(stamp['date'])}, {duration(stamp['duration_s'])}",
    ]


def status_markdown(root: Path) -> str:
    """Return the status table of all notebooks, and the versions of the tools that built the pages."""
    rows = [status_row(name, read_stamp(root / f"{name}.ipynb")) for name in notebook_names(root)]
    tools = ", ".join(f"{name} {version(name)}" for name in ("jupyter-book", "sphinx", "myst-nb"))
    return f"{table(HEADER, rows)}\n\nThese pages were rendered by {tools}.\n"
