"""The stamp of a notebook: which run, of which code, made its outputs, and what they and their descriptions were."""

import ast
import hashlib
import io
import json
import re
import tokenize
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from tools.notebooks import notebook

PACKAGE = notebook.ROOT / "bigmodel_helpers"
FACTS = ("profile", "device", "torch", "python", "platform", "data", "date", "duration_s")
HASHES = ("code_sha256", "modules", "outputs", "texts", "evidence", "numbers")
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT}


def sha256(thing: Any) -> str:
    """Return the hash of what can be written as JSON."""
    return hashlib.sha256(json.dumps(thing, sort_keys=True, ensure_ascii=False).encode("utf-8")).hexdigest()


def code_sha256(nb: NotebookNode) -> str:
    """Return the hash of all code of `nb`: it changes when, and only when, code changes."""
    code = "\n\0\n".join(cell.source for cell in notebook.code_cells(nb))
    return hashlib.sha256(code.encode("utf-8")).hexdigest()


def outputs(nb: NotebookNode) -> dict[str, str]:
    """Return a hash of what each cell shows (text, tables, pictures), by the id of the cell."""
    shown = {
        cell.id: [{key: output[key] for key in output if key != "execution_count"} for output in cell.outputs]
        for cell in notebook.code_cells(nb)
    }
    return {cell: sha256(parts)[:16] for cell, parts in shown.items() if parts}


def descriptions(cell: NotebookNode) -> dict[str, str]:
    """Return the alternative text and the caption that the author wrote for the figure of a cell."""
    options = cell.metadata.get("mystnb", {})
    found = {
        "alternative text": options.get("image", {}).get("alt"),
        "caption": options.get("figure", {}).get("caption"),
    }
    return {kind: text for kind, text in found.items() if text}


def texts(nb: NotebookNode) -> dict[str, str]:
    """Return a hash of the descriptions in each cell, by its id."""
    found = {cell.id: descriptions(cell) for cell in notebook.code_cells(nb)}
    return {cell: sha256(words)[:16] for cell, words in found.items() if words}


def code_lines(source: str) -> Iterator[str]:
    """Yield the lines of a module without comments, docstrings and blank lines.

    By tokens, since the trees of `ast` are written differently by each version of Python.
    """
    lines, statement = source.split("\n"), []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
        if token.type == tokenize.NEWLINE:
            if {part.type for part in statement} == {tokenize.STRING}:
                first, last = statement[0].start[0], statement[-1].end[0]
                lines[first - 1 : last] = [""] * (last - first + 1)
            statement = []
        elif token.type not in LAYOUT:
            statement.append(token)
    return (line.rstrip() for line in lines if line.strip())


def uses(source: str) -> set[str]:
    """Return what `source` takes from the package: ``data.flip``, ``data.batches.Batches``."""
    tree, bound = notebook.syntax_tree(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            bound |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            bound |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = set(bound.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            found |= {f"{bound[root]}.{rest}"} if root in bound else set()
    return {name.partition(".")[2] for name in found if re.fullmatch(rf"{PACKAGE.name}[\w.]+", name)}


def used_by(nb: NotebookNode) -> set[str]:
    """Return what the cells of `nb` take from the package; a cell uses what another one imports."""
    python = []
    for cell in notebook.code_cells(nb):
        with suppress(SyntaxError):  # %%bash, or what IPython alone understands
            notebook.syntax_tree(cell.source)
            python.append(cell.source)
    return uses("\n".join(python))


def module_of(name: str, package: Path) -> Path | None:
    """Return the file that defines ``data.flip`` or ``data.batches.Batches``; None of a room as a whole.

    Of a room in a room, such as ``inference.server``, it is the list of what it offers.
    """
    place = package
    for part in name.split("."):
        if (place / f"{part}.py").is_file():
            return place / f"{part}.py"
        if not (place / part).is_dir():
            offered = uses((place / "__init__.py").read_text(encoding="utf-8")) if place != package else ()
            home = [other for other in offered if other.endswith(f".{part}") and other != name]
            return module_of(home[0], package) if home else None
        place /= part
    return None if place.parent == package else place / "__init__.py"


@cache
def analyzed(source: str) -> tuple[str, set[str]]:
    """Return the hash of the code of a module, and what it takes from the package."""
    return sha256(list(code_lines(source)))[:16], uses(source)


def modules(nb: NotebookNode, package: Path = PACKAGE) -> dict[str, str]:
    """Return a hash of the code of each module that `nb` uses, or that such a module uses."""
    needed = used_by(nb)
    found: dict[Path, str] = {}
    while files := {module_of(name, package) for name in needed} - {None, *found}:
        needed = set()
        for file in files:
            found[file], more = analyzed(file.read_text(encoding="utf-8"))
            needed |= more
    return {file.relative_to(package).as_posix(): code for file, code in found.items()}


def hashes(nb: NotebookNode) -> dict[str, Any]:
    """Return the part of the stamp that is computed from `nb` and the package."""
    made = {"code_sha256": code_sha256(nb), "modules": modules(nb)}
    return made | {"outputs": outputs(nb), "texts": texts(nb)}


def changed(stored: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return the names (cells or modules) whose hash is another one, is new, or is gone."""
    return [name for name in {**now, **stored} if stored.get(name) != now.get(name)]


def problems(stem: str, nb: NotebookNode) -> list[str]:
    """Say whether the outputs of `nb` were made by the code that is in it now, as its stamp claims."""
    stamp = nb.metadata.get("bigmodel")
    if stamp is None:
        return [f"has no stamp: it was never run; cure: make execute NB={stem}"]
    missing = [key for key in FACTS if not stamp.get(key)] + [key for key in HASHES if key not in stamp]
    if missing:
        return [f"has a stamp without {', '.join(missing)}; cure: make execute NB={stem}"]
    found = []
    if stamp["code_sha256"] != code_sha256(nb):
        found = [f"is stale: its code changed after its outputs were made on {stamp['date']}"]
    found += [f"cell {cell} shows what no run made" for cell in changed(stamp["outputs"], outputs(nb))]
    found = [f"{problem}; cure: make execute NB={stem}" for problem in found]
    for cell in changed(stamp["texts"], texts(nb)):
        cure = f"compare them, then python -m tools.notebooks.execute --restamp {stem}"
        found.append(
            f"cell {cell} has a caption or alternative text that its stamp does not know; cure: {cure}"
        )
    return found


def notes(stem: str, nb: NotebookNode) -> list[str]:
    """Say whether the package has changed since the outputs of `nb` were made; that is no error."""
    stamp = nb.metadata.get("bigmodel", {})
    now = modules(nb)
    others = changed(stamp.get("modules", now), now)
    if not others:
        return []
    told = f"{stem}: outputs of {stamp['date']} come from other code of {', '.join(sorted(others))}"
    return [f"{told}; where it matters: make execute NB={stem}"]
