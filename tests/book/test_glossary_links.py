"""The links from the first use of a term to the glossary: which words, where, and in the built pages."""

import re
from collections import Counter
from pathlib import Path

import bigmodel_glossary
import pytest
from bigmodel_glossary import EVERYDAY, GLOSSARY, PAGES_WITHOUT_LINKS, find_terms, normal, terms_for
from bigmodel_status import notebook_names
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.utils import new_document
from rooms import ROOT

ENTRIES = bigmodel_glossary.read_glossary((ROOT / f"{GLOSSARY}.md").read_text(encoding="utf-8"))


TERMS = ["batch", "batch norm", "loss", "ZeRO", "all-reduce", "Amdahl's law"]


def linked(*children: nodes.Node) -> list[str]:
    """Return the texts that became links, in a document of these children."""
    document = new_document("test")
    document += children
    before = document.astext()
    bigmodel_glossary.link_terms(document, {term: f"#{normal(term)}" for term in TERMS})
    assert document.astext() == before
    links = [link for link in document.findall(nodes.reference) if "glossary-term" in link["classes"]]
    for link in links:
        singular = re.sub("e?s$", "", normal(link.astext()))
        assert link["refuri"].removeprefix("#") in (normal(link.astext()), singular)
    return [link.astext() for link in links]


def paragraph(text: str) -> nodes.paragraph:
    return nodes.paragraph("", "", nodes.Text(text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A batch, and one more batch.", ["batch"]),
        ("Batches have losses.", ["Batches", "losses"]),
        ("A batch norm needs a batch.", ["batch norm", "batch"]),
        ("Batch\nnorm and batch-norm", ["Batch\nnorm"]),
        ("an All-Reduce, an all reduce", ["All-Reduce"]),
        ("from zero to ZeRO", ["ZeRO"]),
        ("a mini-batch, batched, a batch-wise lossy glossary", []),
        ("so Amdahl’s law bounds it", ["Amdahl’s law"]),
        ("nothing here", []),
    ],
)
def test_first_use_by_whole_words(text: str, found: list[str]) -> None:
    assert linked(paragraph(text)) == found


def test_a_term_is_linked_once_on_a_page_and_in_emphasis_too() -> None:
    emphasized = nodes.paragraph(
        "", "", nodes.Text("the "), nodes.emphasis("", "loss"), nodes.Text(" of a batch")
    )
    assert linked(paragraph("no term"), emphasized, paragraph("loss of a batch")) == ["loss", "batch"]


CLOSED = {
    "heading": nodes.title("", "loss"),
    "link": nodes.reference("", "loss", refuri="x"),
    "code": nodes.literal("", "loss"),
    "listing": nodes.literal_block("", "loss"),
    "formula": nodes.math("", "loss"),
    "caption": nodes.figure("", nodes.caption("", "loss")),
    "admonition title": nodes.admonition("", nodes.title("", "loss")),
    "citation": nodes.citation("", nodes.paragraph("", "loss")),
    "table head": nodes.thead("", nodes.paragraph("", "loss")),
    "output of a cell": nodes.container("", nodes.paragraph("", "loss"), classes=["cell_output"]),
    "choice of a quiz": nodes.inline("", "", nodes.Text("loss"), classes=["sd-summary-text"]),
    "card": nodes.admonition("", nodes.paragraph("", "loss"), classes=["admonition-in-this-chapter"]),
}


@pytest.mark.parametrize("kind", CLOSED)
def test_no_link_inside(kind: str) -> None:
    document = new_document("test")
    document += CLOSED[kind].deepcopy()
    document += paragraph("then the loss")
    bigmodel_glossary.link_terms(document, {"loss": "#loss"})
    links = [link for link in document.findall(nodes.reference) if "glossary-term" in link["classes"]]
    assert [link.parent.astext() for link in links] == ["then the loss"]


def test_entries_are_read_with_their_chapters() -> None:
    assert len(ENTRIES) >= 110
    assert ENTRIES["1F1B"] == {"notebooks/07_distributed"}
    assert all(ENTRIES.values())


def test_everyday_words_are_linked_only_where_they_are_explained() -> None:
    assert ENTRIES.keys() >= EVERYDAY, "words that are no terms any more"
    assert terms_for("notebooks/07_distributed", ENTRIES) >= {"rank", "collective", "logit"}
    assert not {"loss", "kernel"} & terms_for("notebooks/07_distributed", ENTRIES)
    assert "kernel" in terms_for("notebooks/03_cnn", ENTRIES)
    assert not EVERYDAY & terms_for("book/faq", ENTRIES)
    for page in PAGES_WITHOUT_LINKS:
        assert terms_for(page, ENTRIES) == set()


def test_every_term_is_found_in_its_own_spelling() -> None:
    terms = find_terms(ENTRIES)
    for term in ENTRIES:
        assert terms.fullmatch(term)[1] == term


def test_a_changed_glossary_makes_every_page_anew() -> None:
    class Environment:
        found_docs = {GLOSSARY, "book/intro", "book/faq"}  # noqa: RUF012

    pages = ["book/faq"]
    bigmodel_glossary.read_all_after_glossary(None, Environment, pages)
    assert pages == ["book/faq"]
    pages = [GLOSSARY]
    bigmodel_glossary.read_all_after_glossary(None, Environment, pages)
    assert sorted(pages) == ["book/faq", GLOSSARY, "book/intro"]


def links_of(built_book: Path, page: str) -> list:
    file = built_book / f"{page}.html"
    return BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser").select("a.glossary-term")


def test_built_pages_link_each_term_once_to_its_entry(built_book: Path) -> None:
    glossary = BeautifulSoup((built_book / f"{GLOSSARY}.html").read_text(encoding="utf-8"), "html.parser")
    names = {tag["id"]: normal(tag.get_text().rstrip("#")) for tag in glossary.select("dt[id]")}
    known = {normal(term) for term in ENTRIES}
    assert set(names.values()) == known
    for page in notebook_names(ROOT):
        links = links_of(built_book, page)
        assert 5 <= len(links) <= 60, f"{page} has {len(links)} links to the glossary"
        targets = Counter(link["href"] for link in links)
        assert max(targets.values()) == 1
        for link in links:
            file, _, anchor = link["href"].partition("#")
            assert file == "../book/glossary.html"
            assert normal(link.get_text()).startswith(names[anchor])
            assert not link.find_parents(["h1", "h2", "h3", "h4", "pre", "code", "figcaption", "th"])
            assert len(link.find_parents("a")) == 0


def test_pages_that_explain_themselves_have_no_links(built_book: Path) -> None:
    for page in PAGES_WITHOUT_LINKS:
        assert links_of(built_book, page) == []


def test_definitions_are_plain_english() -> None:
    definitions = bigmodel_glossary.read_definitions((ROOT / f"{GLOSSARY}.md").read_text(encoding="utf-8"))
    assert definitions.keys() == ENTRIES.keys()
    for term, text in definitions.items():
        assert re.fullmatch(r"[A-Z][^\u4e00-\u9fff`*\[{]{19,}[.)]", text), f"{term}: {text}"


def test_glossary_has_letters_and_marks_its_chinese(built_book: Path) -> None:
    page = BeautifulSoup((built_book / f"{GLOSSARY}.html").read_text(encoding="utf-8"), "html.parser")
    letters = page.select(".letters a")
    assert [letter.get_text() for letter in letters] == sorted({term[0].upper() for term in ENTRIES})
    for letter in letters:
        assert page.find(id=letter["href"][1:]).get_text()[0].upper() == letter.get_text()
    entries = page.select("article dl.glossary dd")
    assert len(entries) == len(ENTRIES)
    for entry in entries:
        chinese = entry.select('[lang="zh"]')
        assert len(chinese) == 1
        assert re.search("[\u4e00-\u9fff]", chinese[0].get_text())
        assert not re.search("[\u4e00-\u9fff]", entry.get_text().partition("In Chinese:")[0])
