"""The one look of all figures: as wide as the page, legends beside the data, every line named."""

import ast
import re
from pathlib import Path

from nbformat import NotebookNode

from tools.notebooks import notebook
from tools.notebooks.notebook import numbered_code

WIDTH = 7  # inches, as figures.WIDTH: a wider figure has smaller letters on the page
PIXELS = "pixels"  # the tag of figures that keep their colors in dark mode
SHOWS_PIXELS = re.compile(r"\b(?:imshow|image_grid)\(")
LINES = {"axhline", "axvline", "axhspan", "axvspan"}


def _faults(call: ast.Call) -> list[str]:
    """Return what a call does to a figure that hides data, or leaves it too small or unnamed."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    found = []
    match given.get("figsize"):
        case ast.Tuple(elts=[ast.Constant(value=wide), *_]) if wide > WIDTH:
            found.append(f"draws a figure {wide} inches wide: at most {WIDTH}, or its letters are small")
    if name == "legend":
        found.append("places a legend itself: figures.legend_above(figure) hides no data")
    if name in LINES and "label" not in given and not re.fullmatch(r"[01]", ast.unparse(call.args[0])):
        found.append(f"draws a line that nothing names: pass label= to {name}")
    return found


def draws_in_one_style(_path: Path, nb: NotebookNode) -> list[str]:
    """No figure wider than the page, no legend on the data, no line without a name; pixels are tagged."""
    trees = {where: notebook.syntax_tree(cell.source) for where, cell in numbered_code(nb)}
    drawers = {
        function.name
        for tree in trees.values()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and SHOWS_PIXELS.search(ast.unparse(function))
    }
    problems = []
    for where, cell in numbered_code(nb):
        calls = [node for node in ast.walk(trees[where]) if isinstance(node, ast.Call)]
        problems += [f"{where} {fault}" for call in calls for fault in _faults(call)]
        movable = re.search(r"\bexplore\.figure\(\s*(\w+)", cell.source)
        if not movable and "plt.show()" not in cell.source:
            continue
        pixels = movable[1] in drawers if movable else bool(SHOWS_PIXELS.search(cell.source))
        if pixels != (PIXELS in notebook.tags(cell)):
            must = "needs" if pixels else "must not have"
            problems.append(
                f"{where} {must} the tag {PIXELS}: so are figures marked that dark mode leaves alone"
            )
    return problems
