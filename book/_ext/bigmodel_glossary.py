"""Links from the first use of a term on a page to its entry in the glossary."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.transforms.post_transforms import SphinxPostTransform

GLOSSARY = "book/glossary"
PAGES_WITHOUT_LINKS = {GLOSSARY, "book/api", "book/bibliography", "book/status"}

# Words with another meaning in plain English or in another field, and words that every later chapter uses. They
# are linked only on the pages that their entry names, where they mean what it says.
EVERYDAY = frozenset(
    word
    for line in (
        "accuracy activation attention backend batch bias blank broadcast bubble bucket buffer calibrated capacity",
        "channel checkpoint collective corruption coverage decode detach device epoch feature folding freezing gate",
        "gradient graph head hook inference interval kernel leaf leak loss macro mask module momentum normalization",
        "optimizer overlap packing padding parameter pipeline power precision rank recall scale schedule seed shape",
        "shortcut slice storage streaming stride teacher temperature tensor token view vocabulary weight",
    )
    for word in line.split()
)

# Text inside these stays as it is: headings, links, code, mathematics, captions, what a cell printed, the card of a
# chapter, whose goals come before the text that explains them, and the choices of a quiz, which are buttons.
CLOSED_NODES = (
    *(nodes.title, nodes.subtitle, nodes.rubric, nodes.caption, nodes.legend, nodes.thead, nodes.reference),
    *(nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment),
    *(nodes.citation, nodes.citation_reference, nodes.footnote_reference, nodes.target),
    *(addnodes.pending_xref, addnodes.download_reference, addnodes.toctree),
)
CLOSED_CLASSES = {"cell_input", "cell_output", "admonition-in-this-chapter", "sd-summary-text"}
ENTRY = re.compile(r"^(\S.*)\n((?:  .*\n)+)", re.MULTILINE)


def read_glossary(markdown: str) -> dict[str, set[str]]:
    """Return each term of the glossary with the notebooks that its entry names."""
    block = markdown.partition("```{glossary}\n")[2].partition("```")[0]
    return {term: set(re.findall(r"notebooks/\w+", text)) for term, text in ENTRY.findall(block)}


def read_definitions(markdown: str) -> dict[str, str]:
    """Return each term of the glossary with its English definition as plain text, without its chapters."""
    block = markdown.partition("```{glossary}\n")[2].partition("```")[0]
    found = {}
    for term, text in ENTRY.findall(block):
        text = re.sub(r"\*\*[^*]*[\u4e00-\u9fff][^*]*\*\*", "", " ".join(text.split()), count=1)
        text = re.sub(r" ?See \[chapter .*$", "", text)
        found[term] = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)|\{\w+\}", r"\1", text).strip()
    return found


def terms_for(page: str, glossary: dict[str, set[str]]) -> set[str]:
    """Return the terms that `page` links: all but the everyday ones that another page explains."""
    if page in PAGES_WITHOUT_LINKS or page.startswith("book/api/"):
        return set()
    return {term for term, pages in glossary.items() if term not in EVERYDAY or page in pages}


def normal(words: str) -> str:
    """Return one spelling for `Micro-batch`, `micro batch` and the like."""
    return re.sub(r"[-\s]+", " ", words).replace("’", "'").casefold()


def find_terms(terms: Collection[str]) -> re.Pattern[str]:
    """Return a pattern for one of `terms` or its plural as whole words; the longest term wins.

    A term with a capital letter is a name, and its case counts: ZeRO is not zero.
    """
    words = []
    for term in sorted(terms, key=len, reverse=True):
        word = "['’]".join(re.escape(part) for part in re.split("['’]", term))
        word = re.sub(r"\\?[- ]", r"[-\\s]+", word)
        words.append(word if term != term.casefold() else f"(?i:{word})")
    return re.compile(rf"(?<![\w-])({'|'.join(words)})(?:e?s)?(?![\w-])")


def is_open(text: nodes.Text) -> bool:
    """Say whether a link may stand in `text`."""
    node = text.parent
    while node is not None:
        if isinstance(node, CLOSED_NODES) or CLOSED_CLASSES & set(node.get("classes", ())):
            return False
        node = node.parent
    return True


def link_terms(
    doctree: nodes.document, addresses: dict[str, str], definitions: dict[str, str] | None = None
) -> None:
    """Turn the first plain occurrence of each term into a link to its address, with its definition as title."""
    if not addresses:
        return
    definitions = definitions or {}
    known = {normal(term): (address, definitions.get(term, "")) for term, address in addresses.items()}
    terms = find_terms(addresses)
    for text in list(doctree.findall(nodes.Text)):
        if is_open(text):
            pieces = list(cut(text.astext(), terms, known))
            if len(pieces) > 1 or not isinstance(pieces[0], nodes.Text):
                text.parent.replace(text, pieces)


def cut(text: str, terms: re.Pattern[str], known: dict[str, tuple[str, str]]) -> Iterator[nodes.Node]:
    """Yield `text` in pieces, with links in it; a term that was linked is taken out of `known`."""
    end = 0
    for match in terms.finditer(text):
        entry = known.pop(normal(match[1]), None)
        if entry is not None:
            address, definition = entry
            if match.start() > end:
                yield nodes.Text(text[end : match.start()])
            link = nodes.reference("", match[0], refuri=address, internal=True, classes=["glossary-term"])
            if definition:
                link["reftitle"] = definition
            yield link
            end = match.end()
    if end < len(text) or not text:
        yield nodes.Text(text[end:])


class GlossaryLinks(SphinxPostTransform):
    """Links terms on a page whose other links are made already."""

    default_priority = 900
    formats = ("html",)

    def run(self, **_: Any) -> None:
        page, builder = self.env.docname, self.app.builder
        path = Path(self.env.srcdir, f"{GLOSSARY}.md")
        if GLOSSARY not in self.env.found_docs or not path.exists():
            return
        entries = self.env.get_domain("std").objects
        addresses, markdown = {}, path.read_text(encoding="utf-8")
        for term in terms_for(page, read_glossary(markdown)):
            if ("term", term) not in entries:
                raise ExtensionError(f"{GLOSSARY}.md: {term!r} is read as no term: write it as plain words")
            target, anchor = entries["term", term]
            addresses[term] = f"{builder.get_relative_uri(page, target)}#{anchor}"
        link_terms(self.document, addresses, read_definitions(markdown))


class GlossaryPage(SphinxPostTransform):
    """Gives the glossary letters to jump to, and puts the Chinese, marked as such, behind the English."""

    default_priority = 900
    formats = ("html",)

    def run(self, **_: Any) -> None:
        for entries in self.document.findall(addnodes.glossary):
            firsts: dict[str, str] = {}
            for entry in entries.findall(nodes.definition_list_item):
                term = next(entry.findall(nodes.term))
                firsts.setdefault(term.astext()[0].upper(), term["ids"][0])
                put_chinese_last(next(entry.findall(nodes.paragraph)))
            letters = nodes.paragraph(classes=["letters"])
            for letter, anchor in firsts.items():
                letters += [nodes.reference("", letter, refuri=f"#{anchor}", internal=True), nodes.Text(" ")]
            entries.insert(0, letters)


def put_chinese_last(definition: nodes.paragraph) -> None:
    """Move the Chinese name from the beginning of a definition to its end, as Chinese."""
    name = next(definition.findall(nodes.strong))
    rest = definition.children[definition.index(name) + 1 :]
    definition.children = []
    definition += [nodes.Text(rest[0].astext().lstrip()), *rest[1:]]
    chinese = nodes.inline("", name.astext().removesuffix("."), classes=["language-zh"])
    definition += [nodes.Text(" In Chinese: "), chinese, nodes.Text(".")]


def read_all_after_glossary(_app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Make every page anew where the glossary has changed, for its links may have."""
    if GLOSSARY in docnames:
        docnames.extend(env.found_docs.difference(docnames))


def setup_glossary(app: Sphinx) -> None:
    """Register the links."""
    app.add_post_transform(GlossaryLinks)
    app.add_post_transform(GlossaryPage)
    app.connect("env-before-read-docs", read_all_after_glossary)
