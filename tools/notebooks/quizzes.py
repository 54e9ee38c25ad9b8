"""The quiz of a chapter: its place, the rules for its questions, and the same questions for the notebook edition."""

import re
from pathlib import Path
from typing import Any

import yaml
from nbformat import NotebookNode

from tools.notebooks.prose import sentences, unsourced

CELL = re.compile(r"## Quiz\n\n```\{bigmodel-quiz\}\n```\n*")
SECTION = re.compile(r'section "([^"]+)"')
LINK = re.compile(r"\]\(|\}`|<\w+:")
BREAKS_OUT = re.compile(r"(?m)~~~|^#|<[!/a-z](?!\w+:)", re.IGNORECASE)  # fence, heading, HTML
ANSWER = (
    "<details>\n<summary>Answer to question {number}</summary>\n\n{reasons}\n\nSee {see}.\n\n</details>\n"
)


class EachKeyOnce(yaml.SafeLoader):
    """A loader that does not let a second key of the same name replace the first one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if len(set(map(str, keys))) < len(keys):
            raise yaml.constructor.ConstructorError(None, None, "a key stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def file_of(path: Path) -> Path:
    """Return the file with the questions of the notebook at `path`."""
    return path.parent / "quizzes" / f"{path.stem}.yml"


def read(path: Path) -> list[dict[str, Any]]:
    """Return the questions of the notebook at `path`.

    Raises:
        ValueError: the file is missing, is no YAML, or holds something else than questions.
    """
    file = file_of(path)
    name = f"quizzes/{file.name}"
    if not file.is_file():
        raise ValueError(f"{name}: no such file: write 3 to 5 questions there")
    try:
        questions = yaml.load(file.read_text(encoding="utf-8"), EachKeyOnce)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not in UTF-8: save it anew") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", "no YAML")
        line = f" line {mark.line + 1}:" if mark else ""
        raise ValueError(f"{name}:{line} {problem}: quote a text with a colon, # or `") from error
    if not isinstance(questions, list) or not 3 <= len(questions) <= 5:
        raise ValueError(f"{name}: must be a list of 3 to 5 questions")
    for number, question in enumerate(questions, start=1):
        if problem := shape_problem(question):
            raise ValueError(f"{name}: question {number} {problem}")
    return questions


def shape_problem(question: Any) -> str:
    """Say which part of a question is missing, superfluous or of the wrong kind; nothing when all is well."""
    if not isinstance(question, dict) or question.keys() != {"question", "see", "choices"}:
        return "must have question, see and choices, and nothing else"
    if not is_text(question["question"]) or not is_text(question["see"]):
        return "has no text under question or see: quote it"
    choices = question["choices"]
    if not isinstance(choices, list) or not 3 <= len(choices) <= 4:
        return "must have 3 or 4 choices"
    for letter, choice in zip("ABCD", choices, strict=False):
        if not isinstance(choice, dict) or not {"text", "why"} <= choice.keys() <= {"text", "why", "right"}:
            return f"must have text and why in choice {letter}, and right: true if it is"
        if not is_text(choice["text"]) or not is_text(choice["why"]):
            return f"has no text under text or why of choice {letter}: quote it"
        if not isinstance(choice.get("right", False), bool):
            return f"must say true or false under right of choice {letter}"
    if sum(choice.get("right", False) for choice in choices) != 1:
        return "must have exactly one choice with right: true"
    return ""


def is_text(value: object) -> bool:
    """Say whether `value` is a text with something in it."""
    return isinstance(value, str) and bool(value.strip())


def has_a_quiz(path: Path, nb: NotebookNode) -> list[str]:
    """One cell with the quiz right before the summary; 3 to 5 good questions in quizzes/NN_topic.yml."""
    cells = [cell.source if cell.cell_type == "markdown" else "" for cell in nb.cells]
    places = [i for i, source in enumerate(cells) if "{bigmodel-quiz}" in source]
    problems = []
    if len(places) != 1 or not CELL.fullmatch(cells[places[0]]):
        problems.append(
            "needs one markdown cell with `## Quiz` and the directive {bigmodel-quiz}, nothing else"
        )
    elif not "".join(cells[places[0] + 1 : places[0] + 2]).startswith("## What you now know\n"):
        problems.append("must have its quiz right before `## What you now know`")
    try:
        questions = read(path)
    except ValueError as error:
        return [*problems, str(error)]
    headings = {title for text in cells for title in re.findall(r"(?m)^#{2,3} (.+?) *$", sentences(text))}
    for number, question in enumerate(questions, start=1):
        where = f"quizzes/{path.stem}.yml: question {number}"
        problems += [f"{where} {problem}" for problem in content_problems(question, headings)]
    places = {[choice.get("right", False) for choice in q["choices"]].index(True) for q in questions}
    if len(places) == 1:
        problems.append(
            f"quizzes/{path.stem}.yml: the right choice stands always in the same place: mix them"
        )
    return problems


def content_problems(question: dict[str, Any], headings: set[str]) -> list[str]:
    """Say what is wrong with the texts of a question, in a chapter that has these headings."""
    texts, reasons = zip(*[(c["text"].strip(), c["why"].strip()) for c in question["choices"]], strict=True)
    sections = SECTION.findall(question["see"])
    problems = [
        f"sends to section {title!r}, which is not there" for title in sections if title not in headings
    ]
    if not sections:
        problems.append('must name a section under see: section "Title"')
    if len(set(texts)) < len(texts):
        problems.append("has two equal choices")
    if any("\n" in text for text in (question["see"].strip(), *texts, *reasons)):
        problems.append("has a see, choice or why of several lines: write it below `>-`, as one paragraph")
    if any(LINK.search(text) for text in texts):
        problems.append("has a link in a choice, which is itself a button: write it into why")
    whole = "\n".join([question["question"], question["see"], *texts, *reasons])
    prose = sentences(whole)
    open_fence = ":::" in whole or question["question"].count("```") % 2
    if open_fence or BREAKS_OUT.search(re.sub(r"`[^`]*`", "", prose)):
        problems.append("has an open fence, a heading or HTML, which would break the quiz: take it out")
    problems += [
        f"has the measured number {number!r}: say that it is assumed, or leave it out"
        for _, numbers in unsourced(whole)
        for number in numbers
        if number[0].isdigit()
    ]
    return problems


def as_markdown(path: Path) -> str:
    """Return the questions of the notebook at `path` in plain Markdown, each with its answer folded below it.

    Roles such as ``{numref}`` stay as they are: whoever shows the text turns them into words.

    Raises:
        ValueError: the questions cannot be read.
    """
    parts = ["Choose an answer to each question, then unfold what is right and why.\n"]
    for number, question in enumerate(read(path), start=1):
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
