"""Wrong statements of many kinds, planted in the chapters and pages: each is found by a check that runs no cell."""

import ast
import copy
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from nbformat import NotebookNode

from tools.notebooks import (
    bindings,
    claims,
    crosschecks,
    evidence,
    notebook,
    page_numbers,
    prose,
    stamps,
    witness,
)
from tools.notebooks.rules import RULES

PATHS = notebook.find([])
OPPOSITE = {
    "better": "worse",
    "worse": "better",
    "best": "worst",
    "worst": "best",
    "more": "less",
    "less": "more",
    "larger": "smaller",
    "smaller": "larger",
    "higher": "lower",
    "lower": "higher",
    "most": "least",
    "least": "most",
    "falls": "rises",
    "rises": "falls",
    "faster": "slower",
    "slower": "faster",
}
TURNED = re.compile(rf"\b(?:{'|'.join(OPPOSITE)})\b")
OTHER = {
    "twice": "half as much",
    "half": "a third",
    "a third": "half",
    "a quarter": "a tenth",
    "doubles": "halves",
}
SLOW = {  # asked last
    "has_clean_outputs",
    "has_claims_that_hold",
    "has_short_modern_code",
    "draws_in_one_style",
}
REVERSED = {ast.Lt: ">=", ast.LtE: ">", ast.Gt: "<=", ast.GtE: "<", ast.Eq: "!=", ast.NotEq: "=="}


@cache
def original(path: Path) -> NotebookNode:
    return notebook.read(path)


@cache
def known(path: Path) -> frozenset[str]:
    return frozenset(problems(path, original(path)))


def problems(path: Path, nb: NotebookNode) -> Iterator[str]:
    """Yield what `make quick` finds in a chapter, and its cross-checks; what is not asked for is not looked for."""
    words = "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    for check in crosschecks.CHECKS:
        yield from check(f"notebooks/{path.name}", words)
    for rule in sorted(RULES, key=lambda rule: rule.__name__ in SLOW):
        yield from rule(path, nb)


def is_found(path: Path, change: Callable[[NotebookNode], None]) -> bool:
    nb = copy.deepcopy(original(path))
    change(nb)
    assert nb != original(path), "the change changes nothing"
    return any(problem not in known(path) for problem in problems(path, nb))


def put(cell_id: str, old: str, new: str) -> Callable[[NotebookNode], None]:
    def change(nb: NotebookNode) -> None:
        cell = next(cell for cell in nb.cells if cell.id == cell_id)
        cell.source = cell.source.replace(old, new, 1)

    return change


def with_source(path: Path, cell_id: str, source: str) -> NotebookNode:
    """Return the chapter with another text in one cell; all else is the same object."""
    nb = copy.copy(original(path))
    nb.cells = [NotebookNode(cell | {"source": source}) if cell.id == cell_id else cell for cell in nb.cells]
    return nb


def one_cell(path: Path, cell_id: str, source: str) -> NotebookNode:
    """Return the chapter with no other cell than this one, of another text: for a rule that asks cell by cell."""
    nb = with_source(path, cell_id, source)
    nb.cells = [cell for cell in nb.cells if cell.id == cell_id]
    return nb


def cells(path: Path, kind: str) -> list[NotebookNode]:
    return [cell for cell in original(path).cells if cell.cell_type == kind]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_each_bound_number_is_guarded(path):
    for cell in cells(path, "markdown"):
        for bound in bindings.of(cell):
            match = bindings.place(cell.source, bound)
            words = bindings.WORDS.get(bound["format"])
            number = re.sub(r"\d(?=\D*$)", lambda d: str((int(d[0]) + 1) % 10), match[1])
            new = next(w for w in words.values() if w != match[1].lower()) if words else number
            wrong = cell.source[: match.start(1)] + new + cell.source[match.end(1) :]
            nb = one_cell(path, cell.id, wrong)
            assert set(bindings.has_bound_numbers_as_measured(path, nb)) - known(path), (cell.id, bound)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_each_named_claim_is_guarded(path):
    for cell in cells(path, "markdown"):
        for claim in claims.of(cell):
            pattern = r"\s+".join(map(re.escape, claim["phrase"].split()))
            wrong = re.sub(pattern, lambda found: f"not {found[0]}"[:-1], cell.source)
            nb = with_source(path, cell.id, wrong)
            assert set(claims.has_backed_claims(path, nb)) - known(path), (cell.id, claim)


def reversals(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the id of a cell and its source with one comparison reversed, for each of which the last run saw all."""
    for cell in cells(path, "code"):
        stored = original(path).metadata["bigmodel"]["evidence"].get(cell.id, {})
        lines = cell.source.splitlines(keepends=True)
        for node, _ in evidence.asserts(cell.source):
            test = node.test
            sign = REVERSED.get(type(test.ops[0])) if isinstance(test, ast.Compare) else None
            if sign and len(test.ops) == 1 and evidence.holds(test, cell.source, stored):
                left, right = (
                    ast.get_source_segment(cell.source, part) for part in (test.left, test.comparators[0])
                )
                before = "".join(lines[: test.lineno - 1]) + lines[test.lineno - 1][: test.col_offset]
                after = lines[test.end_lineno - 1][test.end_col_offset :] + "".join(lines[test.end_lineno :])
                yield cell.id, f"{before}(({left}) {sign} ({right})){after}"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_each_assert_that_is_reversed_and_stamped_anew_is_found(path):
    count = 0
    for cell_id, source in reversals(path):
        found = set(evidence.has_claims_that_hold(path, one_cell(path, cell_id, source)))
        assert any("but its last run saw" in line for line in found - known(path)), (cell_id, source)
        count += 1
    assert count >= 3


def edited(cell: NotebookNode, mime: str, old: str, new: str) -> bool:
    """Change the first output of this kind in which `old` matches; say whether there is one."""
    for output in cell.get("outputs", []):
        held = output if mime == "text" else output.get("data", {})
        if isinstance(held.get(mime), str) and re.search(old, held[mime]):
            held[mime] = re.sub(old, new, held[mime], count=1)
            return True
    return False


OUTPUTS = [
    ("a printed number", "text", r"\d(?=\D)", "8.25"),
    ("a word of a printed line", "text", r"[a-z]{4}", "ever"),
    ("a number in a table", "text/html", r">\s*\d[\d.,]*", ">77"),
    ("a sentence that code writes", "text/markdown", r"\d", "77"),
    ("a picture", "image/png", r"^.{80}", lambda found: found[0][::-1]),
]


@pytest.mark.parametrize(("what", "mime", "old", "new"), OUTPUTS, ids=[what for what, *_ in OUTPUTS])
def test_a_stored_output_that_no_run_made_is_found(what, mime, old, new):
    tried = 0
    for path in PATHS:
        nb = copy.deepcopy(original(path))
        if any(edited(cell, mime, old, new) for cell in nb.cells):
            assert set(stamps.problems(path.stem, nb)) - known(path), path.stem
            tried += 1
    assert tried >= 3


def test_a_picture_in_the_place_of_another_and_its_words_are_found():
    for path in PATHS:
        nb = copy.deepcopy(original(path))
        drawn = [
            cell
            for cell in notebook.code_cells(nb)
            if any("image/png" in o.get("data", {}) for o in cell.outputs)
        ]
        if len(drawn) > 1:
            drawn[0].outputs = copy.deepcopy(drawn[1].outputs)
            assert any("shows what no run made" in line for line in stamps.problems(path.stem, nb))
        for cell in drawn[:1]:
            for kind, name in (("image", "alt"), ("figure", "caption")):
                nb = copy.deepcopy(original(path))
                one = next(other for other in nb.cells if other.id == cell.id)
                if kind in one.metadata.get("mystnb", {}):
                    one.metadata["mystnb"][kind][name] += " It is blue."
                    assert set(stamps.problems(path.stem, nb)) - known(path), (path.stem, name)


def listed(list_of: Path) -> Iterator[tuple[Path, str]]:
    """Yield the exempt sentences of chapters."""
    stems = {path.stem: path for path in PATHS}
    for stem, sentences in prose.exempt(list_of).items():
        yield from ((stems[stem], sentence) for sentence in sorted(sentences) if stem in stems)


def test_a_number_word_of_an_exempt_sentence_is_guarded():
    tried = 0
    for path, sentence in listed(prose.EXEMPT):
        start = r"\s+".join(map(re.escape, sentence.split()[:4]))
        for cell in cells(path, "markdown"):
            word = next((word for word in OTHER if re.search(rf"\b{word}\b", sentence)), None)
            place = re.search(rf"{start}(?s:.*?)\b{word}\b", cell.source)
            if word and place:
                wrong = place[0].removesuffix(word) + OTHER[word]
                assert is_found(path, put(cell.id, place[0], wrong)), sentence
                tried += 1
    assert tried


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_judgment_of_an_exempt_sentence_is_guarded(path):
    for cell in claims.texts(original(path)):
        for sentence in claims.judging(cell):
            place = re.search(r"\s+".join(map(re.escape, sentence.split())), cell.source)
            if place and TURNED.search(sentence) and not claims.backing(cell, sentence):
                wrong = TURNED.sub(lambda found: OPPOSITE[found[0]], place[0])
                nb = with_source(path, cell.id, cell.source.replace(place[0], wrong, 1))
                assert set(claims.has_backed_claims(path, nb)) - known(path), sentence


IN_CHAPTERS = [
    ("the minutes of a card", r"(?m)^(\| `laptop` \| [^|]*?)(?:\d+|[a-z]+)( minutes?)", r"\g<1>ninety\g<2>"),
    ("the chapter of a link", r"\[chapter \d\](?=\(\d\d_)", "[chapter 42]"),
    ("a link that is torn", r"\]\(0", "] (0"),
    ("a typed number of a formula", r"\{eq\}`eq-[\w-]+`", "equation (1.9)"),
    ("a formula of another chapter", r"\{eq\}`eq-\d\d-[\w-]+`", "{eq}`eq-77-loss`"),
    ("a percentage from nowhere", r"\.\n\n(?=[A-Z])", ". It gains 7.3 % more.\n\n"),
    ("a number word from nowhere", r"\.\n\n(?=[A-Z])", ". It takes a tenth of the time.\n\n"),
    ("a judgment from nowhere", r"\.\n\n(?=[A-Z])", ". This is by far the best.\n\n"),
    ("a quiz that is gone", r"## Quiz\n", "## Questions\n"),
    ("an exercise without its name", r":label: ex-", ":label: exercise-"),
]


@pytest.mark.parametrize(("what", "old", "new"), IN_CHAPTERS, ids=[what for what, *_ in IN_CHAPTERS])
def test_a_wrong_statement_in_a_chapter_is_found(what, old, new):
    tried = 0
    for path in PATHS:
        cell = next((cell for cell in cells(path, "markdown") if re.search(old, cell.source)), None)
        if cell is not None:
            assert is_found(path, put(cell.id, cell.source, re.sub(old, new, cell.source, count=1))), (
                path.stem
            )
            tried += 1
    assert tried >= 2


IN_STAMPS = [("torch", "2.99.0"), ("device", "a supercomputer"), ("profile", "gpu"), ("data", "other images")]


@pytest.mark.parametrize(("key", "value"), IN_STAMPS)
def test_a_stamp_that_tells_another_run_is_found(key, value):
    assert all(is_found(path, lambda nb: nb.metadata["bigmodel"].update({key: value})) for path in PATHS)


ON_PAGES = [
    ("README.md", "Python 3.11 or newer", "Python 3.9 or newer"),
    ("README.md", "\n\n", "\n\nIt is three times as fast.\n\n"),
    ("book/faq.md", "\n\n", "\n\nIt needs torch 2.9 or newer.\n\n"),
    ("book/outlook.md", "27 million card hours", "72 million card hours"),
    ("book/outlook.md", "1.35 times", "1.53 times"),
    ("book/outlook.md", "less than three hours", "less than ten hours"),
    ("book/setup.md", "\n\n", "\n\nSee the [notes] (https://example.org).\n\n"),
    ("book/outlook.md", "[chapter 1](", "[chapter 3]("),
]


@pytest.mark.parametrize(("name", "old", "new"), ON_PAGES)
def test_a_wrong_statement_on_a_page_is_found(name, old, new, monkeypatch):
    pages = crosschecks.pages()
    assert old in pages[name]
    wrong = pages[name].replace(old, new, 1)
    found = [told for check in crosschecks.CHECKS for told in check(name, wrong)]
    if numbers := page_numbers.bound().get(name):
        found += ["another number"] if page_numbers.anew(wrong, numbers) != wrong else []
    assert found


def test_a_wrong_year_in_the_bibliography_is_found():
    text = (notebook.ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    assert crosschecks.years(text) == []
    assert crosschecks.years(re.sub(r"(?m)^  year = \{20", "  year = {19", text, count=1))


def test_literals_are_no_evidence():
    assert witness.is_literal(ast.parse("(1, -2)", mode="eval").body)
    assert not witness.is_literal(ast.parse("a", mode="eval").body)
