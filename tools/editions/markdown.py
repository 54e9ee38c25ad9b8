"""The text cells of a chapter in plain Markdown: no directive, no role, no label."""

import re

from bigmodel_calculator import CALCULATORS
from markdown_it.token import Token

from tools.editions.myst import Directive, EditionError, directive, parser
from tools.editions.references import Book, link, role

NAMES = ("note", "tip", "hint", "important", "warning", "caution", "danger")
ADMONITIONS = {name: name.capitalize() for name in NAMES} | {"seealso": "See also"}
REMOVED = {"myst_line_comment", "myst_block_break", "myst_target"}
BLOCKS = REMOVED | {
    "fence",
    "colon_fence",
    "code_block",
    "html_block",
    "math_block",
    "math_block_label",
    "amsmath",
}
INLINE = re.compile(
    r"(?:\{(?P<role>[\w:.+-]+)\})?(?<!`)(?P<ticks>`+)(?!`)(?P<content>.+?)(?<!`)(?P=ticks)(?!`)"  # a role, or code
    r"|(?<!!)\[(?P<text>[^\]]*)\]\((?!\w+:)(?P<target>[^)\s]+)\)",  # a link that is no address
    re.DOTALL,
)


def quoted(text: str) -> str:
    """Return a block quote; formulas in it take one line, because Jupyter reads the marks of others as TeX."""
    text = re.sub(
        r"\$\$\n(.*?)\n\$\$", lambda found: f"$${' '.join(found[1].split())}$$", text, flags=re.DOTALL
    )
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def folded(summary: str, text: str) -> str:
    """Return a block that opens on a click."""
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"


def formula(tex: str, number: str = "") -> str:
    """Return a display formula with its number; its lines are set below each other, as Sphinx does it."""
    parts = [part for part in re.split(r"\n\s*\n", tex.strip()) if part.strip()]
    if not parts:
        raise EditionError("a formula without content")
    parts = [f"\\begin{{split}}\n{part}\n\\end{{split}}" if r"\\" in part else part for part in parts]
    joined = "\n\\\\\n".join(parts)
    joined = joined if len(parts) == 1 else f"\\begin{{gathered}}\n{joined}\n\\end{{gathered}}"
    return "\n".join(["$$", joined, *([f"\\tag{{{number}}}"] if number else []), "$$"])


def placed(written: str | None, lines: list[str]) -> str:
    """Return a block with what stands before it in a list or a quote; `lines` are those that it replaces."""
    if written is None:
        return "\n".join(lines)
    before = re.match(r"[\s>]*(?:(?:[-*+]|\d+[.)])\s+)?", lines[0])[0]
    after = re.sub(r"[^\s>]", " ", before)
    return "\n".join(
        (before if place == 0 else after) + line for place, line in enumerate(written.split("\n"))
    )


class Translator:
    """Translates the text of one chapter; `page` is its name, such as ``notebooks/02_autograd``."""

    def __init__(self, book: Book, page: str) -> None:
        self.book, self.page = book, page

    def __call__(self, markdown: str) -> str:
        """Return `markdown` without anything that only the book understands.

        Raises:
            EditionError: it holds a directive or a role that is unknown, or a reference that leads nowhere.
        """
        lines, done = markdown.splitlines(), 0
        pieces: list[str] = []
        for token in parser().parse(markdown):
            if token.type in BLOCKS and token.map and token.map[0] >= done:
                first, end = token.map
                pieces += [self.words("\n".join(lines[done:first]))] if first > done else []
                pieces += [placed(self.block(token), lines[first:end])]
                done = end
        pieces += [self.words("\n".join(lines[done:]))]
        return "\n".join(pieces).strip("\n")

    def block(self, token: Token) -> str | None:
        """Return what a block becomes; None for one that stays as it is."""
        if token.type in REMOVED:
            return ""
        if token.type == "math_block_label":
            return formula(token.content, self.book.label(token.info).number)
        block = directive(token)
        return self.directive(block) if block else None

    def directive(self, block: Directive) -> str:
        """Return what a directive becomes."""
        title = self.words(block.argument)
        if block.name == "math":
            name = block.options.get("label")
            written, allowed = formula(block.body, self.book.label(name).number if name else ""), {"label"}
        elif block.name == "exercise":
            number, allowed = self.book.label(block.options.get("label", "")).number, {"label"}
            written = f"### Exercise {number}: {title}\n\n{self(block.body)}"
        elif block.name in ADMONITIONS or (block.name in ("admonition", "dropdown") and title):
            body, allowed = self(block.body), {"class"}
            if block.name in ADMONITIONS:
                title, body = ADMONITIONS[block.name], f"{title}\n{body}".strip()
            closed = block.name == "dropdown" or "dropdown" in block.options.get("class", "")
            written = folded(title, body) if closed else quoted(f"**{title}**\n\n{body}")
        elif block.name == "bigmodel-calculator" and block.argument in CALCULATORS:
            written, allowed = self.calculator(block.argument), set()
        else:
            raise EditionError(
                f"the directive {{{block.name}}} is unknown: teach it to tools/editions/markdown.py"
            )
        if wrong := block.options.keys() - allowed:
            raise EditionError(f"the directive {{{block.name}}} has the option {wrong.pop()}: drop it")
        return written

    def calculator(self, name: str) -> str:
        """Return where a calculator is, on the page where there is a site, and what computes the same in Python."""
        calculator = CALCULATORS[name]
        title = calculator.title
        if self.book.site:
            title = self.book.linked(title, self.page, f"calculator-{name}")
        return f"**A calculator of the page:** {title}. In Python, for example: `{calculator.python}`"

    def words(self, text: str) -> str:
        """Return text without blocks, its roles and its links into the book written out."""

        def plain(found: re.Match[str]) -> str:
            if found["target"]:
                return link(self.book, self.words(found["text"]), found["target"], self.page)
            if found["role"] is None:
                return found[0]
            return role(self.book, found["role"], found["content"], self.page, found.string[: found.start()])

        return "".join(INLINE.sub(plain, paragraph) for paragraph in re.split(r"(\n[ \t]*\n)", text))
