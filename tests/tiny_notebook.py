"""Small notebooks for the tests of the notebook tools and rules."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from tools.notebooks import notebook as nb_tools
from tools.notebooks import stamps

ROOT = Path(__file__).resolve().parents[1]


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
FACTS = {
    "profile": "laptop",
    "device": "a CPU",
    "torch": "2.15.0",
    "python": "3.12.1",
    "platform": "Linux x86_64",
    "date": "2026-01-02",
    "data": "embedded",
}
CARD = """\
:::{admonition} In this chapter
Prerequisites: none.

| profile | run time | memory |
| --- | --- | --- |
| `laptop` | about a minute, 2 minutes without AVX | 1 GB |
| `gpu` | not recorded yet | 1 GB |
:::"""
EXERCISE = """\
````{{exercise}} Add one
:label: ex-04-add-{0}
Write `add_{0}`. For example:
```python
add_{0}(1)  # takes 3 s
```
````"""
STUB = """\
def add_{0}(number: int) -> int:
    raise NotImplementedError


@exercises.check("one is added", hint="Try 1.")
def check_add_{0}() -> None:
    assert add_{0}(1) == 2, "one and one is another number"\
"""
SOLUTION = """\
def add_{0}(number: int) -> int:
    return number + 1


check_add_{0}()"""
ANSWERS = """\
[[add_{0}]]
right = "add_{0} = lambda number: 1 + number"
[[add_{0}]]
wrong = "add_{0} = lambda number: number"
hint = "another number"
[[add_{0}]]
wrong = "add_{0} = lambda number: None"
hint = "another number"
"""
FIGURE = """\
import matplotlib.pyplot as plt

plt.subplots(figsize=(1, 1))
plt.show()"""
MOVABLE = """\
from bigmodel_helpers.figures import explore


def dot(size):
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="{size}"/></svg>'


explore.figure(dot, {"size": [1, 2]}, alt=lambda size: f"A quarter of a dot, {size} pixels wide")"""
QUIZ = "## Quiz\n\n```{bigmodel-quiz}\n```"
SUMMARY = """\
## What you now know
Adding one is a function.

It has a test."""


def question(right: int) -> dict[str, Any]:
    """A question of a quiz, with the right answer at the place `right`."""
    choices = [{"text": f"The {text}.", "why": f"Why it is {text}."} for text in ("first", "second", "third")]
    choices[right]["right"] = True
    return {"question": "Which is it?", "see": 'section "What you now know"', "choices": choices}


def text(source: str, cell_id: str) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(source, id=cell_id)


def code(source: str, cell_id: str, *tags: str, **metadata: object) -> NotebookNode:
    return nbformat.v4.new_code_cell(source, id=cell_id, metadata={"tags": list(tags)} | metadata)


def stream(written: str, name: str = "stdout") -> NotebookNode:
    return nbformat.v4.new_output("stream", name=name, text=written)


def shown(**data: object) -> NotebookNode:
    return nbformat.v4.new_output("display_data", data=data)


def movable(*alts: str) -> str:
    """Return what a movable figure looks like in a notebook, as far as the rules look."""
    frames = base64.b64encode(gzip.compress(json.dumps({"alts": alts}).encode())).decode()
    return f'<div class="explore" data-frames="{frames}"></div>'


def notebook(*cells: NotebookNode) -> NotebookNode:
    """Put `cells` together and stamp them as `make execute` would."""
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nb = nbformat.v4.new_notebook(cells=list(cells), metadata=metadata)
    for number, cell in enumerate(nb_tools.code_cells(nb), start=1):
        cell.execution_count = number
    return stamped(nb)


def stamped(nb: NotebookNode) -> NotebookNode:
    """Stamp `nb` as `make execute` would, for the outputs that are in it."""
    nb.metadata["bigmodel"] = FACTS | {"duration_s": 3, "evidence": {}, "numbers": {}} | stamps.hashes(nb)
    return nb


def exercise(name: str) -> list[NotebookNode]:
    return [
        text(EXERCISE.format(name), f"text-{name}"),
        code(STUB.format(name), f"stub-{name}", "exercise"),
        text(f"```{{solution-start}} ex-04-add-{name}\n:class: dropdown\n```", f"start-{name}"),
        code(SOLUTION.format(name), f"solution-{name}", "solution"),
        text("```{solution-end}\n```", f"end-{name}"),
    ]


def good_notebook() -> NotebookNode:
    """A chapter that breaks no rule, passes nbval, and can be executed."""
    figure = {"caption": "A square.", "name": "fig-04-square"}
    mystnb = {"image": {"alt": "An empty square with two axes"}, "figure": figure}
    nb = notebook(
        text("# Adding", "title"),
        text(CARD, "card"),
        code("from bigmodel_helpers import exercises, runtime", "imports"),
        code("profile_name = None  # set by `make execute`", "knob", "parameters"),
        code(
            "profile = runtime.get_profile(profile_name)\nsteps = profile.pick(smoke=1, laptop=2, gpu=3)",
            "profile",
        ),
        code("print(2 + 2)", "sum", "nbval-check-output"),
        text("Accuracy grew by 5 % {cite}`someone`, with $x = 3 s$ and `4 times`, 32 x 32 pixels.", "prose"),
        code(FIGURE, "figure", mystnb=mystnb),
        code(MOVABLE, "movable", mystnb={"figure": {"caption": "A dot.", "name": "fig-04-dot"}}),
        *exercise("a"),
        *exercise("b"),
        *exercise("c"),
        text(QUIZ, "quiz"),
        text(SUMMARY, "summary"),
        text("## Where to go deeper\nRead on.", "deeper"),
        code('runtime.provenance(profile, data="embedded")', "provenance"),
    )
    cells = {cell.id: cell for cell in nb.cells}
    cells["sum"].outputs = [stream("4\n")]
    cells["figure"].outputs = [shown(**{"image/png": PIXEL, "text/plain": "<Figure>"})]
    cells["provenance"].outputs = [shown(**{nb_tools.PROVENANCE_MIME: FACTS, "text/plain": "laptop"})]
    cells["movable"].outputs = [shown(**{"text/html": movable("one", "two"), "text/plain": "A figure"})]
    return stamped(nb)


def save(nb: NotebookNode, folder: Path, stem: str = "04_cifar_training") -> Path:
    path = folder / f"{stem}.ipynb"
    nb_tools.write(path, nb)
    if any(cell.id == "quiz" for cell in nb.cells):
        save_quiz(folder, [question(0), question(1), question(2)], stem)
    return path


def save_quiz(folder: Path, questions: Any, stem: str = "04_cifar_training") -> Path:
    path = folder / "quizzes" / f"{stem}.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(questions), encoding="utf-8")
    return path


def save_answers(folder: Path, stem: str = "04_cifar_training") -> Path:
    """Write answers to the exercises of the good notebook."""
    path = folder / f"{stem}.toml"
    path.write_text("".join(ANSWERS.format(name) for name in "abc"), encoding="utf-8")
    return path
