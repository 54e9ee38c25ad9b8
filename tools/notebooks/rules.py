"""The rules that every chapter notebook keeps: each returns the breaches it finds, none when all is well.

``python -m tools.notebooks.rules [NB ...]`` prints the breaches in all notebooks or in those named.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from nbformat import NotebookNode

from tools.notebooks import content, exercises, layout, notebook, quizzes

Rule = Callable[[Path, NotebookNode], list[str]]

RULES: list[Rule] = [
    layout.file_is_tidy,
    layout.is_in_the_book,
    layout.opens_with_title_and_card,
    layout.obeys_the_profile,
    exercises.has_exercises_with_solutions,
    exercises.has_checks_that_answer,
    quizzes.has_a_quiz,
    layout.closes_with_summary_and_provenance,
    content.has_short_modern_code,
    content.has_clean_outputs,
    content.has_described_figures,
    content.has_a_movable_figure,
    content.has_no_measured_number_in_prose,
    layout.is_stamped,
]


def main() -> int:
    """Print each breach of each rule in the notebooks named on the command line, all without a name."""
    found = 0
    for path in notebook.find(sys.argv[1:], notebook.FOLDER):
        nb = notebook.read(path)
        for problem in [problem for rule in RULES for problem in rule(path, nb)]:
            print(f"{path.stem}: {problem}")
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
