"""What the chapters number, formulas, figures and exercises, as Sphinx counts them on the pages."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode

from tools.editions.myst import EditionError, directive, parser
from tools.notebooks import notebook


@dataclass(frozen=True)
class Label:
    """What a label names: its kind (equation, figure, exercise, section), number, page, anchor there, and title."""

    kind: str
    number: str
    page: str
    anchor: str
    title: str = ""


def named_in_text(markdown: str) -> Iterator[tuple[str, str, str]]:
    """Yield kind, name and title of each label in a text cell."""
    targets: list[str] = []
    tokens = parser().parse(markdown)
    for place, token in enumerate(tokens):
        block = directive(token)
        if token.type == "math_block_label":
            yield "equation", token.info, ""
        elif token.type == "myst_target":
            targets.append(token.content)
        elif token.type == "heading_open":
            yield from (("section", name, tokens[place + 1].content) for name in targets)
            targets = []
        elif block and block.name == "math" and "label" in block.options:
            yield "equation", block.options["label"], ""
        elif block and block.name == "exercise":
            yield "exercise", block.options.get("label", ""), block.argument


def named_in(cell: NotebookNode) -> Iterator[tuple[str, str, str]]:
    """Yield kind, name and title of each label of a cell."""
    if cell.cell_type == "markdown":
        yield from named_in_text(cell.source)
    elif figure := cell.metadata.get("mystnb", {}).get("figure"):
        yield "figure", figure.get("name", ""), ""


def chapter_labels(path: Path) -> dict[str, Label]:
    """Return what the chapter in file `path` numbers, by label.

    Raises:
        EditionError: a label is used twice, or what gets a number has no label.
    """
    counts, found = Counter[str](), dict[str, Label]()
    for cell in notebook.read(path).cells:
        for kind, name, title in named_in(cell):
            if not name or name in found:
                fault = f"the label {name} is used twice" if name else f"the {kind} has no label"
                raise EditionError(f"{path.stem}, cell {cell.id}: {fault}")
            counts[kind] += 1
            number = "" if kind == "section" else f"{int(path.stem[:2])}.{counts[kind]}"
            anchor = f"equation-{name}" if kind == "equation" else name
            found[name] = Label(kind, number, f"notebooks/{path.stem}", anchor, title)
    return found
