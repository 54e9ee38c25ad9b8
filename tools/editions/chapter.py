"""A chapter as an edition: every cell of it, its solutions folded, its figures with captions."""

import copy
import html
import re
from collections.abc import Iterator
from pathlib import Path

import bigmodel_site
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from tools.editions.markdown import Translator, folded
from tools.editions.myst import Directive, EditionError, directive, leftovers, parser
from tools.editions.references import Book
from tools.notebooks import notebook, quizzes

QUIZ = re.compile(r"(?m)^```\{bigmodel-quiz\}\n```$")
FOLDED = "It is folded: try the exercise first, then open the next cell."
OWN_KEYS = 'data-lm-suppress-shortcuts="true"'  # else JupyterLab takes the arrow keys from a slider
MOVE = " (Run the cells to move it.)"


def at_solutions(markdown: str) -> Iterator[tuple[str, Directive | None]]:
    """Yield the pieces of a text cell, each with the directive behind it that begins or ends a solution."""
    lines, done = markdown.splitlines(), 0
    for token in parser().parse(markdown):
        block = directive(token)
        if block and block.name in ("solution-start", "solution-end"):
            first, end = token.map
            yield "\n".join(lines[done:first]).strip("\n"), block
            done = end
    yield "\n".join(lines[done:]).strip("\n"), None


class Edition:
    """Makes the edition of one chapter."""

    def __init__(self, path: Path, book: Book) -> None:
        self.path, self.book, self.page = path, book, f"notebooks/{path.stem}"
        self.translate = Translator(book, self.page)
        self.solution = ""  # the number of the exercise whose solution is open
        self.printed = ""  # what its code prints, until it is shown

    def notebook(self) -> NotebookNode:
        """Return the edition.

        Raises:
            EditionError: a cell holds what an edition cannot show; the message names it.
        """
        source = notebook.read(self.path)
        edition = copy.deepcopy(source)
        edition.cells = []
        for cell in source.cells:
            try:
                for new in self.text(cell) if cell.cell_type == "markdown" else self.code(cell):
                    check(new)
                    edition.cells.append(new)
            except EditionError as error:
                raise EditionError(f"{self.path.stem}, cell {cell.id}: {error}") from error
        if self.solution:
            raise EditionError(f"{self.path.stem}: the solution of exercise {self.solution} never ends")
        edition.metadata.pop("bigmodel", None)  # the stamp is that of the chapter's own code
        edition.nbformat_minor = max(edition.nbformat_minor, 5)
        return edition

    def text(self, cell: NotebookNode) -> Iterator[NotebookNode]:
        """Yield a text cell in plain Markdown; nothing where only marks were in it."""
        source = QUIZ.sub(lambda _: quizzes.as_markdown(self.path), cell.source)
        written = [text for piece in at_solutions(source) for text in self.piece(*piece) if text]
        if written:
            new = copy.deepcopy(cell)
            new.metadata.pop("bigmodel", None)  # which numbers and claims are bound
            new.source = self.numbered("\n\n".join(written))
            yield new

    def piece(self, markdown: str, mark: Directive | None) -> Iterator[str]:
        """Yield a piece of a text cell, folded inside a solution, and what stands for the mark behind it."""
        text = self.translate(markdown)
        yield self.answer(text) if self.solution else text
        if mark is None:
            return
        if (mark.name == "solution-start") == bool(self.solution):
            raise EditionError(f"the directive {{{mark.name}}} has no partner")
        self.solution = "" if self.solution else self.book.label(mark.argument).number
        if self.solution:
            yield f"**Solution of exercise {self.solution}.** {FOLDED}"
            yield self.answer(self.translate(mark.body))

    def answer(self, text: str) -> str:
        """Return a text of a solution, folded with what the code before it prints."""
        shown = "\n\n".join(part for part in (self.printed, text) if part)
        self.printed = ""
        return folded(f"Answer to exercise {self.solution}", shown) if shown else ""

    def numbered(self, markdown: str) -> str:
        """Return the chapter's title with its number, as on the page, and with a link to the page."""
        title = re.match(r"# (.+)", markdown)
        if not title:
            return markdown
        page = self.book.linked("this chapter in the book", self.page) if self.book.site else ""
        lines = [f"# {int(self.path.stem[:2])}. {title[1]}", *([f"See also {page}."] if page else [])]
        return "\n\n".join(lines) + markdown[title.end() :]

    def code(self, cell: NotebookNode) -> list[NotebookNode]:
        """Return a code cell, and behind it the caption of its figure."""
        new = copy.deepcopy(cell)
        if bigmodel_site.is_install_cell(cell):
            new.source = bigmodel_site.install_code(cell.source, self.book.site)
        if "hide-input" in notebook.tags(cell):
            hide(new, "source")
        if self.solution:
            self.fold(new)
        for output in new.outputs:
            if 'class="explore"' in (page := output.get("data", {}).get("text/html", "")):
                output.data["text/html"] = page.replace(
                    '<input type="range"', f'<input type="range" {OWN_KEYS}'
                )
        return [new, *self.caption(new, cell.metadata.get("mystnb", {}))]

    def fold(self, cell: NotebookNode) -> None:
        """Fold the code of a solution; what it prints holds the answer, so it goes into the folded text behind it."""
        hide(cell, "source")
        cell.source = f"# @title Solution of exercise {self.solution}\n{cell.source}"
        printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
        cell.outputs = [output for output in cell.outputs if output.output_type != "stream"]
        if cell.outputs:
            hide(cell, "outputs")
        if printed.strip():
            self.printed += f"<pre>{html.escape(printed.strip(), quote=False)}</pre>"

    def caption(self, cell: NotebookNode, options: NotebookNode) -> list[NotebookNode]:
        """Return the caption of a figure, how to move it, and its alternative text, which no notebook shows."""
        parts = []
        if figure := options.get("figure"):
            number, text = self.book.label(figure["name"]).number, self.translate(figure["caption"])
            parts.append(f"**Figure {number}.** {text}{MOVE if 'explore.figure(' in cell.source else ''}")
        if alt := options.get("image", {}).get("alt"):
            parts.append(folded("Description of the figure", html.escape(alt, quote=False)))
        return [text_cell(cell, "caption", "\n\n".join(parts))] if parts else []


def hide(cell: NotebookNode, what: str) -> None:
    """Fold the source or the outputs of a cell in JupyterLab, and the source in Colab."""
    cell.metadata["jupyter"] = cell.metadata.get("jupyter", {}) | {f"{what}_hidden": True}
    if what == "source":
        cell.metadata["cellView"] = "form"


def text_cell(cell: NotebookNode, what: str, text: str) -> NotebookNode:
    """Return a text cell that belongs to a code cell."""
    return new_markdown_cell(text, id=f"{cell.id[:50]}-{what}")


def check(cell: NotebookNode) -> None:
    """Raise an `EditionError` where a text cell, or Markdown that a cell shows, needs the book to be read."""
    shown = [output.get("data", {}).get("text/markdown", "") for output in cell.get("outputs", ())]
    for text in [cell.source] if cell.cell_type == "markdown" else shown:
        for problem in leftovers(text):
            raise EditionError(f"{problem} is no plain Markdown")
