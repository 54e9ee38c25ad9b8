"""The editions, one construct at a time: what each becomes, and what the build says of those that it cannot write."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.editions.build import editions
from tools.editions.chapter import Edition
from tools.editions.markdown import Translator
from tools.editions.myst import EditionError
from tools.editions.references import Book

SITE = "https://ann.github.io/book"
PAGE = "notebooks/01_concepts"
BIB = """
@article{one, title={A}, author={L{\\'e}on, A. and van Merri{\\"e}nboer, Bart}, year={2001}, doi={10.1/a(b)}}
@misc{two, title={B}, author={Gray, C.}, year={2002}, eprint={2001.00001}}
@misc{many, title={C}, author={One, A. and Two, B. and others}, year={2003}, url={https://example.org/c}}
@misc{undated, title={D}, author={One, A.}, url={https://example.org/d}}
@misc{anonymous, title={E}, year={2004}, url={https://example.org/e}}
@misc{unreachable, title={F}, author={One, A.}, year={2005}}
"""


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
    (
        "Try.\n\n```{bigmodel-calculator} pipeline\n```",
        f"Try.\n\n**A calculator of the page:** [Bubble of a pipeline]({HERE}#calculator-pipeline)."
        " In Python, for example: `budgets.pipeline_bubble(4, 8)`",
    ),
    ("{numref}`fig-a`{numref}`fig-a`", f"[Figure 1.1]({HERE}#fig-a)[figure 1.1]({HERE}#fig-a)"),
    ("a\r\n{term}`b`\r\n", "a\nb"),
    ("<b>{cite}</b> is HTML", "<b>{cite}</b> is HTML"),
    ("| a |\n| - |\n| {eq}`eq-a` |", f"| a |\n| - |\n| [equation (1.1)]({HERE}#equation-eq-a) |"),
]


@pytest.mark.parametrize(("source", "written"), WRITTEN)
def test_text_is_translated(small: Book, source: str, written: str) -> None:
    assert Translator(small, PAGE)(source) == written.strip("\n")


def test_a_calculator_without_a_site_is_code(small: Book) -> None:
    written = Translator(Book(small.root), PAGE)("```{bigmodel-calculator} ring\n```")
    code = '`budgets.ring_bytes("all-reduce", 2e9, 64) / 50e9`'
    title = "Bytes and time of a collective"
    assert written == f"**A calculator of the page:** {title}. In Python, for example: {code}"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{foo}`x`", "the role {foo} is unknown"),
        ("```{figure} a.png\n```", "the directive {figure} is unknown"),
        ("::::{tab-set}\n:::{tab-item} A\nx\n:::\n::::", "the directive {tab-set} is unknown"),
        ("```{bigmodel-calculator} rings\n```", "the directive {bigmodel-calculator} is unknown"),
        ("```{bigmodel-calculator} ring\n:a: b\n```", "the directive {bigmodel-calculator} has the option a"),
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
