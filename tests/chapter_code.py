"""The code of a chapter for tests: cells of a notebook, run by their ids."""

from collections.abc import Iterable
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]


def chapter_namespace(stem: str, ids: Iterable[str], **names: object) -> dict[str, object]:
    """Run the cells `ids` of the notebook `stem` in this order; `names` exist beforehand.

    Returns everything that is defined afterward, by name.
    """
    notebook = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4)
    cells = {cell.id: cell.source for cell in notebook.cells if cell.cell_type == "code"}
    namespace = dict(names)
    for cell_id in ids:
        exec(compile(cells[cell_id], f"{stem}:{cell_id}", "exec"), namespace)
    return namespace
