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
from conftest import ROOT
from markdown_it import MarkdownIt
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.editions.build import editions
from tools.editions.build import main as build
from tools.editions.chapter import OWN_KEYS, Edition
from tools.editions.markdown import Translator
from tools.editions.myst import EditionError
from tools.editions.references import Book
from tools.notebooks import notebook

SITE = "https://ann.github.io/book"
STEMS = [path.stem for path in notebook.find([])]
PAGE = "notebooks/01_concepts"
BIB = """
@article{one, title={A}, author={L{\\'e}on, A. and van Merri{\\"e}nboer, Bart}, year={2001}, doi={10.1/a(b)}}
@misc{two, title={B}, author={Gray, C.}, year={2002}, eprint={2001.00001}}
@misc{many, title={C}, author={One, A. and Two, B. and others}, year={2003}, url={https://example.org/c}}
@misc{undated, title={D}, author={One, A.}, url={https://example.org/d}}
@misc{anonymous, title={E}, year={2004}, url={https://example.org/e}}
@misc{unreachable, title={F}, author={One, A.}, year={2005}}
"""


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
            assert (new.source, json.dumps(new.outputs).replace(json.dumps(f" {OWN_KEYS}")[1:-1], "")) == (
                old.source,
                json.dumps(old.outputs),
            )


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


# -------------------------------------------------------------------------------------- one by one


@pytest.fixture
def small(tmp_path: Path) -> Book:
    """Return a made-up book of two chapters and a page, with its site."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book" / "launch").mkdir(parents=True)
    (tmp_path / "book" / "references.bib").write_text(BIB, encoding="utf-8")
    (tmp_path / "book" / "setup.md").write_text("# Setting up\n", encoding="utf-8")
    (tmp_path / "book" / "launch" / "train.py").write_text("", encoding="utf-8")
    cells = [
        new_markdown_cell("# First\n\n```{math}\n:label: eq-a\nx\n```\n\n$$y$$ (eq-b)\n\n$$z$$"),
        new_code_cell("draw()", metadata={"mystnb": {"figure": {"name": "fig-a", "caption": "A."}}}),
        new_markdown_cell("````{exercise} Try\n:label: ex-a\nDo.\n````\n\n(sec-a)=\n## A section"),
    ]
    for stem in ("01_concepts", "12_later"):
        nb = new_notebook(cells=cells if stem == "01_concepts" else [new_markdown_cell("# Later")])
        nbformat.write(nb, tmp_path / "notebooks" / f"{stem}.ipynb")
    return Book(tmp_path, SITE)


HERE = f"{SITE}/notebooks/01_concepts.html"
TRAIN = f"{SITE}/_downloads/7294c7ffd3c28dc7d918d49d842c6ee9/train.py"
WRITTEN = [
    ("plain *text*, `code`, $x_{i}$, 50 %", "plain *text*, `code`, $x_{i}$, 50 %"),
    ("`{eq}`, ``{cite}`one` ``", "`{eq}`, ``{cite}`one` ``"),
    ("```python\n{eq}`eq-a`\n% no\n```", "```python\n{eq}`eq-a`\n% no\n```"),
    ("see {cite}`two`", "see ([Gray, 2002](https://arxiv.org/abs/2001.00001))"),
    ("{cite:t}`many` show", "[One et al. (2003)](https://example.org/c) show"),
    (
        "{cite:p}`one,two`",
        "([Léon and van Merriënboer, 2001](<https://doi.org/10.1/a(b)>); [Gray, 2002](https://arxiv.org/abs/2001.00001))",
    ),
    ("by {eq}`eq-a`", f"by [equation (1.1)]({HERE}#equation-eq-a)"),
    ("by equation {eq}`eq-b`", f"by equation [(1.2)]({HERE}#equation-eq-b)"),
    ("{eq}`eq-a` says", f"[Equation (1.1)]({HERE}#equation-eq-a) says"),
    ("So. {numref}`fig-a` shows", f"So. [Figure 1.1]({HERE}#fig-a) shows"),
    ("in {numref}`panel %s <fig-a>`", f"in [panel 1.1]({HERE}#fig-a)"),
    ("in {ref}`ex-a`", f"in [exercise 1.1]({HERE}#ex-a)"),
    ("in {ref}`sec-a`", f"in [A section]({HERE}#sec-a)"),
    ("in {ref}`these\nwords <sec-a>`", f"in [these words]({HERE}#sec-a)"),
    ("{doc}`12_later`", f"[chapter 12]({SITE}/notebooks/12_later.html)"),
    ("{doc}`../book/setup`", f"[Setting up]({SITE}/book/setup.html)"),
    ("{doc}`here </book/setup>`", f"[here]({SITE}/book/setup.html)"),
    ("[chapter 12](12_later.ipynb)", f"[chapter 12]({SITE}/notebooks/12_later.html)"),
    ("[`code` {term}`x`](../book/setup.md#data)", f"[`code` x]({SITE}/book/setup.html#data)"),
    ("[see](#sec-a)", f"[see]({HERE}#sec-a)"),
    ("[out](https://example.org/a_(b))", "[out](https://example.org/a_(b))"),
    ("{download}`a file <../book/launch/train.py>`", f"[a file]({TRAIN})"),
    ("a {term}`batch`, {term}`batches <batch>`, {abbr}`GPU (card)`", "a batch, batches, GPU (card)"),
    ("% a comment\ntext", "\ntext"),
    ("(target)=\n## Title", "\n## Title"),
    ("one\n\n+++\n\ntwo", "one\n\n\n\ntwo"),
    ("```{math}\n:label: eq-a\nx\n```", "$$\nx\n\\tag{1.1}\n$$"),
    ("```{math}\na \\\\ b\n```", "$$\n\\begin{split}\na \\\\ b\n\\end{split}\n$$"),
    ("$$\ny\n$$ (eq-b)", "$$\ny\n\\tag{1.2}\n$$"),
    ("$$z$$", "$$z$$"),
    ("- item\n\n  ```{math}\n  x\n  ```\n- next", "- item\n\n  $$\n  x\n  $$\n- next"),
    (
        ":::{admonition} Title {eq}`eq-a`\n:class: tip\nbody\n\n```{math}\nx\ny\n```\n:::",
        f"> **Title [equation (1.1)]({HERE}#equation-eq-a)**\n>\n> body\n>\n> $$x y$$",
    ),
    ("```{note}\nbody\n```", "> **Note**\n>\n> body"),
    (":::{dropdown} More\nbody\n:::", "<details>\n<summary>More</summary>\n\nbody\n\n</details>"),
    (":::{hint}\n:class: dropdown\nbody\n:::", "<details>\n<summary>Hint</summary>\n\nbody\n\n</details>"),
    ("````{exercise} Try\n:label: ex-a\n\nDo `x`.\n````", "### Exercise 1.1: Try\n\nDo `x`."),
    (":::{tip} No title\nbody\n:::", "> **Tip**\n>\n> No title\n> body"),
    ("[write](mailto:ann@example.org)", "[write](mailto:ann@example.org)"),
    ("{numref}`fig-a`{numref}`fig-a`", f"[Figure 1.1]({HERE}#fig-a)[figure 1.1]({HERE}#fig-a)"),
    ("a\r\n{term}`b`\r\n", "a\nb"),
    ("<b>{cite}</b> is HTML", "<b>{cite}</b> is HTML"),
    ("| a |\n| - |\n| {eq}`eq-a` |", f"| a |\n| - |\n| [equation (1.1)]({HERE}#equation-eq-a) |"),
]


@pytest.mark.parametrize(("source", "written"), WRITTEN)
def test_text_is_translated(small: Book, source: str, written: str) -> None:
    assert Translator(small, PAGE)(source) == written.strip("\n")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{foo}`x`", "the role {foo} is unknown"),
        ("```{figure} a.png\n```", "the directive {figure} is unknown"),
        ("::::{tab-set}\n:::{tab-item} A\nx\n:::\n::::", "the directive {tab-set} is unknown"),
        ("```{admonition}\nx\n```", "the directive {admonition} is unknown"),
        ("```{math}\n:nowrap:\nx\n```", "the directive {math} has the option nowrap"),
        ("```{math}\n```", "a formula without content"),
        ("```{unclosed\nx", "fence '{unclosed'"),
        ("\\`{eq}`eq-a`\\`", "the role {eq}`eq-a` is no plain Markdown"),
        ("{doc}`../../../etc/hosts`", "there is no page ../../../etc/hosts"),
        ("{download}`/etc/hosts`", "there is no file etc/hosts"),
        ("[x](/etc/hosts)", "there is no page /etc/hosts"),
        ("{cite}`two,`", "has no work "),
        ("{cite}`undated`", "undated has no year"),
        ("{cite}`anonymous`", "anonymous has no editor"),
        ("{cite}`unreachable`", "unreachable has no url"),
        ("{cite}`nobody`", "book/references.bib has no work nobody"),
        ("{eq}`eq-no`", "there is no label eq-no"),
        ("```{math}\n:label: eq-new\nx\n```", "there is no label eq-new"),
        ("{doc}`../book/gone`", "there is no page ../book/gone"),
        ("[x](13_gone.ipynb)", "there is no page 13_gone.ipynb"),
        ("{download}`../gone.py`", "there is no file gone.py"),
        ("[see {eq}`eq-a`](12_later.ipynb)", "a link inside the link to 12_later.ipynb"),
        ("```{solution-start} ex-no\n```", "there is no label ex-no"),
        ("```{solution-end}\n```", "the directive {solution-end} has no partner"),
        ("```{solution-start} ex-a\n```\n\nNo end.", "the solution of exercise 1.1 never ends"),
        ("term\n: definition", "dl_open '' is no plain Markdown"),
        ("A {{ value }}", "substitution_inline"),
        ("[words]{.red}", "{'class': 'red'}"),
        ("![a picture](local.png)", "the link local.png"),
        ("> {eq}`eq-a\n> b`", "there is no label"),
    ],
)
def test_what_cannot_be_translated_is_named(small: Book, source: str, said: str) -> None:
    path = small.root / "notebooks" / "12_later.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell(source, id="the-cell")]), path)
    with pytest.raises(EditionError) as caught:
        Edition(path, small).notebook()
    assert said in str(caught.value)
    assert str(caught.value).startswith("12_later")
    assert "the-cell" in str(caught.value) or "never ends" in said
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (new_markdown_cell("```{math}\n:label: eq-a\nx\n```"), "the label eq-a is used in another chapter"),
        (new_markdown_cell("$$x$$ (eq-x)\n\n$$y$$ (eq-x)", id="c"), ", cell c: the label eq-x is used twice"),
        (new_markdown_cell("```{exercise} Try\nDo.\n```"), "the exercise has no label"),
        (new_code_cell("x", metadata={"mystnb": {"figure": {"caption": "A."}}}), "the figure has no label"),
    ],
)
def test_what_cannot_be_numbered_is_named(small: Book, cell: nbformat.NotebookNode, said: str) -> None:
    path = small.root / "notebooks" / "12_later.ipynb"
    nbformat.write(new_notebook(cells=[cell]), path)
    with pytest.raises(SystemExit, match="editions: 12_later") as caught:
        editions(small.root)
    assert said in str(caught.value)


def test_a_damaged_bibliography_is_one_line(small: Book) -> None:
    (small.root / "book" / "references.bib").write_text("@article{one, title={A}", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^editions: book/references\.bib: [^\n]+$"):
        editions(small.root)


def test_each_chapter_with_a_fault_has_its_line(small: Book) -> None:
    for stem in ("12_later", "13_last"):
        path = small.root / "notebooks" / f"{stem}.ipynb"
        nbformat.write(new_notebook(cells=[new_markdown_cell("{foo}`x`", id="c")]), path)
    with pytest.raises(SystemExit) as caught:
        editions(small.root)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["12_later, cell c", "13_last, cell c"]


def test_answers_of_a_solution_are_folded_with_what_it_prints(small: Book) -> None:
    printed = new_output("stream", name="stdout", text="a < b\n")
    picture = new_output("display_data", {"image/png": "aGk="})
    cells = [
        new_markdown_cell("Before.\n\n```{solution-start} ex-a\n:class: dropdown\n```\n\nFirst, $x$."),
        new_code_cell("solve()", outputs=[printed, picture], metadata={"tags": ["solution"]}),
        new_markdown_cell("Because {eq}`eq-a`.\n\n```{solution-end}\n```\n\nAfter."),
        new_markdown_cell("```{solution-start} ex-a\n```"),
        new_code_cell("again()", outputs=[printed]),
        new_markdown_cell("```{solution-end}\n```"),
        new_markdown_cell("% nothing\n"),
    ]
    path = small.root / "notebooks" / "12_later.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    first, code, second, third, _, fourth = Edition(path, small).notebook().cells
    assert first.source.startswith("Before.\n\n**Solution of exercise 1.1.** It is folded")
    assert first.source.endswith("<summary>Answer to exercise 1.1</summary>\n\nFirst, $x$.\n\n</details>")
    assert code.source == "# @title Solution of exercise 1.1\nsolve()"
    assert code.outputs == [picture]
    assert code.metadata.jupyter == {"source_hidden": True, "outputs_hidden": True}
    assert second.source.startswith(
        "<details>\n<summary>Answer to exercise 1.1</summary>\n\n<pre>a &lt; b</pre>\n\nBec"
    )
    assert second.source.endswith("</details>\n\nAfter.")
    assert third.source.startswith("**Solution of exercise 1.1.**")
    assert "<pre>a &lt; b</pre>" in fourth.source


def test_markdown_that_a_cell_shows_is_looked_at(small: Book) -> None:
    path = small.root / "notebooks" / "12_later.ipynb"
    shown = new_output("display_data", {"text/markdown": "See {eq}`eq-a`."})
    nbformat.write(new_notebook(cells=[new_code_cell("show()", outputs=[shown], id="c")]), path)
    with pytest.raises(EditionError, match=r"12_later, cell c: the role \{eq\}"):
        Edition(path, small).notebook()


def test_build_writes_all_and_removes_what_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "77_gone.ipynb").touch()
    build(["--to", str(tmp_path)])
    assert sorted(path.stem for path in tmp_path.iterdir()) == STEMS
    assert f"==> {len(STEMS)} notebooks" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^[^\n]+: name another folder with --to$"):
        build(["--to", str(tmp_path / f"{STEMS[0]}.ipynb")])


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
        others = notebook.read(ROOT / "notebooks" / f"{stem}.ipynb").cells[2].source.split()[4:]
        assert commands.pop() == [sys.executable, "-m", "pip", "install", "--quiet", wheel, *others]
        assert capsys.readouterr().out.strip() == (failure.strip() or "bigmodel_helpers is there")
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
