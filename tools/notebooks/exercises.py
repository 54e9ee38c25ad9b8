"""The exercises of a chapter: a text, a stub with its check, and a solution that passes the check."""

import ast
import re
from pathlib import Path

from nbformat import NotebookNode

from tools.notebooks import answers, notebook


def has_exercises_with_solutions(path: Path, nb: NotebookNode) -> list[str]:
    """3 to 6 exercises: text, stub with its check, folded solution that calls the check."""
    starts = [i for i, cell in enumerate(nb.cells) if "exercise" in notebook.tags(cell)]
    problems = [] if 3 <= len(starts) <= 6 else [f"has {len(starts)} exercises: 3 to 6 are wanted"]
    directives = sum("{exercise}" in cell.source for cell in nb.cells if cell.cell_type == "markdown")
    if directives != len(starts):
        problems.append(f"has {directives} exercise texts but {len(starts)} code cells tagged exercise")
    for index in starts:
        problems += exercise_problems([None, *nb.cells, None, None, None][index : index + 5], path.stem[:2])
    return problems


def exercise_problems(cells: list[NotebookNode | None], chapter: str) -> list[str]:
    """Check one exercise: its text, its stub, and the three cells of its solution."""
    text, stub, start, solution, end = [cell.source if cell else "" for cell in cells]
    where = f"exercise cell {cells[1].get('id')}"
    defined = [
        node.name
        for node in notebook.syntax_tree(stub).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    checks = [name for name in defined if name.startswith("check_")]
    stubs = [name for name in defined if not name.startswith("check_")]
    if len(checks) != 1 or not stubs or not re.search(r"\bassert(?:_\w+\(|\b)", stub):
        return [f"{where} must define a stub and one function check_NAME() that asserts"]
    label = f"ex-{chapter}-{checks[0].removeprefix('check_').replace('_', '-')}"
    problems = []
    if "{exercise}" not in text or not re.search(rf":label: {label}$", text, re.MULTILINE):
        problems.append(f"{where}: the cell before must be its text with `:label: {label}`")
    if (
        not re.search(rf"\{{solution-start\}} {label}\n:class: dropdown", start)
        or "{solution-end}" not in end
    ):
        problems.append(
            f"{where}: fold its solution between solution-start {label} (class dropdown) and solution-end"
        )
    if not cells[3] or "solution" not in notebook.tags(cells[3]):
        return [*problems, f"{where}: the second cell after it must be code tagged solution"]
    if solution.rstrip().splitlines()[-1:] != [f"{checks[0]}()"] or f"def {checks[0]}" in solution:
        problems.append(f"{where}: its solution must end with {checks[0]}() and not redefine it")
    if not any(re.search(rf"(?m)^(?:def |class |){name}\b", solution) for name in stubs):
        problems.append(f"{where}: its solution must redefine {' or '.join(stubs)}")
    return problems


def has_checks_that_answer(path: Path, nb: NotebookNode) -> list[str]:
    """Each check says in words what is right and what is wrong, and its answers are there to try it."""
    tried, problems, names = answers.read(path.stem), [], set()
    for index, cell in enumerate(nb.cells):
        if "exercise" not in notebook.tags(cell):
            continue
        for node in notebook.syntax_tree(cell.source).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("check_"):
                name = node.name.removeprefix("check_")
                names.add(name)
                problems += check_problems(node, tried.get(name, []))
        answered = "\n".join(c.source for c in nb.cells[index + 1 : index + 4] if c.cell_type == "markdown")
        words = re.sub(r"(?m)^(```.*|:class: .*)$", "", answered)
        asked = nb.cells[index - 1].source.partition("\n")[2]  # without the title
        if "?" in asked and not words.strip():
            problems.append(f"exercise cell {cell.id} asks a question: answer it in words in the solution")
    return problems + [
        f"tests/answers has {name}, which is no exercise" for name in sorted(set(tried) - names)
    ]


def check_problems(check: ast.FunctionDef, tried: list[tuple[str, str | None]]) -> list[str]:
    """Return what keeps one check from answering in words."""
    problems = []
    decorators = [ast.unparse(decorator) for decorator in check.decorator_list]
    if not any(decorator.startswith("exercises.check(") for decorator in decorators):
        problems.append(f"{check.name} needs the decorator @exercises.check(meaning, hint=...)")
    if any(isinstance(node, ast.Assert) and node.msg is None for node in ast.walk(check)):
        problems.append(f"{check.name} has an assert without words: say what is wrong")
    if "assert_close" in ast.unparse(check):
        problems.append(f"{check.name} uses assert_close, which prints tensors: use exercises.same")
    right, wrong = (sum((hint is None) is kind for _, hint in tried) for kind in (True, False))
    if right < 1 or wrong < 2:
        problems.append(
            f"{check.name} is tried with {right} right and {wrong} wrong answers in tests/answers: "
            "1 and 2 are the least"
        )
    return problems
