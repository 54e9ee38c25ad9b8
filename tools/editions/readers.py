"""The reader's folder: it gets the editions, and what the reader writes there is never overwritten."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import nbformat
from nbformat import NotebookNode, ValidationError
from nbformat.sign import NotebookNotary

from tools.notebooks import notebook

MAX_BYTES = 500_000_000  # of a notebook with the outputs of a reader
MANIFEST = ".editions.json"  # the fingerprint of each file as it was put there


def fingerprint(nb: NotebookNode) -> str:
    """Return a hash of what a reader writes, text, code and outputs; Jupyter changes the rest when it saves."""
    cells = [(cell.cell_type, cell.source, cell.get("outputs")) for cell in nb.cells]
    return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()


def present(path: Path) -> str | None:
    """Return the fingerprint of the notebook at `path`, None where nothing is, and a word for anything else."""
    if not path.exists():
        return None
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return "no notebook"
    try:
        with warnings.catch_warnings(action="ignore"):  # of a notebook without cell ids
            return fingerprint(nbformat.read(path, as_version=4))
    except (ValueError, LookupError, AttributeError, TypeError, ValidationError, IsADirectoryError):
        return "no notebook"


def read_manifest(path: Path) -> dict[str, str]:
    """Return the fingerprints of the files as they were put there.

    Raises:
        SystemExit: the list is damaged.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not all(isinstance(value, str) for value in listed.values()):
            raise ValueError
    except (ValueError, AttributeError) as error:
        raise SystemExit(
            f"{path}: not readable: delete it; every notebook beside it stays as it is"
        ) from error
    return listed


def names(name: str) -> Iterator[str]:
    """Yield a file name, then those that a later edition gets beside it: x.ipynb, x-2.ipynb, x-3.ipynb."""
    yield name
    stem = name.removesuffix(".ipynb")
    yield from (f"{stem}-{number}.ipynb" for number in count(2))


def deliver(folder: Path, made: dict[str, NotebookNode], trust: bool = True) -> list[str]:
    """Put the editions into the reader's folder; return a line for each that lies beside a file of the reader.

    A file that is as it was put there gets the new edition. One that the reader has changed stays: only a later
    edition is put beside it.

    Args:
        folder: made where it is missing.
        made: the editions by file name.
        trust: let Jupyter show what is in the stored outputs, such as figures with sliders, before a cell is run.

    Raises:
        SystemExit: the folder is a file, or its list is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise SystemExit(f"{folder}: a file where the folder of your notebooks should be: move it away")
    folder.mkdir(parents=True, exist_ok=True)
    given, told = read_manifest(folder / MANIFEST), []
    for name, edition in made.items():
        new = fingerprint(edition)
        for candidate in names(name):
            path, before = folder / candidate, given.get(candidate)
            now = present(path)
            if now in (None, before, new):
                if now != new:
                    notebook.write(path, edition)
                    if trust:
                        NotebookNotary().sign(edition)
                    if candidate != name:
                        told.append(f"{name} is yours and stays; the new edition is {candidate}")
                given[candidate] = new
                break
            if before == new:
                break
    manifest = folder / f"{MANIFEST}.new"
    manifest.write_text(json.dumps(given, indent=1), encoding="utf-8")
    manifest.replace(folder / MANIFEST)
    return told
