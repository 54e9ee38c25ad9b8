"""`make pdf`: pages on paper, with bookmarks, numbers and links inside; or one line that says why not."""

import re
import sys
from pathlib import Path

import pytest
from chromium import running_chromium
from pypdf import PdfReader, mult
from pypdf.generic import Destination

from tools import pdf

STYLE = Path(__file__).parents[2] / "book" / "static" / "print.css"
PAGE = """<!doctype html><title>{name}</title><link rel="stylesheet" href="{style}">
<body><nav class="bd-header">menu</nav><article class="bd-article"><section id="{name}"><h1>Page {name}
<a class="headerlink" href="#{name}">#</a></h1><p>The words of {name}.</p><pre>{code}</pre>
<a href="{other}.html#second">to the second section</a> <a href="{other}.html">to the page</a>
<a href="#second">below</a> <a href="archive.zip">archive</a> <a href="https://example.org/x">out</a>
<img src="https://example.org/none.png" alt="A picture from elsewhere">
<div class="quiz"><details><summary>A. no</summary></details><details class="quiz-right"><summary>B. yes</summary>
why</details></div>
<section id="second" style="break-before: page"><h2>Second <em>section</em></h2>
<table><tr>{cells}</tr></table></section>
</section></article></body>"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> PdfReader:
    """Print two pages of two sheets each."""
    folder = tmp_path_factory.mktemp("pages")
    cells = "".join(f"<td>cell{number}</td>" for number in range(30))
    for name, other in (("one", "two"), ("two", "one")):
        text = PAGE.format(
            name=name, other=other, style=STYLE.as_uri(), code="word " * 60 + "end", cells=cells
        )
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    with running_chromium():
        pass  # skips where there is no browser
    files = [folder / "one.html", folder / "two.html"]
    assert pdf.write_pdf(files, folder / "book.pdf", pdf.find_chromium()) == 4
    return PdfReader(folder / "book.pdf")


def test_text_is_found_and_nothing_is_cut(printed: PdfReader) -> None:
    texts = [page.extract_text() for page in printed.pages]
    assert "Page one" in texts[0]
    assert "The words of two." in texts[2]
    assert "menu" not in "".join(texts)
    assert " end" in " ".join(texts[0].split())
    ends = []
    printed.pages[1].extract_text(
        visitor_text=lambda text, cm, tm, *_: ends.append(mult(tm, cm)[4]) if "cell" in text else None
    )
    assert len(ends) == 30
    assert max(ends) < 595 - 51  # the margin of 18 mm


def test_every_sheet_has_its_number(printed: PdfReader) -> None:
    for number, page in enumerate(printed.pages, start=1):
        assert str(number) in page.extract_text().splitlines()
        assert [round(float(side)) for side in page.mediabox[2:]] == [595, 842]


def test_answers_stand_behind_the_quiz_only(printed: PdfReader) -> None:
    text = printed.pages[0].extract_text()
    assert "The right answers: 1 B." in text
    assert "why" not in text


def test_bookmarks_are_the_headings(printed: PdfReader) -> None:
    def told(entries: list) -> list:
        return [
            told(entry)
            if isinstance(entry, list)
            else (entry.title, printed.get_destination_page_number(entry))
            for entry in entries
        ]

    assert isinstance(printed.outline[0], Destination)
    assert told(printed.outline) == [
        ("Page one", 0),
        [("Second section", 1)],
        ("Page two", 2),
        [("Second section", 3)],
    ]


def test_links_lead_inside_or_out_and_never_to_a_file_of_this_machine(printed: PdfReader) -> None:
    numbers = {page.indirect_reference.idnum: number for number, page in enumerate(printed.pages)}
    links = [annotation.get_object() for annotation in printed.pages[0]["/Annots"]]
    inside = [numbers[link["/Dest"][0].idnum] for link in links if "/Dest" in link]
    assert inside == [3, 2, 1]
    assert [link["/A"]["/URI"] for link in links if "/A" in link] == ["https://example.org/x"]


def test_what_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "HTML", tmp_path)
    with pytest.raises(SystemExit, match=r"intro\.html: no built page: run make book first$"):
        pdf.main([])
    monkeypatch.setattr(pdf, "toc_files", lambda _: [])
    missing = str(tmp_path / "none")
    for found, said in ((None, "no Chromium found"), (missing, f"{missing}: no program")):
        monkeypatch.setattr(pdf, "find_chromium", lambda found=found: found)
        with pytest.raises(SystemExit) as error:
            pdf.main([])
        assert error.value.args == (f"{said}: install chromium or name one in BIGMODEL_CHROMIUM",)
    monkeypatch.setattr(pdf, "find_chromium", lambda: sys.executable)
    for target in (tmp_path, tmp_path / "no" / "book.pdf"):
        with pytest.raises(SystemExit) as error:
            pdf.main(["--to", str(target)])
        assert re.fullmatch(r".+: [\w ]+: name another file with --to", error.value.args[0])


def test_a_chapter_on_paper_has_its_solutions_and_calculators_and_nothing_to_click(
    built_book: Path, tmp_path: Path
) -> None:
    with running_chromium():
        pass
    pages = [built_book / "notebooks" / "01_concepts.html", built_book / "book" / "setup.html"]
    pdf.write_pdf(pages, tmp_path / "part.pdf", pdf.find_chromium())
    text = " ".join(page.extract_text() for page in PdfReader(tmp_path / "part.pdf").pages)
    for shown in (
        "8,030,261,248",
        "on each device: 129.5 GB",
        "Solution to",
        "The right answers",
        "xcode-select",
    ):
        assert shown in text
    for hidden in ("Show code cell", "Skip to main", "Search", "NaN"):
        assert hidden not in text
