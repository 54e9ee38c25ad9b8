"""What the cells of a chapter hold: code, outputs, figures, and sentences."""

import ast
import base64
import gzip
import json
import re
from pathlib import Path

from nbformat import NotebookNode

from tools.notebooks import bindings, look, notebook
from tools.notebooks.layout import CARD
from tools.notebooks.notebook import numbered_code
from tools.notebooks.prose import numbers_to_bind

MAX_LINES, MIN_ALT = 25, 20
MAX_MOVABLE_BYTES = 1_500_000
SKIPPING = {"skip-execution", "nbval-skip"}
TAGS = SKIPPING | {
    "parameters",
    "exercise",
    "solution",
    "nbval-check-output",
    "shows-deprecated",
    look.PIXELS,
}
TAGS |= {f"{how}-{what}" for how in ("hide", "remove") for what in ("input", "output", "cell")}


def has_short_modern_code(path: Path, nb: NotebookNode) -> list[str]:
    """Short cells, no deprecated API, no trailing semicolon, known tags, nothing skipped but installs."""
    problems = []
    for where, cell in numbered_code(nb):
        lines, used = cell.source.splitlines(), set(notebook.tags(cell))
        if len(lines) > MAX_LINES:
            problems.append(f"{where} has {len(lines)} lines: split it, {MAX_LINES} is the limit")
        if lines and lines[-1].rstrip().endswith(";"):
            problems.append(f"{where} ends with a semicolon: end a figure with plt.show()")
        if used - TAGS:
            problems.append(
                f"{where} has unknown tags {', '.join(sorted(used - TAGS))}: allowed are {sorted(TAGS)}"
            )
        installs = bool(re.search(r"(?m)^\s*[%!]\s*pip install", cell.source))
        if installs != (used >= SKIPPING) or (used & SKIPPING and not installs):
            problems.append(
                f"{where}: skip-execution and nbval-skip belong, together, to cells with `%pip install`"
            )
        if re.search(r"NBVAL_\w+|PYTEST_VALIDATE", cell.source):
            problems.append(f"{where} has a comment for nbval: use tags")
        if "shows-deprecated" not in used:
            problems += [f"{where} uses {name}: deprecated or unsafe" for name in deprecated(cell.source)]
    return problems


def deprecated(source: str) -> list[str]:
    """Return the deprecated or unsafe APIs that the code uses; strings and comments do not count."""
    found = []
    for node in ast.walk(notebook.syntax_tree(source)):
        names = [ast.unparse(node)] if isinstance(node, ast.Attribute | ast.Name) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        if any(re.search(r"\bcuda\.amp\b", name) for name in names):
            found.append("torch.cuda.amp (use torch.amp)")
        if any(re.search(r"(?:^|\.)DataParallel$", name) for name in names):
            found.append("nn.DataParallel (use DistributedDataParallel)")
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if ast.unparse(node.func) == "torch.load" and keywords.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if "pretrained" in keywords:
                found.append("pretrained= (use weights=)")
    return list(dict.fromkeys(found))


def has_clean_outputs(path: Path, nb: NotebookNode) -> list[str]:
    """No error, stderr, absolute path or address is shown; nbval has at least one output to compare."""
    problems = notebook.output_problems(nb)
    for number, cell in enumerate(nb.cells, start=1):
        problems += [
            f"cell {number} names the absolute path {p!r}" for p in notebook.absolute_paths(cell.source)
        ]
    compared = notebook.tagged(nb, "nbval-check-output")
    if not compared:
        problems.append("has no cell tagged nbval-check-output: tag those whose output never changes")
    for cell in compared:
        if not any(text.strip() for text in notebook.output_texts(cell)):
            problems.append(f"code cell {cell.get('id')} is tagged nbval-check-output but stores no text")
    return problems


def has_described_figures(path: Path, nb: NotebookNode) -> list[str]:
    """One image per cell, drawn by plt.show(), with an alternative text; unique names fig-NN-..."""
    problems, names = [], []
    for where, cell in numbered_code(nb):
        options = cell.metadata.get("mystnb", {})
        names += [options["figure"]["name"]] if "name" in options.get("figure", {}) else []
        images = sum(any(m.startswith("image/") for m in output.get("data", {})) for output in cell.outputs)
        if not images:
            continue
        alt = options.get("image", {}).get("alt", "").strip()
        if len(alt) < MIN_ALT or re.search(r"\.(?:png|jpe?g|svg)$", alt):
            problems.append(f"{where} draws a figure without a description: set metadata.mystnb.image.alt")
        if images > 1 or cell.source.rstrip().splitlines()[-1:] != ["plt.show()"]:
            problems.append(f"{where} must draw one figure and end with plt.show()")
    wrong = [name for name in names if not name.startswith(f"fig-{path.stem[:2]}-") or names.count(name) > 1]
    problems += [
        f"has a figure name {name!r} that is not unique, or not fig-{path.stem[:2]}-..." for name in wrong
    ]
    for cell in nb.cells:
        if cell.cell_type == "markdown" and re.search(r"!\[\s*\]\(", cell.source):
            problems.append(f"cell {cell.get('id')} shows an image without alternative text")
    return problems


def has_a_movable_figure(path: Path, nb: NotebookNode) -> list[str]:
    """At least one figure with sliders, made by explore.figure: captioned, described, not too large."""
    problems, found = [], False
    for where, cell in numbered_code(nb):
        for output in cell.outputs:
            html = output.get("data", {}).get("text/html", "")
            frames = re.search(r'class="explore" data-frames="([^"]+)"', html)
            if not frames:
                continue
            found = True
            if len(html) > MAX_MOVABLE_BYTES:
                problems.append(f"{where} shows a figure of {len(html) / 1e6:.1f} MB: take fewer frames")
            if not {"caption", "name"} <= cell.metadata.get("mystnb", {}).get("figure", {}).keys():
                problems.append(
                    f"{where} moves a figure without caption and name: set metadata.mystnb.figure"
                )
            if len(set(json.loads(gzip.decompress(base64.b64decode(frames[1])))["alts"])) < 2:
                problems.append(f"{where} describes all frames alike: let alt depend on the sliders")
    return problems if found else ["has no figure that the reader can move: add one with explore.figure"]


def has_no_measured_number_in_prose(path: Path, nb: NotebookNode) -> list[str]:
    """A measured number is shown by code; the card may say how long the chapter takes."""
    texts = [cell for cell in nb.cells if cell.cell_type == "markdown" and not CARD.match(cell.source)]
    return [
        f"text cell {cell.get('id')} {problem}"
        for cell in texts
        for problem in numbers_to_bind(path.stem, bindings.without(cell.source, bindings.of(cell)))
    ]
