"""Checks that answer in words: the rule, and the answers that are tried in the kernel."""

import pytest
from tiny_notebook import code, text

from bigmodel_helpers.exercises import NotYetError
from tools.notebooks import answers, check, exercises, notebook

STUB = """\
def double(x):
    raise NotImplementedError("your turn")


@exercises.check("twice is twice", hint="Try 3.")
def check_double():
    assert double(3) == 6, "three is not doubled" """
TABLES = """\
[[double]]
right = "double = lambda x: x + x"

[[double]]
wrong = "double = lambda x: x + 2"
hint = "not doubled"

[[double]]
wrong = "double = 7"
hint = "stops with TypeError|cannot be used"
"""


def chapter(stub=STUB, question="Write it.", answer=""):
    nb = notebook.nbformat.v4.new_notebook()
    nb.cells = [
        text(f"````{{exercise}} Twice\n:label: ex-01-double\n\n{question}\n````", "text"),
        code(stub, "stub", "exercise"),
        text("```{solution-start} ex-01-double\n:class: dropdown\n```", "start"),
        code("def double(x):\n    return 2 * x\n\n\ncheck_double()", "solution", "solution"),
        text(f"{answer}```{{solution-end}}\n```", "end"),
    ]
    return nb


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "FOLDER", tmp_path)
    (tmp_path / "01_chapter.toml").write_text(TABLES, encoding="utf-8")
    return tmp_path


def problems(nb, stem="01_chapter"):
    return exercises.has_checks_that_answer(notebook.FOLDER / f"{stem}.ipynb", nb)


def test_a_check_that_answers_keeps_the_rule(folder):
    assert problems(chapter()) == []
    assert problems(chapter(question="Why?", answer="Because.\n\n")) == []


def test_a_check_that_does_not_is_named(folder):
    (breach,) = problems(chapter(STUB.replace('@exercises.check("twice is twice", hint="Try 3.")\n', "")))
    assert breach.startswith("check_double needs the decorator")
    (breach,) = problems(chapter(STUB.replace(', "three is not doubled"', "")))
    assert breach.startswith("check_double has an assert without words")
    (breach,) = problems(chapter(STUB + "\n    torch.testing.assert_close(1, 1)"))
    assert breach.startswith("check_double uses assert_close")
    (breach,) = problems(chapter(question="Why?"))
    assert breach == "exercise cell stub asks a question: answer it in words in the solution"


def test_answers_must_be_there_and_fit(folder):
    path = folder / "01_chapter.toml"
    path.write_text('[[double]]\nright = "1"\n[[half]]\nright = "1"\n', encoding="utf-8")
    few, unknown = problems(chapter())
    assert few.startswith("check_double is tried with 1 right and 0 wrong answers")
    assert unknown == "tests/answers has half, which is no exercise"
    path.write_text('[[double]]\nwrong = "1"\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"double has a table of \['wrong'\]: right, or wrong and hint"):
        problems(chapter())


def run(tables):
    """Run the checking copy's cells but for the first, as the kernel would."""
    space = {}
    exec("from bigmodel_helpers import exercises", space)
    for cell in check.checking_copy(chapter(), tables).cells[1:]:
        if cell.cell_type == "code":
            exec(compile(cell.source, cell.id, "exec"), space)
    return space


def test_the_answers_are_tried_in_the_kernel(folder):
    space = run(answers.read("01_chapter"))
    assert space["double"](4) == 8  # the solution came after them


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (("double = lambda x: 2 * x + 1", None), r"refuses a right answer \(three is not doubled"),
        (("double = lambda x: x + 2", "too large"), "says 'three is not doubled.*', not 'too large'"),
        (("double = lambda x: 2 * x", "too large"), "says 'correct', not 'too large'"),
    ],
)
def test_an_answer_that_is_told_something_else_fails(folder, answer, said):
    with pytest.raises(AssertionError, match=said) as caught:
        run({"double": [answer]})
    assert not isinstance(caught.value, NotYetError)


LAUNCHING = """
def launch(fn, *args, processes=2, timeout=600):
    launches.append(processes)
    return [fn(*args) for _ in range(processes)]

def check_sign():
    one, two, three = launch(lambda: sign(-3), processes=3)
    assert one == two == three == -1, "no minus"
"""


def test_answers_that_launch_ranks_share_one_launch():
    space = {"__name__": "__main__", "launches": []}
    exec(LAUNCHING, space)
    tried = [
        ("sign = lambda x: -1", None),
        ("sign = lambda x: x // 3", None),
        ("sign = lambda x: 1", "no minus"),
    ]
    exec(answers.trying("sign", tried), space)
    assert space["launches"] == [3]
    with pytest.raises(AssertionError, match="says 'correct', not 'no minus'"):
        exec(answers.trying("sign", [("sign = lambda x: -1", "no minus")]), space)
    with pytest.raises(AssertionError, match="refuses a right answer"):
        exec(answers.trying("sign", [*tried, ("sign = lambda x: 0", None)]), space)


def test_an_answer_whose_rank_fails_is_launched_alone():
    space = {"__name__": "__main__", "launches": []}
    exec(LAUNCHING, space)
    with pytest.raises(NameError):
        exec(answers.trying("sign", [("sign = lambda x: sgn(x)", "x")]), space)
    assert space["launches"] == [3, 3]
