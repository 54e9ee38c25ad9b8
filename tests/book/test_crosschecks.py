"""What pages say of each other, of the package and of themselves agrees; each check finds a planted fault."""

from pathlib import Path

import pytest

from tools.notebooks import crosschecks, notebook, prose
from tools.notebooks.layout import CARD

MOST = 10  # sentences in the list of exempt ones: this number only goes down

FAULTS = [
    ("chapter_links", "See [chapter 1](03_cnn.ipynb).", "'chapter 1' leads to chapter 3"),
    ("chapter_links", "See [Chapter\n1](../notebooks/03_cnn.ipynb#data).", "leads to chapter 3"),
    ("chapter_links", "| [1 Concepts](../notebooks/02_autograd.ipynb) |", "'1 Concepts' leads to chapter 2"),
    ("chapter_links", "See {doc}`chapter 2 </notebooks/03_cnn>`.", "'chapter 2' leads to chapter 3"),
    ("chapter_links", "See [chapter 1]( 03_cnn.ipynb).", "'chapter 1' leads to chapter 3"),
    ("chapter_links", "[chapter 3](03_cnn.ipynb), [the 4 ways](03_cnn.ipynb), {doc}`/notebooks/03_cnn`", ""),
    ("torn_links", "the [notes] (https://example.org/notes)", "has '] (https://example.org/notes)'"),
    ("torn_links", "the [setup] (setup.md) page", "has '] (setup.md)'"),
    ("torn_links", "the [notes]\n(https://example.org/notes)", "has ']\\n(https://example.org/notes)'"),
    ("torn_links", "- [ ] (https://example.org/notes) read", ""),
    ("torn_links", "the (notes)[https://example.org]", "has ')[https://example.org]'"),
    ("torn_links", "![](map.svg)", "describe the picture in words"),
    ("torn_links", "[notes](https://example.org), `x[0] (y)`, [a] (see b), ![A map](map.svg)", ""),
    ("versions", "You need Python 3.9 or newer.", "says Python 3.9, pyproject.toml 3.11"),
    ("versions", "You need Python\n3.9 or newer.", "says Python 3.9, pyproject.toml 3.11"),
    ("versions", "Python 3.9 and newer", "says Python 3.9, pyproject.toml 3.11"),
    ("versions", "Python >= 3.9", "says Python 3.9, pyproject.toml 3.11"),
    ("versions", "at least Python 3.9", "says Python 3.9, pyproject.toml 3.11"),
    ("versions", "torch >= 2.9", "says torch 2.9, pyproject.toml 2.11"),
    ("versions", "Python 3.12+ will do", "says Python 3.12, pyproject.toml 3.11"),
    ("versions", "sys.exit(sys.version_info < (3, 10))", "says Python 3.10, pyproject.toml 3.11"),
    ("versions", "It needs PyTorch 2.9 or newer.", "says torch 2.9, pyproject.toml 2.11"),
    ("versions", "the PyTorch that you have (2.12 or newer)", "says torch 2.12, pyproject.toml 2.11"),
    ("versions", "with Python 3.10 and torch 2.11; try", "says Python 3.10, pyproject.toml 3.11"),
    ("versions", "Python 3.11 or newer; since Python 3.14 it forks; torch 2.15; PyTorch 2.11 or newer", ""),
    ("references", "by {eq}`eq-02-vjp` of chapter 3", "which is in chapter 2: say so"),
    ("references", "by {eq}`eq-02-vjp`", "which is in chapter 2: say so"),
    (
        "references",
        "the curve {numref}`that figure <fig-06-curves>` of [chapter 5](x)",
        "in chapter 6: say so",
    ),
    ("references", "by {eq}`eq-04-loss` in chapter 2", "which is in chapter 4: say so"),
    ("references", "by equation (2.3)", "has 'equation (2.3)': write {eq}`label`"),
    ("references", "by eq. 2.3", "has 'eq. 2.3': write {eq}`label`"),
    ("references", "in section 2 and exercise (2.3)", "has 'exercise (2.3)': write {eq}`label`"),
    ("references", "as Figure 2.3 shows", "has 'Figure 2.3': write {eq}`label`"),
    ("references", "{eq}`eq-04-loss` is, as chapter 2 says, {eq}`eq-02-vjp` of chapter 2; 2.3 times", ""),
    ("numbers", "It takes twice the time.", "has twice in 'It takes twice the time.'"),
    ("numbers", "It takes 3 s (assumed).", ""),
]


@pytest.mark.parametrize(("check", "text", "problem"), FAULTS)
def test_a_planted_fault_is_found(check, text, problem):
    name = "book/faq.md" if check == "numbers" else "notebooks/04_cifar_training.ipynb"
    found = getattr(crosschecks, check)(name, text)
    assert [problem in line for line in found] == ([True] if problem else []), found


def test_every_check_has_a_fault_that_it_finds():
    assert {check for check, _, problem in FAULTS if problem} == {
        check.__name__ for check in crosschecks.CHECKS
    }


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("@misc{a2024b,\n  title = {A 2024},\n  year = {2023},\n}", "a2024b is of 2023: correct"),
        ("@misc{ab,\n  year = {2023},\n}", "ab is of 2023: correct"),
        ("@misc{a2024b,\n  title = {A},\n}", "a2024b is of None: correct"),
        ("@misc{a2024b,\n  year = {2024},\n}", ""),
    ],
)
def test_a_wrong_year_is_found(entry, problem):
    assert [problem in line for line in crosschecks.years(f"{entry}\n")] == ([True] if problem else [])


def test_pages_agree():
    assert crosschecks.problems() == []


def test_the_checks_read_what_they_are_there_for():
    pages = crosschecks.pages()
    flat = {name: " ".join(text.split()) for name, text in pages.items()}
    assert {"README.md", "CONTRIBUTING.md", "Makefile", "book/setup.md"} == {
        name for name, text in flat.items() if crosschecks.PYTHON.search(text)
    }
    assert {"README.md", "CONTRIBUTING.md", "book/setup.md"} <= {
        name for name, text in flat.items() if crosschecks.TORCH.search(text)
    }
    assert sum(len(crosschecks.MARKDOWN_LINK.findall(text)) for text in pages.values()) > 100
    assert sum(len(crosschecks.REFERENCE.findall(text)) for text in pages.values()) > 20


# ------------------------------------------------------------------------------- the list of exemptions


def unsourced() -> set[tuple[str, str]]:
    """Return every sentence with a number from nowhere, with its chapter or page."""
    texts = [
        (path.stem, cell.source)
        for path in notebook.find([])
        for cell in notebook.read(path).cells
        if cell.cell_type == "markdown" and not CARD.match(cell.source)
    ]
    texts += [(name, text) for name, text in crosschecks.pages().items() if name.endswith(".md")]
    return {(where, sentence) for where, text in texts for sentence, _ in prose.unsourced(text)}


def test_exempt_sentences_are_there_and_only_get_fewer():
    lines = prose.EXEMPT.read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    exempt = {(where, sentence) for where, sentences in prose.exempt().items() for sentence in sentences}
    assert len(exempt) == len(listed), "a line is empty or stands there twice"
    gone = sorted(exempt - unsourced())
    assert gone == [], "these sentences are gone or changed: take them off, and do not put the new ones on"
    assert len(listed) <= MOST, "do not add a sentence: say where its number comes from, or bind it"
    assert len(listed) == MOST, f"write MOST = {len(listed)}, so that the list stays short"


def test_an_exemption_is_for_one_sentence_of_one_page(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(prose, "EXEMPT", tmp_path / "exempt.txt")
    prose.EXEMPT.write_text("# why\n01_concepts: It is four times as fast.\n", encoding="utf-8")
    assert prose.numbers_to_bind("01_concepts", "It is four\ntimes as fast. So.") == []
    assert prose.numbers_to_bind("01_concepts", "It is eight times as fast.") != []
    assert prose.numbers_to_bind("02_autograd", "It is four times as fast.") != []
