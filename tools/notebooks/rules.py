"""The rules that every chapter notebook keeps: each returns the breaches it finds, none when all is well.

``python -m tools.notebooks.rules [NB ...]`` prints the breaches in all notebooks or in those named, and with
``--stale``, instead, which outputs come from other code of the package than there is now.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from nbformat import NotebookNode

from tools.notebooks import (
    bindings,
    claims,
    content,
    evidence,
    exercises,
    layout,
    look,
    notebook,
    quizzes,
    stamps,
)

Rule = Callable[[Path, NotebookNode], list[str]]

RULES: list[Rule] = [
    layout.file_is_tidy,
    layout.is_in_the_book,
    layout.opens_with_title_and_card,
    layout.has_a_card_that_fits_the_stamp,
    layout.obeys_the_profile,
    exercises.has_exercises_with_solutions,
    exercises.has_checks_that_answer,
    quizzes.has_a_quiz,
    layout.closes_with_summary_and_provenance,
    content.has_short_modern_code,
    content.has_clean_outputs,
    content.has_described_figures,
    content.has_a_movable_figure,
    look.draws_in_one_style,
    content.has_no_measured_number_in_prose,
    bindings.has_bound_numbers_as_measured,
    evidence.has_claims_that_hold,
    claims.has_backed_claims,
    layout.is_stamped,
]


def main() -> int:
    """Print each breach of each rule in the notebooks named on the command line; return 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NB", help="04_cifar_training, or a path; default: all")
    parser.add_argument("--stale", action="store_true", help="list outputs of an older package; no error")
    options = parser.parse_args()
    found = []
    for path in notebook.find(options.names, notebook.FOLDER):
        nb = notebook.read(path)
        if options.stale:
            found += stamps.notes(path.stem, nb)
        else:
            found += [f"{path.stem}: {problem}" for rule in RULES for problem in rule(path, nb)]
    for line in found:
        print(line)
    return 1 if found and not options.stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
