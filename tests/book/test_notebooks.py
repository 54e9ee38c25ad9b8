"""Every chapter notebook keeps the rules of the book, and every rule is one that can be broken."""

import copy
import json
from pathlib import Path

import pytest
from nbformat import NotebookNode
from tiny_notebook import (
    PIXEL,
    ROOT,
    code,
    exercise,
    good_notebook,
    movable,
    save,
    save_answers,
    shown,
    stream,
    text,
)

from tools.notebooks import answers, content, prose, rules
from tools.notebooks import notebook as nb_tools

RULES = {rule.__name__: rule for rule in rules.RULES}
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def small_answers(tmp_path, monkeypatch):
    """The small notebook bears the name of chapter 4, but has answers of its own."""
    save_answers(tmp_path)
    monkeypatch.setattr(answers, "FOLDER", tmp_path)


def test_there_is_a_chapter():
    assert CHAPTERS


@pytest.mark.parametrize("rule", RULES)
def test_every_chapter_keeps_the_rule(rule):
    broken = {path.stem: RULES[rule](path, nb_tools.read(path)) for path in CHAPTERS}
    assert [f"{stem}: {problem}" for stem, problems in broken.items() for problem in problems] == []


@pytest.mark.usefixtures("small_answers")
@pytest.mark.parametrize("rule", RULES)
def test_good_notebook_keeps_the_rule(tmp_path, rule):
    path = save(good_notebook(), tmp_path)
    assert RULES[rule](path, nb_tools.read(path)) == []


def cell(nb: NotebookNode, cell_id: str) -> NotebookNode:
    return next(cell for cell in nb.cells if cell.id == cell_id)


def edit(cell_id: str, old: str, new: str):
    """Return a change: `old` becomes `new` in a cell."""

    def change(nb: NotebookNode) -> None:
        assert old in cell(nb, cell_id).source
        cell(nb, cell_id).source = cell(nb, cell_id).source.replace(old, new)

    return change


def add(*cells: NotebookNode, at: int = 6):
    """Return a change: new cells appear."""

    def change(nb: NotebookNode) -> None:
        nb.cells[at:at] = copy.deepcopy(cells)

    return change


def drop(*cell_ids: str):
    """Return a change: cells disappear."""

    def change(nb: NotebookNode) -> None:
        nb.cells = [cell for cell in nb.cells if cell.id not in cell_ids]

    return change


def output(cell_id: str, *outputs: NotebookNode):
    """Return a change: a cell stores other outputs."""
    return lambda nb: cell(nb, cell_id).update(outputs=list(outputs))


def meta(cell_id: str, **metadata: object):
    """Return a change: a cell has other metadata."""
    return lambda nb: cell(nb, cell_id).metadata.update(metadata)


def stamp(**entries: object):
    """Return a change: the stamp says something else."""
    return lambda nb: nb.metadata["bigmodel"].update(entries)


ERROR = NotebookNode(output_type="error", ename="ValueError", evalue="", traceback=[])
IMAGE = shown(**{"image/png": PIXEL})
NAMED = {"image": {"alt": "An empty square with two axes"}, "figure": {"name": "fig-05-square"}}
HEAVY = movable("one", "two") + 1_600_000 * " "
WORDS = ', "one and one is another number"'
BREACHES = [
    ("file_is_tidy", "larger than 3 MB", output("sum", stream("x" * 3_000_000))),
    ("file_is_tidy", "execution metadata", meta("sum", papermill={"duration": 1})),
    ("file_is_tidy", "execution metadata", lambda nb: nb.metadata.update(papermill={})),
    ("file_is_tidy", "injected parameters", add(code("profile_name = 'gpu'", "in", "injected-parameters"))),
    ("file_is_tidy", "not 1, 2, 3", lambda nb: cell(nb, "sum").update(execution_count=9)),
    ("is_in_the_book", "kernel python3", lambda nb: nb.metadata.kernelspec.update(name="my-env")),
    ("opens_with_title_and_card", "begin with a title", edit("title", "# ", "## ")),
    ("opens_with_title_and_card", "begin with a title", drop("title")),
    ("opens_with_title_and_card", "has 2 titles", add(text("# Again", "again"))),
    ("opens_with_title_and_card", "has no card", drop("card")),
    ("opens_with_title_and_card", "does not say prerequisites", edit("card", "Prerequisites", "Before")),
    ("opens_with_title_and_card", "does not say memory", edit("card", "memory", "space")),
    ("has_a_card_that_fits_the_stamp", "without a row `| `laptop`", edit("card", "`laptop`", "laptop")),
    ("has_a_card_that_fits_the_stamp", "its run took 1 min", edit("card", "2 minutes", "six minutes")),
    ("has_a_card_that_fits_the_stamp", "its run took 1 min", edit("card", "a minute, 2 minutes", "sunny")),
    ("has_a_card_that_fits_the_stamp", "its run took 3 min", stamp(duration_s=121)),
    ("obeys_the_profile", "tagged parameters", meta("knob", tags=[])),
    ("obeys_the_profile", "tagged parameters", edit("knob", "None", "'laptop'")),
    ("obeys_the_profile", "ignores the profile", edit("profile", "(profile_name)", "()")),
    ("obeys_the_profile", "never scales", edit("profile", "profile.pick(", "dict(")),
    ("has_exercises_with_solutions", "has 2 exercises", drop(*(c.id for c in exercise("a")))),
    ("has_exercises_with_solutions", "has 4 exercise texts but 3", add(exercise("d")[0])),
    (
        "has_exercises_with_solutions",
        "must define a stub",
        edit("stub-a", "assert add_a(1) == 2", "add_a(1)"),
    ),
    ("has_exercises_with_solutions", "must define a stub", edit("stub-a", "def add_a", "def check_more")),
    ("has_exercises_with_solutions", ":label: ex-04-add-a`", edit("text-a", "ex-04-add-a", "ex-add-a")),
    ("has_exercises_with_solutions", "fold its solution", edit("start-a", ":class: dropdown", "")),
    ("has_exercises_with_solutions", "fold its solution", edit("start-a", "ex-04-add-a", "ex-04-add-b")),
    ("has_exercises_with_solutions", "fold its solution", drop("end-a")),
    ("has_exercises_with_solutions", "code tagged solution", meta("solution-a", tags=[])),
    ("has_exercises_with_solutions", "end with check_add_a()", edit("solution-a", "\ncheck_add_a()", "")),
    ("has_exercises_with_solutions", "must redefine add_a", edit("solution-a", "def add_a", "def other")),
    (
        "has_checks_that_answer",
        "has an assert without words",
        edit("stub-a", WORDS, ""),
    ),
    ("has_a_quiz", "needs one markdown cell", drop("quiz")),
    ("has_a_quiz", "needs one markdown cell", edit("quiz", "## Quiz", "## Questions")),
    (
        "has_a_quiz",
        "needs one markdown cell",
        edit("quiz", "```{bigmodel-quiz}", "More.\n\n```{bigmodel-quiz}"),
    ),
    ("has_a_quiz", "needs one markdown cell", add(text("## Quiz\n\n```{bigmodel-quiz}\n```", "quiz-again"))),
    ("has_a_quiz", "right before `## What you now know`", add(text("More.", "more"), at=-3)),
    ("has_a_quiz", "sends to section 'What you now know', which", edit("summary", "What you now", "What we")),
    ("closes_with_summary_and_provenance", "What you now know", drop("summary")),
    (
        "closes_with_summary_and_provenance",
        "not 1 to 5 lines",
        edit("summary", "It has a test.", "1\n2\n3\n4\n5"),
    ),
    ("closes_with_summary_and_provenance", "Where to go deeper", drop("deeper")),
    ("closes_with_summary_and_provenance", "runtime.provenance", drop("provenance")),
    ("closes_with_summary_and_provenance", "alone", add(code("provenance(1)", "more"), at=-1)),
    ("has_short_modern_code", "has 26 lines", edit("sum", "print(2 + 2)", "\n".join(["1"] * 26))),
    ("has_short_modern_code", "semicolon", edit("figure", "plt.show()", "plt.plot();")),
    ("has_short_modern_code", "unknown tags", meta("sum", tags=["nbval-check-outputs"])),
    ("has_short_modern_code", "pip install", meta("sum", tags=["nbval-skip"])),
    ("has_short_modern_code", "pip install", meta("sum", tags=["nbval-skip", "skip-execution"])),
    ("has_short_modern_code", "pip install", add(code("%pip install x", "install", "skip-execution"))),
    ("has_short_modern_code", "comment for nbval", edit("sum", "print", "# NBVAL_IGNORE_OUTPUT\nprint")),
    ("has_short_modern_code", "torch.cuda.amp", edit("sum", "print(2 + 2)", "torch.cuda.amp.GradScaler()")),
    ("has_clean_outputs", "stores an error", output("sum", ERROR)),
    ("has_clean_outputs", "stores stderr", output("sum", stream("4\n"), stream("warning\n", "stderr"))),
    ("has_clean_outputs", "absolute path", output("sum", stream("4 in /home/me/x\n"))),
    ("has_clean_outputs", "absolute path", edit("sum", "2 + 2", "open('/home/me/x')")),
    ("has_clean_outputs", "absolute path", edit("prose", "pixels", "pixels in `C:\\Users\\me`")),
    ("has_clean_outputs", "no cell tagged nbval-check-output", meta("sum", tags=[])),
    ("has_clean_outputs", "stores no text", output("sum")),
    ("has_described_figures", "without a description", meta("figure", mystnb={})),
    ("has_described_figures", "without a description", meta("figure", mystnb={"image": {"alt": "short"}})),
    (
        "has_described_figures",
        "without a description",
        meta("figure", mystnb={"image": {"alt": "images/" * 5 + "a.png"}}),
    ),
    ("has_described_figures", "end with plt.show()", edit("figure", "plt.show()", "plt.plot()")),
    ("has_described_figures", "must draw one figure", output("figure", IMAGE, IMAGE)),
    ("has_described_figures", "fig-04-...", meta("figure", mystnb=NAMED)),
    ("has_described_figures", "not unique", meta("sum", mystnb={"figure": {"name": "fig-04-square"}})),
    ("has_described_figures", "without alternative text", edit("prose", "Accuracy", "![](a.png) Accuracy")),
    ("has_a_movable_figure", "has no figure that the reader can move", output("movable")),
    (
        "has_a_movable_figure",
        "1.6 MB",
        output("movable", shown(**{"text/html": movable("a", "b") + 1_600_000 * " "})),
    ),
    ("has_a_movable_figure", "without caption", meta("movable", mystnb={"figure": {"name": "fig-04-dot"}})),
    (
        "has_a_movable_figure",
        "all frames alike",
        output("movable", shown(**{"text/html": movable("a", "a")})),
    ),
    ("draws_in_one_style", "9.5 inches wide", edit("figure", "plt.show()", "plt.subplots(figsize=(9.5, 3))")),
    ("draws_in_one_style", "places a legend", edit("figure", "plt.show()", "ax.legend(loc='best')")),
    ("draws_in_one_style", "pass label= to axhline", edit("figure", "plt.show()", "ax.axhline(95, lw=1)")),
    ("draws_in_one_style", "needs the tag pixels", edit("figure", "plt.show()", "ax.imshow(x)\nplt.show()")),
    ("draws_in_one_style", "must not have the tag pixels", meta("figure", tags=["pixels"])),
    ("draws_in_one_style", "must not have the tag pixels", meta("movable", tags=["pixels"])),
    ("has_no_measured_number_in_prose", "has 5 % in", edit("prose", " {cite}`someone`", "")),
    ("has_no_measured_number_in_prose", "has 3 s in", edit("text-a", "Write", "In 3 s, write")),
    ("has_no_measured_number_in_prose", "has twice in", edit("text-a", "Write", "If asked twice, write")),
    (
        "has_bound_numbers_as_measured",
        "no run measured",
        meta("prose", bigmodel={"numbers": [{"phrase": "by {} %", "value": "x", "format": ".0f"}]}),
    ),
    ("has_claims_that_hold", "its last run tells nothing", edit("sum", "print(2 + 2)", "assert steps > 1")),
    ("has_backed_claims", "claims 'Adding is best.'", edit("text-a", "Write", "Adding is best. Write")),
    ("is_stamped", "has no stamp", lambda nb: nb.metadata.pop("bigmodel")),
    ("is_stamped", "stamp without device", stamp(device="")),
    ("is_stamped", "is stale", edit("sum", "2 + 2", "3 + 1")),
    ("is_stamped", "shows no provenance", output("provenance")),
    ("is_stamped", "differs from the provenance", stamp(torch="2.11.0")),
    ("is_stamped", "smoke run", stamp(profile="smoke")),
]


@pytest.mark.usefixtures("small_answers")
@pytest.mark.parametrize(("rule", "complaint", "change"), BREACHES)
def test_breach_is_found(tmp_path, rule, complaint, change):
    nb = good_notebook()
    change(nb)
    path = save(nb, tmp_path)
    problems = RULES[rule](path, nb_tools.read(path))
    assert any(complaint in problem for problem in problems), problems


def test_no_rule_is_without_a_breach():
    assert {rule for rule, _, _ in BREACHES} == set(RULES)


def test_notebook_outside_the_book_is_found(tmp_path):
    path = save(good_notebook(), tmp_path, "Chapter-99")
    problems = RULES["is_in_the_book"](path, nb_tools.read(path))
    assert [problem.split(":")[0] for problem in problems] == [
        "is not in _toc.yml",
        "is not called NN_topic.ipynb",
    ]


@pytest.mark.parametrize("ids", [("same", "same"), ("one", None)])
@pytest.mark.filterwarnings("ignore::nbformat.warnings.MissingIDFieldWarning")
@pytest.mark.filterwarnings("ignore::nbformat.warnings.DuplicateCellId")
def test_missing_and_double_cell_ids_are_found(tmp_path, ids):
    path = save(good_notebook(), tmp_path)
    raw = json.loads(path.read_text(encoding="utf-8"))
    for raw_cell, cell_id in zip(raw["cells"], ids, strict=False):
        raw_cell["id"] = cell_id
        if cell_id is None:
            del raw_cell["id"]
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert any("cells without an id" in p for p in RULES["file_is_tidy"](path, good_notebook()))


def test_other_layout_of_the_same_notebook_is_found(tmp_path):
    path = save(good_notebook(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    assert any("is not laid out" in p for p in RULES["file_is_tidy"](path, nb_tools.read(path)))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("scaler = torch.cuda.amp.GradScaler()", "torch.cuda.amp"),
        ("from torch.cuda.amp import autocast", "torch.cuda.amp"),
        ("from torch.cuda import amp", "torch.cuda.amp"),
        ("import torch.cuda.amp as amp", "torch.cuda.amp"),
        ("model = nn.DataParallel(model)", "nn.DataParallel"),
        ("from torch.nn import DataParallel", "nn.DataParallel"),
        ("torch.load('a.pt')", "torch.load"),
        ("torch.load('a.pt', weights_only=False)", "torch.load"),
        ("resnet18(pretrained=True)", "pretrained="),
        ("%pip install x\ntorch.load('a.pt')", "torch.load"),
        ("torch.load('a.pt', weights_only=True)", ""),
        ("torch.amp.autocast('cuda')", ""),
        ("DistributedDataParallel(model)", ""),
        ("print('torch.cuda.amp')  # nn.DataParallel(model), pretrained=True", ""),
    ],
)
def test_deprecated_apis_are_told_from_good_ones(source, found):
    assert [found in name for name in content.deprecated(source)] == ([True] if found else [])


def test_check_may_use_the_asserts_of_a_library(tmp_path):
    nb = good_notebook()
    edit("stub-a", "assert add_a(1) == 2", "torch.testing.assert_close(add_a(1), 2)")(nb)
    assert RULES["has_exercises_with_solutions"](Path("04_x.ipynb"), nb) == []


def test_cell_about_a_deprecated_api_may_show_it(tmp_path):
    nb = good_notebook()
    add(code("torch.cuda.amp.GradScaler()", "old", "shows-deprecated"))(nb)
    assert RULES["has_short_modern_code"](Path("04_x.ipynb"), nb) == []


@pytest.mark.parametrize(
    ("sentence", "numbers"),
    [
        ("It reaches 93.5 % in 3 minutes.", ["93.5 %", "3 minutes"]),
        ("It is 4x faster, or 4×, or 4 times.", ["4x", "4×", "4 times"]),
        ("At 1,200 images/s it takes 12s or 7 ms and 2 GB.", ["1,200 images/s", "12s", "7 ms", "2 GB"]),
        (
            "That is 27 million card hours, or 19 GWh, in 54 days.",
            ["27 million card hours", "19 GWh", "54 days"],
        ),
        ("```{note}\nIt took 3 s.\n```", ["3 s"]),
        (":::{tip}\nIt took 3 s.\n:::", ["3 s"]),
        ("About $93$ of the images.", []),
        ("Derived above: 184 MB of pixels.", []),
        ("We assume 50 ms per image.", []),
        ("Others report 93 % {cite:p}`someone2020`.", []),
        ("A 3 × 3 or 32x32 or 3 x 3 kernel, in the 1990s, torch 2.15, ResNet-18, chapter 4.", []),
        ("$$\nt = 3 s\n$$\nand `3 s` and $5 \\%$.", []),
        ("```python\nsleep(3)  # 3 s\n```\n````{code-block} text\n3 s\n````", []),
        ("See [here](https://example.org/3%20s).", []),
        ("Shape (B, 3, H, W), unfold it; the third way, a third matrix, double precision.", []),
        ("Derived: 3 s.\n\nMeasured: 4 s.", ["4 s"]),
        ("It is 3 s (derived). It took 4 s.", ["4 s"]),
        ("- assumed: 3 s\n- measured: 4 s", ["4 s"]),
        ("It took 4 s.\nThat is derived from {eq}`a`.", ["4 s"]),
        ("Twice as fast, at half the cost, a quarter of it.", ["Twice", "half", "a quarter"]),
        ("Ten times the speed, tenfold, one third less.", ["Ten times", "tenfold", "one third"]),
        ("It doubles; two fifths stay, ninety percent.", ["doubles", "fifths", "ninety percent"]),
    ],
)
def test_measured_numbers_are_told_from_others(sentence, numbers):
    assert [number for _, found in prose.unsourced(sentence) for number in found] == numbers


@pytest.mark.usefixtures("small_answers")
def test_command_line_prints_breaches_and_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(nb_tools, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["rules.py"])
    nb = good_notebook()
    save(nb, tmp_path)
    assert rules.main() == 0
    stamp(profile="smoke")(nb)
    save(nb, tmp_path)
    assert rules.main() == 1
    assert "04_cifar_training: holds the outputs of a smoke run" in capsys.readouterr().out
