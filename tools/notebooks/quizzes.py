"""The quiz of a chapter: its place, the rules for its questions, and the same questions for the notebook edition."""

import re
from pathlib import Path
from typing import Any

import yaml
from nbformat import NotebookNode

from tools.notebooks.prose import numbers_with_unit, sentences

CELL = re.compile(r"## Quiz\n\n```\{bigmodel-quiz\}\n```\n?")
SECTION = re.compile(r'section "([^"]+)"')
LINK = re.compile(r"\]\(|\}`|<")
ANSWER = (
    "<details>\n<summary>Answer to question {number}</summary>\n\n{reasons}\n\nSee {see}.\n\n</details>\n"
)


def file_of(path: Path) -> Path:
    """Return the file with the questions of the notebook at `path`."""
    return path.parent / "quizzes" / f"{path.stem}.yml"


def has_a_quiz(path: Path, nb: NotebookNode) -> list[str]:
    """One cell with the quiz right before the summary; 3 to 5 good questions in quizzes/NN_topic.yml."""
    cells = [cell.source if cell.cell_type == "markdown" else "" for cell in nb.cells]
    places = [i for i, source in enumerate(cells) if "{bigmodel-quiz}" in source]
    problems = []
    if len(places) != 1 or not re.match(CELL.pattern + r"\Z", cells[places[0]]):
        problems.append(
            "needs one markdown cell with `## Quiz` and the directive {bigmodel-quiz}, nothing else"
        )
    elif not "".join(cells[places[0] + 1 : places[0] + 2]).startswith("## What you now know\n"):
        problems.append("must have its quiz right before `## What you now know`")
    headings = {title for text in cells for title in re.findall(r"(?m)^#{2,3} (.+?) *$", sentences(text))}
    file = file_of(path)
    name = f"quizzes/{file.name}"
    if not file.is_file():
        return [*problems, f"lacks {name}: write 3 to 5 questions there"]
    try:
        questions = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        return [
            *problems,
            f"{name}: no YAML{line}: put a text with a colon, # or ` into quotes or below `>-`",
        ]
    return problems + [f"{name}: {problem}" for problem in quiz_problems(questions, headings)]


def quiz_problems(questions: Any, headings: set[str]) -> list[str]:
    """Say what is wrong with the questions of a chapter that has these headings."""
    if not isinstance(questions, list) or not 3 <= len(questions) <= 5:
        return ["must be a list of 3 to 5 questions"]
    problems = []
    for number, question in enumerate(questions, start=1):
        found = shape_problems(question) or content_problems(question, headings)
        problems += [f"question {number} {problem}" for problem in found]
    if not problems:
        places = {[choice.get("right", False) for choice in q["choices"]].index(True) for q in questions}
        if len(places) == 1:
            problems.append("has the right choice always in the same place: mix them")
    return problems


def is_text(value: object) -> bool:
    """Say whether `value` is a text with something in it."""
    return isinstance(value, str) and bool(value.strip())


def shape_problems(question: Any) -> list[str]:
    """Say which part of a question is missing, superfluous or of the wrong kind."""
    if not isinstance(question, dict) or question.keys() != {"question", "see", "choices"}:
        return ["must have question, see and choices, and nothing else"]
    problems = [
        f"has no text under {key}: quote it" for key in ("question", "see") if not is_text(question[key])
    ]
    choices = question["choices"]
    if not isinstance(choices, list) or not 3 <= len(choices) <= 4:
        return [*problems, "must have 3 or 4 choices"]
    for letter, choice in zip("ABCD", choices, strict=False):
        if not isinstance(choice, dict) or not {"text", "why"} <= choice.keys() <= {"text", "why", "right"}:
            problems.append(f"must have text and why in choice {letter}, and right: true if it is")
        elif not (is_text(choice["text"]) and is_text(choice["why"])):
            problems.append(f"has no text under text or why of choice {letter}: quote it")
        elif not isinstance(choice.get("right", False), bool):
            problems.append(f"must say true or false under right of choice {letter}")
    if not problems and sum(choice.get("right", False) for choice in choices) != 1:
        problems.append("must have exactly one choice with right: true")
    return problems


def content_problems(question: dict[str, Any], headings: set[str]) -> list[str]:
    """Say what is wrong with the texts of a question that has all its parts."""
    texts, reasons = zip(*[(c["text"].strip(), c["why"].strip()) for c in question["choices"]], strict=True)
    sections = SECTION.findall(question["see"])
    problems = [
        f"sends to section {title!r}, which is not there" for title in sections if title not in headings
    ]
    if not sections:
        problems.append('must name a section under see: section "Title"')
    if len(set(texts)) < len(texts):
        problems.append("has two equal choices")
    if any("\n" in text for text in (*texts, *reasons)):
        problems.append("has a choice or a why of several lines: write it below `>-`, as one paragraph")
    if any(LINK.search(text) for text in texts):
        problems.append("has a link in a choice, which is itself a button: write it into why")
    prose = " ".join(sentences("\n".join([question["question"], *texts, *reasons])).split())
    problems += [
        f"has the measured number {number!r}: say that it is assumed, or leave it out"
        for number in numbers_with_unit(prose)
    ]
    return problems


def as_markdown(path: Path) -> str:
    """Return the questions of the notebook at `path` in plain Markdown, each with its answer folded below it.

    Roles such as ``{numref}`` stay as they are: whoever shows the text turns them into words.
    """
    questions = yaml.safe_load(file_of(path).read_text(encoding="utf-8"))
    parts = ["Choose an answer to each question, then unfold what is right and why.\n"]
    for number, question in enumerate(questions, start=1):
        choices = list(zip("ABCD", question["choices"], strict=False))
        parts.append(f"**Question {number}.** {question['question'].strip()}\n")
        parts.append(
            "\n".join(f"- **{letter}.** {choice['text'].strip()}" for letter, choice in choices) + "\n"
        )
        reasons = "\n".join(
            f"- **{letter} is {'right' if choice.get('right') else 'wrong'}.** {choice['why'].strip()}"
            for letter, choice in choices
        )
        parts.append(ANSWER.format(number=number, reasons=reasons, see=question["see"].strip()))
    return "\n".join(parts)
