"""Write the chapters as notebooks in plain Markdown into _build/editions: `python -m tools.editions.build`."""

import argparse
import sys
from pathlib import Path

import bigmodel_site
from nbformat import NotebookNode
from sphinx.errors import ExtensionError

from tools.editions.chapter import Edition
from tools.editions.myst import EditionError
from tools.editions.references import Book
from tools.notebooks import notebook

FOLDER = notebook.BUILD / "editions"


def site() -> str | None:
    """Return the address of the built pages where the environment tells it.

    Raises:
        SystemExit: it is no address.
    """
    try:
        return bigmodel_site.site_url()
    except ExtensionError as error:
        raise SystemExit(f"editions: {error}") from error


def editions(root: Path = notebook.ROOT, site: str | None = None) -> dict[str, NotebookNode]:
    """Return the edition of each chapter by file name; links lead to the pages at `site`.

    Raises:
        SystemExit: chapters hold what an edition cannot show; one line for each chapter names the cell and the cause.
    """
    made, problems = {}, []
    try:
        book = Book(root, site)
    except EditionError as error:
        raise SystemExit(f"editions: {error}") from error
    for path in notebook.find([], root / "notebooks"):
        try:
            made[path.name] = Edition(path, book).notebook()
        except EditionError as error:
            problems.append(f"editions: {error}")
    if problems:
        raise SystemExit("\n".join(problems))
    return made


def write(folder: Path, made: dict[str, NotebookNode]) -> None:
    """Write the editions into `folder`, and remove those of chapters that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, nb in made.items():
        notebook.write(folder / name, nb)
    for old in set(folder.glob("*.ipynb")) - {folder / name for name in made}:
        old.unlink()


def main(arguments: list[str] | None = None) -> None:
    """Write all editions and say where they are."""
    parser = argparse.ArgumentParser(prog="python -m tools.editions.build", description=__doc__)
    parser.add_argument("--to", type=Path, default=FOLDER, metavar="FOLDER")
    options = parser.parse_args(arguments)
    made = editions(site=site())
    try:
        write(options.to, made)
    except OSError as error:
        raise SystemExit(f"{options.to}: {error.strerror}: name another folder with --to") from error
    print(f"==> {len(made)} notebooks in plain Markdown are in {options.to}")


if __name__ == "__main__":
    sys.exit(main())
