"""What the last run saw: the operands of a chapter's asserts, kept in its stamp.

The checks run in a hurry and on stand-ins, and skip many a claim: it is held against these values instead.
"""

import ast
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from tools.notebooks import bindings, notebook, witness

OURS = "bigmodel-witness"  # the tag of the cells that stand in the notebook only while it runs


def with_witness(nb: NotebookNode) -> NotebookNode:
    """Return a copy of `nb` whose run keeps the operands of asserts and the values of bound numbers."""
    result = copy.deepcopy(nb)
    source = f"{Path(witness.__file__).read_text(encoding='utf-8')}\n\n_witness = Witness(get_ipython())"
    start = f"_space = {{'get_ipython': get_ipython}}\nexec({source!r}, _space)\n_witness = _space.pop('_witness')"
    result.cells = [cell_of_ours(start)]
    for cell in nb.cells:
        result.cells.append(copy.deepcopy(cell))
        if texts := bindings.expressions(cell, late=False):
            result.cells.append(cell_of_ours(measuring(cell.id, texts)))
    late = [
        measuring(cell.id, texts) for cell in nb.cells if (texts := bindings.expressions(cell, late=True))
    ]
    result.cells.append(cell_of_ours("\n".join([*late, "_witness.show()"])))
    return result


def measuring(cell: str, expressions: list[str]) -> str:
    """Return the code that evaluates numbers in the prose of a cell."""
    return f"_witness.measure({cell!r}, {expressions!r})"


def cell_of_ours(source: str) -> NotebookNode:
    """Return a code cell that the notebook does not keep."""
    return nbformat.v4.new_code_cell(source, metadata={"tags": [OURS]})


def seen(executed: NotebookNode) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return what the witness of an executed notebook kept: operands by the id of the cell, numbers likewise."""
    data = next(
        output.data[witness.MIME]
        for cell in reversed(executed.cells)
        for output in cell.get("outputs", [])
        if witness.MIME in output.get("data", {})
    )
    by_source = data["operands"]
    operands = {
        cell.id: dict(by_source[cell.source])
        for cell in notebook.code_cells(executed)
        if by_source.get(cell.source)
    }
    return operands, data["numbers"]


def asserts(source: str) -> Iterator[tuple[ast.Assert, bool]]:
    """Yield the asserts in a cell, outside of functions, and whether a condition decides if it runs."""

    def inside(nodes: list[ast.stmt], maybe: bool) -> Iterator[tuple[ast.Assert, bool]]:
        for node in nodes:
            if isinstance(node, ast.Assert):
                yield node, maybe
            elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                blocks = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
                blocks += [handler.body for handler in getattr(node, "handlers", [])]
                unsure = maybe or isinstance(node, ast.If | ast.Try)
                yield from (found for block in blocks for found in inside(block, unsure))

    yield from inside(notebook.syntax_tree(source).body, False)


def holds(test: ast.expr, source: str, stored: dict[str, Any]) -> bool | None:
    """Return the truth of a test by the stored operands; None where they do not tell."""
    if isinstance(test, ast.BoolOp):
        parts = [holds(part, source, stored) for part in test.values]
        decisive = isinstance(test.op, ast.Or)
        return decisive if decisive in parts else None if None in parts else not decisive
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = holds(test.operand, source, stored)
        return None if inner is None else not inner
    operands = [test.left, *test.comparators] if isinstance(test, ast.Compare) else [test]
    try:
        values = [value_of(node, source, stored) for node in operands]
    except KeyError:
        return None
    if not isinstance(test, ast.Compare):
        return bool(values[0])
    names = {f"v{i}": value for i, value in enumerate(values)}
    left, *others = [ast.Name(name, ast.Load()) for name in names]
    tree = ast.fix_missing_locations(ast.Expression(ast.Compare(left, test.ops, others)))
    return bool(eval(compile(tree, "claim", "eval"), {"__builtins__": {}}, names))


def value_of(node: ast.expr, source: str, stored: dict[str, Any]) -> Any:
    """Return the value of an operand, from the text or from what was stored; KeyError where it was not."""
    value = (
        witness.plain(ast.literal_eval(node))
        if witness.is_literal(node)
        else stored[witness.text_of(source, node)]
    )
    return float(value["float"]) if isinstance(value, dict) else value  # KeyError: only its kind was stored


def operands(test: ast.expr, source: str) -> list[str]:
    """Return the operands of a test that are no literals, as they are written."""
    texts: list[str] = []

    def keep(node: ast.expr) -> ast.expr:
        texts.extend([] if witness.is_literal(node) else [witness.text_of(source, node)])
        return node

    witness.over_operands(test, keep)
    return texts


def has_claims_that_hold(path: Path, nb: NotebookNode) -> list[str]:
    """Each assert of the chapter holds for what its last run saw, and was part of it."""
    known, found = nb.metadata.get("bigmodel", {}).get("evidence", {}), []
    for cell in notebook.code_cells(nb):
        stored = known.get(cell.id, {})
        for node, maybe in asserts(cell.source):
            names = operands(node.test, cell.source)
            claim = f"cell {cell.id} asserts {witness.text_of(cell.source, node.test)!r}"
            now = {name: stored[name] for name in names if name in stored}
            if names and not now and not maybe:
                found.append(
                    f"{claim}, of which its last run tells nothing; cure: make execute NB={path.stem}"
                )
            if holds(node.test, cell.source, stored) is False:
                found.append(f"{claim}, but its last run saw {now}")
    return found
