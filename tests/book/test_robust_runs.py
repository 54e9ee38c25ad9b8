"""`make notebooks` on a busy machine: kernels that die or start late, two runs at once, and an end that says why."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nbclient.exceptions import DeadKernelError
from test_notebook_machinery import without_colors
from tiny_notebook import ROOT, code, exercise, notebook, save, text

from tools.notebooks import check, execute

# Stands in for the program of a kernel: one that can never import, and one that does not start the first time.
LAUNCHER = """\
import sys
from pathlib import Path

if Path.cwd().name == "03_cannot_import":
    import no_such_module
if Path.cwd().name == "02_second_try" and not Path("tried").exists():
    Path("tried").touch()
    sys.exit(1)
from ipykernel import kernelapp

kernelapp.launch_new_instance()"""
KILL = "import os, signal\n\nos.kill(os.getpid(), getattr(signal, 'SIGKILL', signal.SIGTERM))"
KILLED = "exit status 15" if os.name == "nt" else "SIGKILL, most often for lack of memory"
FAULTS = {
    "01_warns": [
        code("1", "fine"),
        code("import warnings\n\nwarnings.warn('no memory pinned')", "warns"),
        code("{}['key']", "raises"),
    ],
    "02_second_try": [code("x = 7\nassert x == 8", "bare"), code("1", "fine")],
    "03_cannot_import": [code("1", "first"), code("2", "second")],
    "04_leaves": [code("1", "fine"), code("import os\n\nos._exit(5)", "leaves"), code("2", "after")],
    "05_killed": [code(KILL, "kills"), code("2", "after")],
}
TOLD = {
    "01_warns": "cell warns: UserWarning: no memory pinned (1 more)",
    "02_second_try": "cell bare: AssertionError: assert x == 8",
    "03_cannot_import": "cell warnings-are-errors: the kernel did not start, tried twice: "
    "ModuleNotFoundError: No module named 'no_such_module' (2 more)",
    "04_leaves": "cell leaves: the kernel died: exit status 5 (1 more)",
    "05_killed": f"cell kills: the kernel died: {KILLED} (1 more)",
}


def start(folder: Path, *options: str) -> subprocess.Popen:
    """Start the check of the notebooks in `folder`."""
    command = [sys.executable, "-m", "tools.notebooks.check", "--notebooks-dir", str(folder), *options]
    paths = os.pathsep.join([str(folder), str(ROOT)])
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "PYTHONPATH": paths}
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, encoding="utf-8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Check notebooks with a fault each, and at the same time, in another run, one without."""
    faulty, good = tmp_path_factory.mktemp("faulty"), tmp_path_factory.mktemp("good")
    (faulty / "ipykernel_launcher.py").write_text(LAUNCHER, encoding="utf-8")
    for stem, cells in FAULTS.items():
        save(notebook(*cells), faulty, stem)
    save(notebook(code("1", "one")), good, "01_good")
    started = start(faulty), start(good, "--twice")
    printed = [without_colors(run.communicate()[0]) for run in started]
    return [(run.returncode, text) for run, text in zip(started, printed, strict=True)]


def test_two_runs_at_the_same_time_do_not_meet(runs):
    assert runs[1][0] == 0, runs[1][1]
    assert re.fullmatch(r"01_good: 3 cells, [\d.]+ s, passed\n", runs[1][1])


def test_each_failed_notebook_is_told_by_cell_and_cause_and_how_to_run_it(runs):
    status, printed = runs[0]
    assert status == 1
    head, _, end = printed.partition("\n==> Notebooks FAILED; what pytest wrote is in ")
    log, *told = end.splitlines()
    assert told == [f"{stem}, {text}; alone: make notebooks NB={stem}" for stem, text in TOLD.items()]
    assert len(head.splitlines()) == len(FAULTS)
    written = Path(log).read_text(encoding="utf-8")
    Path(log).unlink()
    assert "KeyError" in written
    assert len(written.splitlines()) < 500


def test_a_kernel_gets_a_second_try(runs):
    assert re.search(r"(?m)^02_second_try: .* FAILED \(1 bad, 3 of 3 cells ran\)$", runs[0][1]), runs[0][1]


def test_on_demand_each_cell_runs_two_times_in_a_row():
    nb = notebook(text("# Title", "title"), code("1", "one"), *exercise("a")[:2])
    ids = [cell.id for cell in check.checking_copy(nb, {}, twice=True).cells]
    expected = ["warnings-are-errors", "title", "one", "one-again", "text-a", "stub-a", "stub-a-again"]
    assert ids == [*expected, "stub-a-must-fail"]


def test_nothing_is_left_of_a_run(runs):
    assert list((ROOT / "_build").glob("nbval-*")) == []


def answering(*answers: Exception | str):
    """Return a stand-in for papermill that raises or returns these, one after the other."""
    left = list(answers)

    def run(*_: object, **__: object) -> str:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return run, left


LATE = RuntimeError("Kernel didn't respond in 180 seconds")


@pytest.mark.parametrize(
    ("answers", "left"), [((LATE, "ran"), 0), (("ran",), 0), ((DeadKernelError("it died"), "ran"), 1)]
)
def test_execution_tries_twice_to_start_a_kernel_but_not_to_run_it(monkeypatch, answers, left):
    run, rest = answering(*answers)
    monkeypatch.setattr(execute.papermill, "execute_notebook", run)
    if left:
        with pytest.raises(DeadKernelError):
            execute.run(None, kernel_name="python3")
    else:
        assert execute.run(None, kernel_name="python3") == "ran"
    assert len(rest) == left


def test_execution_without_a_kernel_is_told_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(execute.papermill, "execute_notebook", answering(LATE, LATE)[0])
    path = save(notebook(code("profile_name = None", "knob", "parameters")), tmp_path, "01_chapter")
    told = f"its kernel did not start, tried twice: {LATE}; what it wrote stands above"
    assert execute.execute(path, "smoke", tmp_path / "failed") == [told]
