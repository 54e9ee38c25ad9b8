"""The book: its table of contents, and the rendered pages of a small book and of this one."""

import json
import re
import shutil
from pathlib import Path

import bigmodel_status
import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from conftest import build_book, build_once
from made_up import STAMP, made_up_record
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from rooms import ROOT

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = bigmodel_status.toc_files(TOC)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------- table of contents


def test_toc_lists_every_page_and_notebook_and_nothing_else() -> None:
    found = [*(ROOT / "book").glob("*.md"), *(ROOT / "book" / "api").glob("*.md")]
    pages = {path.relative_to(ROOT).with_suffix("").as_posix() for path in found}
    notebooks = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert sorted(PAGES) == sorted(pages | notebooks)


def test_parts_with_chapters_number_them() -> None:
    numbered = {
        part["caption"]: part.get("numbered")
        for part in TOC["parts"]
        if any(chapter["file"].startswith("notebooks/") for chapter in part["chapters"])
    }
    assert numbered
    assert set(numbered.values()) == {2}, numbered


def test_chapter_map_says_what_is_written() -> None:
    rows = re.findall(r"^\| (?:\[)?(\d+) .*\| (written|planned) \|$", read("book/intro.md"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(17))
    written = {int(number) for number, state in rows if state == "written"}
    assert written == {int(name.split("/")[1][:2]) for name in bigmodel_status.notebook_names(ROOT)}
    boxes = re.findall(r'class="box( dotted)?".*\n *<text class="strong".*>(\d+)<', read("book/map.svg"))
    assert [int(number) for _, number in boxes] == list(range(17))
    assert {int(number) for dotted, number in boxes if not dotted} == written


def test_bibliography_is_sorted_and_complete() -> None:
    entries = re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", read("book/references.bib"), re.MULTILINE | re.DOTALL)
    keys = [key for key, _ in entries]
    assert keys == sorted(set(keys))
    for key, fields in entries:
        for field in ("title", "author", "year"):
            assert f"  {field} = {{" in fields, f"{key} lacks {field}"
        assert re.search(r"\b(doi|url|eprint) = ", fields), f"{key} cannot be looked up"


def test_citation_in_parentheses_is_no_noun() -> None:
    for page in PAGES:
        path = next((ROOT / page).parent.glob(f"{Path(page).name}.*"))
        nouns = re.findall(r"\{cite(?::p)?\}`[^`]+`'s", path.read_text(encoding="utf-8"))
        assert nouns == [], f"{page}: {{cite:t}} gives a name that a sentence can use"


def test_configuration_names_no_repository() -> None:
    assert "http" not in re.sub(r"#.*", "", read("_config.yml"))


# ------------------------------------------------------------------------ a small book, then the book


def build_small_book(root: Path) -> None:
    """Build a book of one notebook with this book's configuration, as if it were published by a/b."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    unwanted = shutil.ignore_patterns("*.md", "records", "__pycache__")
    shutil.copytree(ROOT / "book", root / "book", ignore=unwanted)
    shutil.copy(ROOT / "_config.yml", root)
    pages = [f"book/{name}" for name in ("results", "status", "bibliography")]
    for name in pages:
        shutil.copy(ROOT / f"{name}.md", root / "book")
    (root / "book" / "intro.md").write_text("# A book {cite}`wilson1927`\n", encoding="utf-8")
    chapters = [{"file": name} for name in ("notebooks/07_sample", *pages)]
    part = {"caption": "Part", "numbered": 2, "chapters": chapters}
    toc = {"format": "jb-book", "root": "book/intro", "parts": [part]}
    (root / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf-8")
    (root / "book" / "records").mkdir()
    (root / "book" / "records" / "sample.json").write_text(json.dumps(made_up_record()), encoding="utf-8")
    stylesheet = '<link rel="stylesheet" href="https://maxcdn.bootstrapcdn.com/x.css"><b>frames</b>'
    output = new_output("display_data", {"text/html": stylesheet, "application/vnd.x+json": {}})
    cells = [
        new_markdown_cell("# Sample\n\n## Section\n\n$$x^2$$ (eq-sample)\n\nSee {eq}`eq-sample`."),
        new_code_cell("show()", outputs=[output]),
        new_markdown_cell("````{exercise} Count\n:label: ex-07-count\nCount.\n````"),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel, "bigmodel": STAMP})
    (root / "notebooks").mkdir()
    nbformat.write(notebook, root / "notebooks" / "07_sample.ipynb")
    build_book(root, root / "out", BOOK_REPOSITORY_URL="https://github.com/a/b")


@pytest.fixture(scope="session")
def small_book() -> Path:
    """Return the folder of the rendered pages of the small book."""
    folder = ROOT / "_build" / "small"
    sources = [ROOT / "_config.yml", ROOT / "book", ROOT / "tests" / "made_up.py", Path(__file__)]
    build_once(folder, sources, lambda: build_small_book(folder))
    return folder / "out" / "_build" / "html"


def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def test_published_notebook_has_its_own_buttons(small_book: Path) -> None:
    links = {a["href"] for a in soup(small_book / "notebooks" / "07_sample.html").find_all("a", href=True)}
    notebook = "notebooks/07_sample.ipynb"
    for link in (
        f"https://colab.research.google.com/github/a/b/blob/editions/{notebook}",
        "https://mybinder.org/v2/gh/a/b/main?urlpath=lab/tree/my-notebooks/07_sample.ipynb",
        "https://github.com/a/b",
        f"https://github.com/a/b/edit/main/{notebook}",
    ):
        assert link in links


def test_chapters_are_numbered_by_their_file_names(small_book: Path) -> None:
    page = soup(small_book / "notebooks" / "07_sample.html").article
    assert page.h1.text.startswith("7. Sample")
    assert page.h2.text.startswith("7.1. Section")
    assert "Exercise 7.1" in page.text
    assert "(7.1)" in page.text
    assert "maxcdn" not in str(page)
    assert page.find("b", string="frames")


def test_generated_pages_are_rendered(small_book: Path) -> None:
    results = soup(small_book / "book" / "results.html").article
    headings = [heading.get_text().rstrip("#") for heading in results.find_all(["h2", "h3"])]
    assert any("Chapter 7" in heading for heading in headings)
    assert any("A run <fast> | small" in heading for heading in headings)
    runs = results.find("section", id="chapter-7").table
    assert runs.find("td", string="A run <fast> | small")
    assert results.find("section", id="floors-and-goals")
    drawing = results.find("svg", role="img")
    assert "A run <fast> | small reaches 80.00" in drawing["aria-label"]
    assert len(drawing.find_all("circle")) == 4
    status = soup(small_book / "book" / "status.html").article
    assert "a test CPU, 2 threads" in status.table.text
    assert status.table.find("a", string="Sample")


def test_every_page_is_rendered(built_book: Path) -> None:
    for name in PAGES:
        page = soup(built_book / f"{name}.html")
        assert page.h1
        assert page.find("input", attrs={"name": "q"}) or page.find(class_="search-button__button")


def test_status_page_shows_every_stamp(built_book: Path) -> None:
    text = soup(built_book / "book" / "status.html").table.text.replace("’", "'")
    for name in bigmodel_status.notebook_names(ROOT):
        stamp = bigmodel_status.read_stamp(ROOT / f"{name}.ipynb")
        assert stamp, f"{name} was never run: make execute"
        for key in ("profile", "device", "torch", "python", "data"):
            assert stamp[key] in text


def test_pages_load_nothing_from_elsewhere(built_book: Path) -> None:
    foreign = []
    for path in built_book.rglob("*.html"):
        if "_static" in path.parts:
            continue
        page = soup(path)
        loaded = [tag.get("src") for tag in page.find_all(src=True)]
        loaded += [tag["href"] for tag in page.find_all("link", href=True)]
        foreign += [f"{path.name}: {url}" for url in loaded if re.match(r"(https?:)?//", url)]
        for word in (
            "executablebooks",
            "binder-examples",
            "unpkg.com",
            "jsdelivr",
            "cdnjs",
            "colab.research",
        ):
            foreign += [f"{path.name}: {word}"] if word in str(page) else []
    assert foreign == []


def test_links_between_pages_lead_somewhere(built_book: Path) -> None:
    pages = {path: soup(path) for name in PAGES for path in [built_book / f"{name}.html"]}
    ids = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    dead, checked = [], 0
    for path, page in pages.items():
        for link in page.find_all("a", href=True):
            target, _, anchor = link["href"].partition("#")
            if re.match(r"\w+:", target):
                continue
            checked += 1
            file = (path.parent / target).resolve() if target else path
            if not file.exists() or (anchor and file in ids and anchor not in ids[file]):
                dead.append(f"{path.name}: {link['href']}")
    assert dead == []
    assert checked > 50


def test_every_picture_is_described(built_book: Path) -> None:
    for name in PAGES:
        page = soup(built_book / f"{name}.html")
        for image in page.find("article").find_all("img"):
            assert image.get("alt"), f"{name}: {image['src']} has no alt text"
            assert not re.search(r"_images/|\.png$", image["alt"]), f"{name}: {image['src']}"
        for drawing in page.find("article").select("div.drawing svg"):
            assert drawing.get("aria-label")
