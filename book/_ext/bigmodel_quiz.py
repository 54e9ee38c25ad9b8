"""The quiz of a chapter, from the questions beside its notebook: choices that open and say whether they are right."""

import re
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxRole

SECTION = re.compile(r'section "([^"]+)"')
INTRODUCTION = "Choose an answer: it opens, and says whether it is right and why."
CHOICE = """\
:::{{dropdown}} {letter}. {text}
:class-container: quiz-{kind}

**{verdict}.** {why}

See {see}.
:::
"""
QUESTION = """\
<div class="quiz" role="group" aria-labelledby="quiz-{number}">

<span id="quiz-{number}">**Question {number}.** {title}</span>

{rest}

::::{{accordion}}
{choices}
::::

</div>
"""


class SectionLink(SphinxRole):
    """``{section-link}`The ring` ``: a link to the section of this page with that title."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        address = f"#{nodes.make_id(self.text)}"
        return [nodes.reference("", f'section "{self.text}"', refuri=address, internal=True)], []


def with_links(text: str) -> str:
    """Turn each mention of a section of the page, as in ``section "The ring"``, into a link."""
    return SECTION.sub(lambda match: f"{{section-link}}`{match[1].replace('`', '')}`", text)


def question_markdown(number: int, question: dict[str, Any]) -> str:
    """Return one question with its choices."""
    title, _, rest = question["question"].strip().partition("\n\n")
    see, choices = with_links(question["see"].strip()), []
    for letter, choice in zip("ABCD", question["choices"], strict=False):
        right = choice.get("right", False)
        kind, verdict = ("right", "Right") if right else ("wrong", "Wrong")
        text, why = " ".join(choice["text"].split()), choice["why"].strip()
        choices.append(CHOICE.format(letter=letter, text=text, kind=kind, verdict=verdict, why=why, see=see))
    return QUESTION.format(number=number, title=title, rest=rest, choices="\n".join(choices))


def quiz_markdown(path: Path) -> str:
    """Return the questions in the file `path`, in Markdown.

    Raises:
        ExtensionError: the file is missing or no quiz; ``make quick`` says what is wrong.
    """
    try:
        questions = yaml.safe_load(path.read_text(encoding="utf-8"))
        shown = [question_markdown(number, question) for number, question in enumerate(questions, start=1)]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ExtensionError(
            f"{path.name}: no quiz ({type(error).__name__}): make quick says what is wrong with it"
        ) from error
    return "\n".join([INTRODUCTION, "", *shown])
