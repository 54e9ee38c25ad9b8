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
            for name in targets:
                yield "section", name, tokens[place + 1].content
            targets = []
        elif block and block.name == "math" and "label" in block.options:
            yield "equation", block.options["label"], ""
        elif block and block.name == "exercise":
            if not block.options.get("label"):
                raise EditionError(f"exercise {block.argument!r} has no label: give it one")
            yield "exercise", block.options["label"], block.argument


def named_in(nb: NotebookNode) -> Iterator[tuple[str, str, str]]:
    """Yield kind, name and title of each label of a chapter, in reading order."""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            yield from named_in_text(cell.source)
        elif figure := cell.metadata.get("mystnb", {}).get("figure"):
            if not figure.get("name"):
                raise EditionError(
                    f"the figure of cell {cell.id} has no name: set metadata.mystnb.figure.name"
                )
            yield "figure", figure["name"], ""


def chapter_labels(path: Path) -> dict[str, Label]:
    """Return what the chapter in file `path` numbers, by label.

    Raises:
        EditionError: a label is used twice, or what gets a number has no label.
    """
    counts, found = Counter[str](), dict[str, Label]()
    for kind, name, title in named_in(notebook.read(path)):
        if name in found:
            raise EditionError(f"the label {name} is used twice: rename one")
        counts[kind] += 1
        number = "" if kind == "section" else f"{int(path.stem[:2])}.{counts[kind]}"
        anchor = f"equation-{name}" if kind == "equation" else name
        found[name] = Label(kind, number, f"notebooks/{path.stem}", anchor, title)
    return found
