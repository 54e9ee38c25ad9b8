"""The quizzes: the rules for their questions, the page that shows them, and the notebook edition."""

from pathlib import Path
from typing import Any

import bigmodel_quiz
import pytest
import yaml
from bs4 import BeautifulSoup
from rooms import ROOT
from sphinx.errors import ExtensionError
from tiny_notebook import good_notebook, question, save, save_quiz

from tools.notebooks import notebook, quizzes

FOLDER = ROOT / "notebooks" / "quizzes"
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
QUIZZES = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.yml")}

# ------------------------------------------------------------------------------------- the questions


def test_each_chapter_has_a_quiz_and_no_quiz_is_without_a_chapter() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir()) == CHAPTERS == sorted(QUIZZES)


def test_the_length_of_a_choice_does_not_give_it_away() -> None:
    places = []
    for one in [one for questions in QUIZZES.values() for one in questions]:
        lengths = [len(choice["text"]) for choice in one["choices"]]
        (right,) = [len(choice["text"]) for choice in one["choices"] if choice.get("right")]
        places.append((right == max(lengths), right == min(lengths)))
    longest, shortest = (sum(flags) / len(places) for flags in zip(*places, strict=True))
    assert longest <= 0.5
    assert shortest <= 0.5


def three(**changes: Any) -> list[dict[str, Any]]:
    """Return a good quiz whose second question is changed."""
    return [question(0), question(1) | changes, question(2)]


def choices(letter: str, **changes: Any) -> list[dict[str, Any]]:
    """Return the choices of `question(1)`, one of them changed; None takes a key away."""
    made = question(1)["choices"]
    changed = made["ABC".index(letter)] | changes
    made["ABC".index(letter)] = {key: value for key, value in changed.items() if value is not None}
    return made


FOUR = [*question(1)["choices"], {"text": "The fourth.", "why": "It is not."}]
FAULTS = [
    ("must be a list of 3 to 5", None),
    ("must be a list of 3 to 5", {"question": "Why?"}),
    ("must be a list of 3 to 5", [question(0), question(1)]),
    ("must be a list of 3 to 5", [question(i % 3) for i in range(6)]),
    ("question 2 must have question, see and choices", [question(0), "Why?", question(2)]),
    ("question 2 must have question, see and choices", three(hint="No.")),
    ("question 2 has no text under question or see", three(question=2)),
    ("question 2 has no text under question or see", three(see=" ")),
    ("question 2 must have 3 or 4 choices", three(choices=question(1)["choices"][:2])),
    ("question 2 must have 3 or 4 choices", three(choices=[*FOUR, FOUR[0]])),
    ("question 2 must have 3 or 4 choices", three(choices="one, two, three")),
    ("question 2 must have text and why in choice A", three(choices=choices("A", why=None))),
    ("question 2 must have text and why in choice B", three(choices=choices("B", reason="So."))),
    ("question 2 must have text and why in choice B", three(choices=[FOUR[0], "b", FOUR[1]])),
    ("question 2 has no text under text or why of choice C", three(choices=choices("C", text=11))),
    ("question 2 has no text under text or why of choice C", three(choices=choices("C", why=""))),
    ("question 2 must say true or false under right of choice C", three(choices=choices("C", right="no"))),
    ("question 2 must have exactly one choice with right", three(choices=choices("A", right=True))),
    ("question 2 must have exactly one choice with right", three(choices=choices("B", right=False))),
    ("always in the same place", [question(1), question(1), question(1)]),
    ("question 2 sends to section 'Gone', which", three(see='section "Gone"')),
    ("question 2 must name a section under see", three(see="{numref}`fig-04-square`")),
    ("question 2 has two equal choices", three(choices=choices("A", text="The second. "))),
    ("question 2 has a see, choice or why of several lines", three(choices=choices("A", why="So.\n\nYes."))),
    ("question 2 has a see, choice or why of several lines", three(choices=choices("A", text="x\ny"))),
    ("question 2 has a see, choice or why of several lines", three(see='section "What you now know"\nor')),
    ("question 2 has an open fence", three(question="Why?\n\n```python\nx = 1")),
    ("question 2 has an open fence", three(question="Why?\n\n~~~\nx = 1")),
    ("question 2 has an open fence", three(question="# Why?")),
    ("question 2 has an open fence", three(choices=choices("A", why="::::"))),
    ("question 2 has an open fence", three(choices=choices("A", why="</details>"))),
    ("question 2 has an open fence", three(choices=choices("A", text="<b>One</b>."))),
    ("question 2 has a link in a choice", three(choices=choices("A", text="[Here](a.md)."))),
    ("question 2 has a link in a choice", three(choices=choices("A", text="By {eq}`eq-04-loss`."))),
    ("question 2 has a link in a choice", three(choices=choices("A", text="<https://example.org>"))),
    ("question 2 has the measured number '93 %'", three(choices=choices("A", why="It was 93 %."))),
    ("question 2 has the measured number '3 times'", three(question="Why is it 3 times as fast?")),
]


def problems_of(folder: Path, questions: Any) -> list[str]:
    """Return what the rule finds in a good notebook with these questions."""
    nb = good_notebook()
    path = save(nb, folder)
    save_quiz(folder, questions)
    return quizzes.has_a_quiz(path, nb)


@pytest.mark.parametrize(("complaint", "questions"), FAULTS)
def test_a_fault_is_found(tmp_path: Path, complaint: str, questions: Any) -> None:
    (problem,) = problems_of(tmp_path, questions)
    assert problem.startswith("quizzes/04_cifar_training.yml: ")
    assert complaint in problem


def test_assumed_numbers_code_formulas_and_four_choices_are_allowed(tmp_path: Path) -> None:
    code = "Assume 80 GB. What then?\n\n```python\nsleep(3)  # 3 s\n```"
    assert problems_of(tmp_path, three(question=code, choices=FOUR)) == []
    made = choices(
        "A",
        text="It is $a<b$, or `x<y>`.",
        why="See <https://example.org> and `# x`: {x} of 90%, as assumed.",
    )
    assert problems_of(tmp_path, three(question="Assume it.", choices=made)) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "no such file: write 3 to 5 questions there"),
        (b"- question: Why: so?\n", "line 1: mapping values are not allowed here: quote a text"),
        (b"- question: Why?\n  see: `x`\n", "line 2: found character '`' that cannot start any token: quote"),
        (b"- text: one\n  text: two\n", "line 1: a key stands there twice: "),
        (b"- !!python/object:os.system x\n", "line 1: could not determine a constructor for the tag"),
        (b"- \xff\xfe\n", "not in UTF-8: save it anew"),
        (b"", "must be a list of 3 to 5 questions"),
    ],
)
def test_a_file_that_is_no_quiz_is_named(tmp_path: Path, text: bytes | None, complaint: str) -> None:
    nb = good_notebook()
    path = save(nb, tmp_path)
    quizzes.file_of(path).unlink()
    if text is not None:
        quizzes.file_of(path).write_bytes(text)
    (problem,) = quizzes.has_a_quiz(path, nb)
    assert problem.startswith(f"quizzes/04_cifar_training.yml: {complaint}")
    assert "\n" not in problem
    with pytest.raises(ValueError, match=r"quizzes/04_cifar_training\.yml: "):
        quizzes.as_markdown(path)
    with pytest.raises(ExtensionError, match=r"04_cifar_training\.yml: no quiz \(\w+\): make quick says"):
        bigmodel_quiz.quiz_markdown(quizzes.file_of(path))


# ----------------------------------------------------------------------------- edition and page


def test_edition_folds_the_answers(tmp_path: Path) -> None:
    code = "What is $x$?\n\n```python\nx = 1\n```"
    save_quiz(tmp_path, [question(0) | {"question": code}, question(1), question(2)])
    parts = quizzes.as_markdown(tmp_path / "04_cifar_training.ipynb").split("**Question ")
    assert len(parts) == 4
    shown, folded = parts[1].split("<details>\n<summary>Answer to question 1</summary>\n\n")
    assert shown.startswith(
        f"1.** {code}\n\n- **A.** The first.\n- **B.** The second.\n- **C.** The third.\n"
    )
    assert folded.startswith("- **A is right.** Why it is first.\n- **B is wrong.** Why it is second.\n")
    assert folded.endswith('\n\nSee section "What you now know".\n\n</details>\n\n')


@pytest.mark.parametrize("name", CHAPTERS)
def test_edition_holds_every_word_of_the_chapters_quiz(name: str) -> None:
    shown = quizzes.as_markdown(ROOT / "notebooks" / f"{name}.ipynb")
    for one in QUIZZES[name]:
        texts = [one["question"], one["see"], *(c[key] for c in one["choices"] for key in ("text", "why"))]
        assert all(text.strip() in shown for text in texts)
    assert "{bigmodel-quiz}" not in shown
    assert shown.count("<details>") == shown.count("</details>") == len(QUIZZES[name])


@pytest.mark.parametrize("name", CHAPTERS)
def test_page_shows_each_question_with_choices_that_open(built_book: Path, name: str) -> None:
    html = (built_book / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
    section = BeautifulSoup(html[html.index('<section id="quiz">') :], "html.parser").section
    groups = section.find_all("div", role="group")
    assert len(groups) == len(QUIZZES[name])
    for group, one in zip(groups, QUIZZES[name], strict=True):
        assert group.find(id=group["aria-labelledby"]).text.startswith("Question ")
        opened = group.find_all("details")
        assert [part.has_attr("open") for part in opened] == [False] * len(one["choices"])
        assert len({part["name"] for part in opened}) == 1  # so one choice at a time is open
        for part, choice in zip(opened, one["choices"], strict=True):
            verdict, *_ = part.find(class_="sd-summary-content").text.split()
            assert verdict == ("Right." if choice.get("right") else "Wrong.")
            assert not part.summary.find("a")
            assert part.select('.sd-summary-content a[href^="#"]')
    assert len({part["name"] for part in section.find_all("details")}) == len(groups)


def test_section_titles_become_links() -> None:
    linked = bigmodel_quiz.with_links('section "With `torch.func`" and section "B"')
    assert linked == "{section-link}`With torch.func` and {section-link}`B`"


def test_the_notebooks_hold_the_directive_only() -> None:
    for name in CHAPTERS:
        cells = notebook.read(ROOT / "notebooks" / f"{name}.ipynb").cells
        assert [cell.id for cell in cells if "bigmodel-quiz" in cell.source] == ["quiz"]
