"""Run every cell of the notebooks in profile ``smoke`` and compare tagged outputs.

What runs is a copy of each notebook, in which
- a warning that a cell raises is an error (not those of a library that is being imported),
- after each ``exercise`` cell stands a cell that demands that the unsolved exercise fails its own check, and one
  that tries the answers of ``tests/answers``,
- each number that is bound to an expression is evaluated at its place,
- the cells tagged ``nbval-check-output`` are compared with the committed outputs.
"""

import argparse
import copy
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools.notebooks import answers, bindings, notebook, stamps

WARNINGS_ARE_ERRORS = '''\
"""Turn each warning that a reader of this notebook would see into an error."""
import sys, warnings

def _raise_warning(message, category, filename, lineno, file=None, line=None):
    frame, importing = sys._getframe(1), False
    while frame is not None:
        importing = importing or frame.f_code.co_filename.startswith("<frozen importlib")
        frame = frame.f_back
    if importing and "bigmodel_helpers" not in filename:
        return  # a library that warns while it is imported: not the notebook's fault
    message.add_note("A warning in a notebook cell is an error: remove its cause or catch_warnings.")
    raise message

warnings.simplefilter("always")
for _category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
    # Python hides these from readers, except where their own code is to blame
    warnings.simplefilter("ignore", _category)
    warnings.filterwarnings("always", category=_category, module="__main__|bigmodel_helpers")
warnings.showwarning = _raise_warning
'''

STUB_MUST_FAIL = """\
_check = check_{name}
try:
    _check()
except Exception as _error:
    print("the unsolved exercise fails its check, as it must:", type(_error).__name__)
else:
    raise AssertionError("exercise {name}: the unsolved stub passes check_{name}(); make the check stricter")
"""


BOUND_NUMBERS = """\
for _text in {expressions!r}:
    _value = eval(_text)
    if isinstance(_value, str) or not float(_value) < float("inf"):
        raise ValueError(f"a number in prose is bound to {{_text!r}}, which is {{_value!r}}")
"""


def checking_copy(
    nb: NotebookNode, tried: dict[str, list[tuple[str, str | None]]], twice: bool = False
) -> NotebookNode:
    """Return the copy of `nb` that nbval runs, with the answers that are tried, each cell two times if `twice`."""
    result = copy.deepcopy(nb)
    result.cells = [nbformat.v4.new_code_cell(WARNINGS_ARE_ERRORS, id="warnings-are-errors")]
    for cell in nb.cells:
        result.cells.append(copy.deepcopy(cell))
        if twice and cell.cell_type == "code":
            result.cells.append(copy.deepcopy(cell))
            result.cells[-1].id = f"{cell.id[:50]}-again"
        if expressions := bindings.expressions(cell, late=False):
            source = BOUND_NUMBERS.format(expressions=expressions)
            result.cells.append(nbformat.v4.new_code_cell(source, id=f"{cell.id[:40]}-numbers"))
        if "exercise" in notebook.tags(cell):
            for name in re.findall(r"^def check_(\w+)", cell.source, re.MULTILINE):
                source = STUB_MUST_FAIL.format(name=name)
                result.cells.append(nbformat.v4.new_code_cell(source, id=f"{cell.id[:40]}-must-fail"))
                if name in tried:
                    source = answers.trying(name, tried[name])
                    result.cells.append(nbformat.v4.new_code_cell(source, id=f"{cell.id[:40]}-answers"))
    if late := [text for cell in nb.cells for text in bindings.expressions(cell, late=True)]:
        source = BOUND_NUMBERS.format(expressions=late)
        result.cells.append(nbformat.v4.new_code_cell(source, id="late-numbers"))
    for number, cell in enumerate(notebook.code_cells(result), start=1):
        cell.execution_count = number  # without a number nbval compares nothing
    return result


def write_copies(paths: list[Path], folder: Path, twice: bool = False) -> dict[str, int]:
    """Write each checking copy into an empty folder of its own; return the code cells of each by name."""
    shutil.rmtree(folder, ignore_errors=True)
    cells = {}
    for path in paths:
        nb = checking_copy(notebook.read(path), answers.read(path.stem), twice)
        (folder / path.stem).mkdir(parents=True)
        notebook.write(folder / path.stem / path.name, nb)
        cells[path.stem] = len(notebook.code_cells(nb))
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")  # keeps the repository's settings out
    shutil.copy(Path(__file__).with_name("nbval_conftest.py"), folder / "conftest.py")
    return cells


def run_nbval(folder: Path, log: Path, timeout: float, jobs: int) -> int:
    """Run nbval on the copies in `folder`, each notebook in one process; return pytest's exit status.

    What pytest writes goes into the file `log`.
    """
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider"]
    command += ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder)]
    command += ["--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={timeout}"]
    command += [f"--nbval-sanitize-with={Path(__file__).with_name('sanitize.cfg')}"]
    command += ["--nbval-kernel-startup-timeout=180", f"--junitxml={folder / 'report.xml'}"]
    command += ["-n", str(jobs), "--dist", "loadfile"] if jobs > 1 else ["-p", "no:xdist"]
    left_out = ("BIGMODEL_DATA", "PYTHONWARNINGS", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "MPLBACKEND")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"BIGMODEL_PROFILE": "smoke", "OMP_NUM_THREADS": "1"} | notebook.kernel_environment(folder)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        done = subprocess.run(
            [*command, str(folder)], env=environment, cwd=folder, stdout=file, stderr=file, check=False
        )
    return done.returncode


def report(folder: Path, cells: dict[str, int]) -> list[str]:
    """Print a line per notebook with its time; return a line for each that failed: cell, cause, how to run it."""
    ran = {stem: [] for stem in cells}
    if (folder / "report.xml").exists():
        for case in ElementTree.parse(folder / "report.xml").iter("testcase"):
            stem = case.get("classname", "").split(".")[0]
            ran.setdefault(stem, []).append(case)
    failed = []
    for stem, cases in ran.items():
        bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
        seconds = sum(float(case.get("time", 0)) for case in cases)
        well = not bad and len(cases) == cells.get(stem)
        verdict = (
            "passed" if well else f"FAILED ({len(bad)} bad, {len(cases)} of {cells.get(stem)} cells ran)"
        )
        print(f"{stem}: {len(cases)} cells, {seconds:.1f} s, {verdict}", flush=True)
        if not well:
            failed.append(f"{stem}, {first_failure(bad)}; alone: make notebooks NB={stem}")
    return failed


def first_failure(bad: list[ElementTree.Element]) -> str:
    """Return the first failed cell with its cause, and how many failed after it."""
    if not bad:
        return "not all cells ran"
    told = {item.get("name"): item.get("value") for item in bad[0].iter("property")}
    more = f" ({len(bad) - 1} more)" if len(bad) > 1 else ""
    return f"cell {told.get('cell')}: {told.get('cause')}{more}"


def check(paths: list[Path], folder: Path, options: argparse.Namespace) -> int:
    """Run the notebooks in `folder`; return 1, after some lines that say why, where one is wrong or stale."""
    failed = [
        f"{path.stem}: {problem}"
        for path in paths
        for problem in stamps.problems(path.stem, notebook.read(path))
    ]
    cells = write_copies(paths, folder, options.twice)
    log = notebook.BUILD / "notebooks" / f"{os.getpid()}.log"
    status = run_nbval(folder, log, options.cell_timeout, min(options.jobs, len(paths)))
    failed += report(folder, cells)
    for note in [note for path in paths for note in stamps.notes(path.stem, notebook.read(path))]:
        print(note)
    if not failed and status:
        failed = [f"pytest ended with status {status}", *log.read_text("utf-8", "replace").splitlines()[-8:]]
    if not failed:
        log.unlink(missing_ok=True)
        return 0
    print(f"\n==> Notebooks FAILED; what pytest wrote is in {log}", *failed, sep="\n", flush=True)
    return 1


def main(arguments: list[str] | None = None) -> int:
    """Check the notebooks named in `arguments`, all without a name; return 1 where one is wrong or stale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NB", help="04_cifar_training, or a path; default: all")
    parser.add_argument("--notebooks-dir", type=Path, default=notebook.FOLDER)
    parser.add_argument(
        "--work-dir", type=Path, help="emptied first and kept; default: one of this run alone"
    )
    parser.add_argument("--cell-timeout", type=float, default=120, help="seconds that one cell may take")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks that run at the same time")
    parser.add_argument("--twice", action="store_true", help="run each cell two times in a row")
    options = parser.parse_args(arguments)
    paths = notebook.find(options.names, options.notebooks_dir)
    if options.work_dir:
        ours = all((options.work_dir / name).exists() for name in ("pytest.ini", "conftest.py"))
        if options.work_dir.exists() and any(options.work_dir.iterdir()) and not ours:
            parser.error(
                f"--work-dir {options.work_dir} is emptied first and holds other files: name a new one"
            )
        return check(paths, options.work_dir.resolve(), options)
    notebook.BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="nbval-", dir=notebook.BUILD, ignore_cleanup_errors=True
    ) as folder:
        return check(paths, Path(folder), options)


if __name__ == "__main__":
    raise SystemExit(main())
