"""MyST Markdown as the book reads it: its parser, its directives, and what is left of it in a text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import yaml
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from tools.notebooks import notebook

# What Jupyter, Colab and VS Code show as source text; a directive is looked for by its name.
FOREIGN = re.compile(r"myst_|math_block_label|substitution|footnote|dl_open|colon_fence|span_open|field_list")


class EditionError(ValueError):
    """A chapter holds what no edition can show."""


@dataclass(frozen=True)
class Directive:
    """A directive: its name, argument, options and body."""

    name: str
    argument: str
    options: dict[str, str]
    body: str


@cache
def parser() -> MarkdownIt:
    """Return the parser of the book, with its extensions."""
    config = yaml.safe_load((notebook.ROOT / "_config.yml").read_text(encoding="utf-8"))
    extensions = set(config["parse"]["myst_enable_extensions"])
    return create_md_parser(MdParserConfig(enable_extensions=extensions), RendererHTML)


def directive(token: Token) -> Directive | None:
    """Return the directive that a token holds, if it holds one."""
    found = re.match(r"\{([^}]+)\}\s*(.*)", token.info.strip())
    if token.type not in ("fence", "colon_fence") or not found:
        return None
    lines, options = token.content.strip("\n").splitlines(), {}
    while lines and (option := re.match(r":([\w-]+):\s*(.*)", lines[0])):
        options[option[1]] = option[2].strip()
        del lines[0]
    return Directive(found[1], found[2].strip(), options, "\n".join(lines).strip("\n"))


def leftovers(markdown: str) -> Iterator[str]:
    """Yield what plain Markdown does not know: directives, roles, labels, attributes, links into the sources."""
    for token in parser().parse(markdown):
        block = directive(token)
        opens = token.type == "fence" and token.info.lstrip().startswith("{")
        if opens or FOREIGN.match(token.type):
            words = f"{token.type} {(token.info or token.content).strip()[:60]!r}"
            yield f"the directive {{{block.name}}}" if block else words
        for child in token.children or ():
            address = str(child.attrGet("href") or child.attrGet("src") or "")
            if child.type == "myst_role":
                yield f"the role {{{child.meta['name']}}}`{child.content}`"
            elif FOREIGN.match(child.type) or child.attrGet("class") or child.attrGet("id"):
                yield f"{child.type} {child.content!r} {dict(child.attrs)}"
            elif address and not re.match(r"https?:|data:|mailto:|#|\d\d_\w+\.ipynb$", address):
                yield f"the link {address}"
