"""What a chapter refers to, works, labels and pages, as words with a link where there is an address."""

import hashlib
import posixpath
import re
from pathlib import Path

from pybtex.database import Entry, parse_file
from pybtex.exceptions import PybtexError
from pybtex.richtext import Text

from tools.editions.labels import Label, chapter_labels
from tools.editions.myst import EditionError
from tools.notebooks import notebook

TITLED = re.compile(r"(?P<text>.*?)\s*<(?P<target>[^<>]+)>", re.DOTALL)  # `text <target>`
NAMED = (
    r"(?i)\b(?:equations?|formulas?|eqs?\.|figures?|figs?\.|exercises?)\s+$"  # the word stands there already
)


class Book:
    """The chapters' labels, the works they cite, and the address of the site where it is known."""

    def __init__(self, root: Path = notebook.ROOT, site: str | None = None) -> None:
        self.root, self.site = root, site
        try:
            self.works = parse_file(str(root / "book" / "references.bib"), encoding="utf-8").entries
        except PybtexError as error:
            raise EditionError(f"book/references.bib: {' '.join(str(error).split())}") from error
        self.labels: dict[str, Label] = {}
        for path in sorted((root / "notebooks").glob("*.ipynb")):
            found = chapter_labels(path)
            if twice := self.labels.keys() & found:
                raise EditionError(f"{path.stem}: the label {min(twice)} is used in another chapter, too")
            self.labels |= found

    def label(self, name: str) -> Label:
        """Return what a label names."""
        if name not in self.labels:
            raise EditionError(f"there is no label {name}")
        return self.labels[name]

    def page(self, target: str, page: str) -> str:
        """Return the page of the book, such as ``book/setup``, that a link on `page` leads to."""
        joined = posixpath.normpath(posixpath.join("/", posixpath.dirname(page), target))
        name = re.sub(r"\.(md|ipynb)$", "", joined.lstrip("/"))
        if not any((self.root / f"{name}{ending}").is_file() for ending in (".md", ".ipynb")):
            raise EditionError(f"there is no page {target}")
        return name

    def linked(self, text: str, page: str, anchor: str = "") -> str:
        """Return `text` as a link to a page of the site; without a site, to a chapter beside the reader's own."""
        place = f"#{anchor}" if anchor else ""
        if self.site:
            return f"[{text}]({self.site}/{page}.html{place})"
        return f"[{text}]({Path(page).name}.ipynb)" if page.startswith("notebooks/") and not place else text


def authors(work: Entry) -> str:
    """Return the last names of one or two authors, or the first one's and "et al."."""
    people = work.persons.get("author") or work.persons["editor"]
    names = [str(Text.from_latex(" ".join(one.prelast_names + one.last_names))) for one in people]
    return " and ".join(names) if len(names) < 3 and "others" not in names else f"{names[0]} et al."


def address(work: Entry) -> str:
    """Return where a work can be read: its DOI, its page at arXiv, or its URL."""
    if "doi" in work.fields:
        return f"https://doi.org/{work.fields['doi']}"
    return f"https://arxiv.org/abs/{work.fields['eprint']}" if "eprint" in work.fields else work.fields["url"]


def citation(book: Book, keys: str, in_sentence: bool) -> str:
    """Return ``(Author, year)``, or ``Author (year)`` where the author is part of the sentence."""
    links = []
    for key in re.split(r"\s*,\s*", keys.strip()):
        if key not in book.works:
            raise EditionError(f"book/references.bib has no work {key}")
        try:
            who, year, where = (
                authors(book.works[key]),
                book.works[key].fields["year"],
                address(book.works[key]),
            )
        except KeyError as error:
            raise EditionError(f"book/references.bib: {key} has no {error.args[0]}") from error
        text = f"{who} ({year})" if in_sentence else f"{who}, {year}"
        links.append(f"[{text}](<{where}>)" if "(" in where else f"[{text}]({where})")
    return ", ".join(links) if in_sentence else f"({'; '.join(links)})"


def reference(book: Book, content: str, before: str) -> str:
    """Return words for a label, such as ``figure 2.4``; `before` is the text that they follow."""
    titled = TITLED.fullmatch(content)
    label = book.label(titled["target"] if titled else content)
    number = f"({label.number})" if label.kind == "equation" else label.number
    if titled:
        words = titled["text"].replace("%s", number).replace("{number}", number)
    elif label.kind == "section":
        words = label.title
    else:
        words = number if re.search(NAMED, before) else f"{label.kind} {number}"
        words = words[0].upper() + words[1:] if re.search(r"(^|[.!?:]\s+|\n\s*\n)$", before) else words
    return book.linked(words, label.page, label.anchor)


def page_link(book: Book, content: str, page: str) -> str:
    """Return the words of a link to a page of the book, by default its title."""
    titled = TITLED.fullmatch(content)
    target = book.page(titled["target"] if titled else content, page)
    if titled:
        return book.linked(titled["text"], target)
    if chapter := re.match(r"notebooks/(\d+)_", target):
        return book.linked(f"chapter {int(chapter[1])}", target)
    text = (book.root / f"{target}.md").read_text(encoding="utf-8")
    return book.linked(re.search(r"^# (.+)", text, re.MULTILINE)[1], target)


def file_link(book: Book, content: str, page: str) -> str:
    """Return the words of a link to a file of the book, which the site offers for download."""
    titled = TITLED.fullmatch(content)
    target = titled["target"] if titled else content
    path = posixpath.normpath(posixpath.join("/", posixpath.dirname(page), target)).lstrip("/")
    if not (book.root / path).is_file():
        raise EditionError(f"there is no file {path}")
    words = titled["text"] if titled else posixpath.basename(path)
    if not book.site:
        return f"{words} (`{path}` in the folder of the book)"
    folder = hashlib.md5(path.encode(), usedforsecurity=False).hexdigest()  # as Sphinx names it
    return f"[{words}]({book.site}/_downloads/{folder}/{posixpath.basename(path)})"


def role(book: Book, name: str, content: str, page: str, before: str) -> str:
    """Return what a reader sees of a role.

    Raises:
        EditionError: the role is unknown, or leads nowhere.
    """
    content = " ".join(content.split())
    if name in ("cite", "cite:p", "cite:t"):
        return citation(book, content, in_sentence=name == "cite:t")
    if name in ("eq", "numref", "ref"):
        return reference(book, content, before)
    if name == "doc":
        return page_link(book, content, page)
    if name == "download":
        return file_link(book, content, page)
    if name in ("term", "abbr"):
        titled = TITLED.fullmatch(content)
        return titled["text"] if titled else content
    raise EditionError(f"the role {{{name}}} is unknown: teach it to tools/editions/references.py")


def link(book: Book, text: str, target: str, page: str) -> str:
    """Return a Markdown link into the sources of the book as a link for the reader."""
    if "](" in text:
        raise EditionError(f"a link inside the link to {target}")
    name, _, anchor = target.partition("#")
    return book.linked(text, book.page(name or posixpath.basename(page), page), anchor)
