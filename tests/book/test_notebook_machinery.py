"""The tools behind `make notebooks` and `make execute` catch what they are there to catch."""

import copy
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from nbformat import NotebookNode
from tiny_notebook import FACTS, ROOT, code, exercise, notebook, save, shown, stream, text

from bigmodel_helpers import runtime
from tools.notebooks import check, execute, stamps
from tools.notebooks import notebook as nb_tools

WEAK_CHECK = """\
def add(number: int) -> int:
    return None


def check_add() -> None:
    assert add(1) is None or add(1) == 2"""
LIBRARY = """\
import sys
from pathlib import Path

library = "import warnings\\nwarnings.warn('while imported')\\n"
library += "def warn(category): warnings.warn('from a library', category)\\n"
Path("noisy.py").write_text(library, encoding="utf-8")
sys.path.insert(0, "")
import noisy"""
CAUGHT = """\
import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.warn("expected", stacklevel=1)
assert len(caught) == 1"""
DEPRECATED = "import warnings\n\nwarnings.warn('gone soon', DeprecationWarning, stacklevel=1)"
ENVIRONMENT = """\
import os

assert os.environ["BIGMODEL_PROFILE"] == "smoke"
assert "BIGMODEL_DATA" not in os.environ"""
MULTIPLIED = "print('mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)')"
REASONS = {
    "wrong-output": "Cell outputs differ",
    "wrong-shapes": "Cell outputs differ",
    "raises": "ZeroDivisionError",
    "weak-must-fail": "the unsolved stub passes check_add(); make the check stricter",
    "warns": "DeprecationWarning: gone soon",
    "library-warns": "UserWarning: from a library",
    "bad-solution": "NotImplementedError",
}


def compared(source: str, written: str, cell_id: str) -> NotebookNode:
    cell = code(source, cell_id, "nbval-check-output")
    cell.outputs = [stream(written)]
    return cell


def run_tool(name: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"tools.notebooks.{name}", *map(str, arguments)]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"} | environment
    return subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, encoding="utf-8", check=False
    )


def without_colors(printed: str) -> str:
    return re.sub(r"(?:#x1B|\x1b)\[[\d;]*m", "", printed)


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    """Run the check once, over a notebook without a fault and one with many."""
    folder = tmp_path_factory.mktemp("checks")
    good = notebook(
        code("from bigmodel_helpers import exercises", "imports"),
        compared("print(2 + 2)", "4\n", "right-output"),
        compared(
            MULTIPLIED, "addmm: mat1 and mat2 shapes cannot be multiplied (2x3 and\n4x5)\n", "other-torch"
        ),
        *exercise("a"),
        code(LIBRARY, "library"),
        code("noisy.warn(DeprecationWarning)  # Python hides this one from readers", "hidden"),
        code(CAUGHT, "caught"),
        code(ENVIRONMENT, "environment"),
    )
    bad = notebook(
        code("from bigmodel_helpers import exercises", "imports"),
        compared("print(2 + 2)", "5\n", "wrong-output"),
        compared(MULTIPLIED, "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x6)\n", "wrong-shapes"),
        code("1 / 0", "raises"),
        code(WEAK_CHECK, "weak", "exercise"),
        code(LIBRARY, "library"),
        code(DEPRECATED, "warns"),
        code("noisy.warn(UserWarning)", "library-warns"),
        *exercise("a")[:2],
        code("check_add_a()", "bad-solution", "solution"),
        code("print('fine')", "fine"),
    )
    save(good, folder, "01_good")
    save(bad, folder, "02_bad")
    options = ["--notebooks-dir", folder, "--work-dir", folder / "work"]
    result = run_tool("check", *options, BIGMODEL_DATA="nowhere")
    return folder, result.returncode, without_colors(result.stdout)


def test_correct_notebook_passes_in_smoke_without_data(checks):
    assert re.search(r"(?m)^01_good: 11 cells, [\d.]+ s, passed$", checks[2]), checks[2]


def test_exactly_the_faulty_cells_fail_each_for_its_reason(checks):
    folder, status, printed = checks
    copied = nb_tools.read(folder / "work" / "02_bad" / "02_bad.ipynb")
    ids = [cell.id for cell in nb_tools.code_cells(copied)]
    cases = ElementTree.parse(folder / "work" / "report.xml").iter("testcase")
    cases = [case for case in cases if case.find("failure") is not None]
    failed = {
        ids[int(case.get("name").removeprefix("Cell "))]: without_colors(case.find("failure").text)
        for case in cases
        if case.get("classname").startswith("02_bad")
    }
    assert set(failed) == set(REASONS)
    assert [cell_id for cell_id, reason in REASONS.items() if reason not in failed[cell_id]] == []
    assert re.search(r"(?m)^02_bad: 14 cells, [\d.]+ s, FAILED \(7 bad, 14 of 14 cells ran\)$", printed), (
        printed
    )
    assert status == 1


def test_missing_check_is_no_failing_stub():
    with pytest.raises(NameError, match="check_missing"):
        exec(check.STUB_MUST_FAIL.format(name="missing"), {})


@pytest.mark.parametrize(("source", "status"), [("1", 0), ("2", 1)])
def test_stale_notebook_fails_and_is_named_with_the_cure(tmp_path, monkeypatch, capsys, source, status):
    nb = notebook(code("1", "one"))
    nb.cells[0].source = source
    save(nb, tmp_path, "01_chapter")
    monkeypatch.setattr(check, "run_nbval", lambda *_: 0)
    monkeypatch.setattr(check, "report", lambda *_: [])
    arguments = ["--notebooks-dir", str(tmp_path), "--work-dir", str(tmp_path / "work")]
    assert check.main(arguments) == status
    printed = capsys.readouterr().out
    assert ("01_chapter: is stale" in printed) == bool(status)
    assert ("make execute NB=01_chapter" in printed) == bool(status)


def test_notebook_that_did_not_run_whole_is_a_failure(tmp_path, capsys):
    case = '<testcase classname="01_chapter.01_chapter.ipynb" name="Cell 0" time="1"/>'
    (tmp_path / "report.xml").write_text(f"<testsuites>{case}</testsuites>", encoding="utf-8")
    assert check.report(tmp_path, {"01_chapter": 1}) == []
    alone = "not all cells ran; alone: make notebooks NB="
    assert check.report(tmp_path, {"01_chapter": 2}) == [f"01_chapter, {alone}01_chapter"]
    assert check.report(tmp_path, {"01_chapter": 1, "02_other": 1}) == [f"02_other, {alone}02_other"]
    assert "0 of 1 cells ran" in capsys.readouterr().out


PROVENANCE = f"""\
import os, sys
from pathlib import Path
from IPython.display import display

assert sys.executable == os.environ["THIS_PYTHON"]
assert list(Path.cwd().iterdir()) == []
facts = {FACTS} | {{"profile": profile_name}}
display({{"{nb_tools.PROVENANCE_MIME}": facts, "text/plain": "made here"}}, raw=True)"""
NOISE = """\
import sys

for i in range(3):
    print(f"\\r{i * 50:3d}%|##   | {i}/2 [00:00<00:00, 1it/s]", end="", file=sys.stderr, flush=True)
print("one", flush=True)
print("two", flush=True)
6 * 7"""
EDIT = """\
import os

with open(os.environ["EDITED"], "a", encoding="utf-8") as file:
    file.write("\\n")"""


@pytest.fixture(scope="module")
def executions(tmp_path_factory):
    """Execute four notebooks, then the first once more."""
    folder = tmp_path_factory.mktemp("executions")
    knob = code("profile_name = None", "knob", "parameters")
    good = notebook(text("# Title", "title"), knob, code(NOISE, "noise", answer=42), code(PROVENANCE, "last"))
    good.cells[2].metadata["execution"] = {"iopub.status.busy": "long ago"}
    good.metadata["papermill"] = {"duration": 1.0}
    good.metadata["author"] = "kept"
    del good.metadata["bigmodel"]
    raises = notebook(knob, code("1 / 0", "raises"))
    dies = notebook(knob, code("import os\n\nos._exit(1)", "dies"))
    edited = notebook(knob, code(EDIT, "edit"), code(PROVENANCE, "last"))
    paths = [
        save(good, folder, "01_good"),
        save(raises, folder, "02_raises"),
        save(edited, folder, "03_edited"),
        save(dies, folder, "04_dies"),
    ]
    before = [path.read_bytes() for path in paths]
    options = ["--notebooks-dir", folder, "--failed-dir", folder / "failed", "--profile", "smoke"]
    variables = {"THIS_PYTHON": sys.executable, "EDITED": str(paths[2])}
    first = run_tool("execute", *options, **variables)
    after = [path.read_bytes() for path in paths]
    second = run_tool("execute", "01_good", *options, **variables)
    return paths, before, after, first, second


MACHINE = ('os.environ["THIS_PYTHON"]', "sys.executable")  # paths of a machine: no stamp holds them


def test_execute_stamps_and_cleans_and_keeps_the_rest(executions):
    nb = nb_tools.read(executions[0][0])
    assert [cell.id for cell in nb.cells] == ["title", "knob", "noise", "last"]
    assert nb.cells[2].metadata == {"answer": 42, "tags": []}
    assert [cell.execution_count for cell in nb_tools.code_cells(nb)] == [1, 2, 3]
    assert [output.get("text") for output in nb.cells[2].outputs] == ["one\ntwo\n", None]
    assert nb.cells[2].outputs[1].data == {"text/plain": "42"}
    assert nb.metadata["author"] == "kept"
    assert "papermill" not in nb.metadata
    made = {key: value for key, value in nb.metadata["bigmodel"].items() if key != "duration_s"}
    evidence = {"last": {"list(Path.cwd().iterdir())": [], **{key: {"kind": "str"} for key in MACHINE}}}
    assert made == FACTS | {"profile": "smoke", "evidence": evidence, "numbers": {}} | stamps.hashes(nb)
    assert stamps.problems("01_good", nb) == []
    assert "01_good: done" in executions[3].stdout
    slowest = re.search(r"01_good: slowest cells in s: (.*)", executions[3].stdout)[1]
    assert re.fullmatch(r"(\w+ \d+\.\d, )+\w+ \d+\.\d", slowest)
    assert "noise" in slowest


def test_second_run_differs_in_the_duration_only(executions):
    paths, _, after, _, second = executions
    assert second.returncode == 0, second.stdout + second.stderr
    old, new = after[0].splitlines(), paths[0].read_bytes().splitlines()
    assert len(old) == len(new)
    assert [b for a, b in zip(old, new, strict=True) if a != b and b'"duration_s"' not in b] == []


def test_failing_notebook_is_not_overwritten_but_kept_aside(executions):
    paths, before, after, first, _ = executions
    assert first.returncode == 1
    assert after[1] == before[1]
    assert (paths[0].parent / "failed" / "02_raises.ipynb").exists()
    assert "raised ZeroDivisionError" in first.stdout
    assert "02_raises: FAILED" in first.stdout
    assert after[3] == before[3]
    assert "04_dies: its kernel died" in first.stdout


def test_notebook_edited_during_its_run_keeps_the_edit(executions):
    _, before, after, first, _ = executions
    assert after[2] == before[2] + b"\n"
    assert "03_edited: the notebook was edited while it ran" in first.stdout


def test_no_stray_files_are_left(executions):
    paths = executions[0]
    left = {path.name for path in paths[0].parent.iterdir()}
    assert left == {path.name for path in paths} | {"failed"}


@pytest.mark.parametrize(
    ("facts", "complaint"),
    [
        (FACTS, ""),
        (None, "no cell shows provenance"),
        (FACTS | {"profile": "gpu"}, "ran in profile gpu"),
        (FACTS | {"data": ""}, "lacks data"),
    ],
)
def test_stamp_wants_full_provenance_of_the_asked_profile(facts, complaint):
    nb = notebook(code("1", "one"))
    nb.cells[0].outputs = [shown(**{nb_tools.PROVENANCE_MIME: facts})] if facts else []
    if complaint:
        with pytest.raises(ValueError, match=complaint):
            execute.stamp(nb, "laptop", 12.4)
    else:
        execute.stamp(nb, "laptop", 12.4)
        assert nb.metadata["bigmodel"]["duration_s"] == 12


def test_stamp_understands_the_provenance_of_the_package():
    facts = runtime.provenance(runtime.Profile("laptop"), data="embedded")
    nb = notebook(code("1", "one"))
    nb.cells[0].outputs = [shown(**facts._repr_mimebundle_())]
    execute.stamp(nb, "laptop", 1)
    assert {*nb.metadata["bigmodel"], "evidence", "numbers"} == {*stamps.FACTS, *stamps.HASHES}


def test_code_hash_depends_on_all_code_and_on_nothing_else():
    nb = notebook(text("# Title", "title"), code("1", "one"), code("2", "two"))
    first = stamps.code_sha256(nb)
    nb.cells[0].source = "# Other title"
    nb.cells[1].outputs = [stream("1\n")]
    nb.cells.insert(1, code("profile_name = 'gpu'", "injected", "injected-parameters"))
    assert stamps.code_sha256(nb) == first
    moved = copy.deepcopy(nb)
    moved.cells[2].source, moved.cells[3].source = "2", "1"
    nb.cells[2].source = "1 "
    assert len({first, stamps.code_sha256(nb), stamps.code_sha256(moved)}) == 3


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (stream("fine: 3 images/s, a/b/c, https://example.org/home/x, <td>1</td>\n"), ""),
        (shown(**{"image/png": "aGVsbG8/tmp/aGVsbG8="}), ""),
        (stream("oops\n", "stderr"), "stores stderr output, 'oops'"),
        (stream(f"saved {Path.home() / 'x'}\n"), "absolute path"),
        (stream(f"saved in {Path.cwd()}.\n"), "absolute path"),
        (stream("/home/somebody/x\n"), "absolute path '/home/somebody/x'"),
        (shown(**{"text/plain": r"'C:\\Users\\x'"}), "absolute path"),
        (shown(**{"application/json": {"file": "/Users/x/y"}}), "absolute path"),
        (shown(**{"text/plain": "<object at 0x7f0011223344>"}), "memory address"),
    ],
)
def test_outputs_that_nobody_should_see_are_found(output, problem):
    nb = notebook(code("1", "one"))
    nb.cells[0].outputs = [output]
    found = nb_tools.output_problems(nb)
    assert [problem in line for line in found] == ([True] if problem else [])


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("one\ntwo\n", "one\ntwo\n"),
        ("count 1\rcount 2\rcount 3\nend\n", "count 3\nend\n"),
        ("\r  0%|   | 0/2 [00:00<?]\r100%|###| 2/2 [00:01<00:00]\n", ""),
        ("\r3it [00:01, 2.5it/s]\r          \r", ""),
        ("before\n\r 50%|## | 1/2 [00:00<00:01]\nafter\n", "before\nafter\n"),
        ("accuracy: 93%|ok\n", "accuracy: 93%|ok\n"),
    ],
)
def test_progress_bars_leave_no_trace(written, kept):
    assert execute.final_lines(written) == kept


def test_live_widget_gives_way_to_html_that_needs_no_kernel():
    widget = {execute.WIDGET: {"model_id": "1"}}
    both, alone = execute.clean_outputs([shown(**widget, **{"text/html": "<p>frames</p>"}), shown(**widget)])
    assert both.data == {"text/html": "<p>frames</p>"}
    assert alone.data == widget


def test_unknown_notebook_is_refused_by_name(tmp_path):
    save(notebook(code("1", "one")), tmp_path, "01_chapter")
    with pytest.raises(SystemExit, match=r"'04_cnn' does not exist .* 01_chapter"):
        nb_tools.find(["notebooks/04_cnn.ipynb"], tmp_path)
    assert nb_tools.find(["01_chapter"], tmp_path) == nb_tools.find([], tmp_path)


def test_a_notebook_named_twice_is_run_once(tmp_path):
    path = save(notebook(code("1", "one")), tmp_path, "01_chapter")
    assert nb_tools.find(["01_chapter", "notebooks/01_chapter.ipynb"], tmp_path) == [path]


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[]", "null", '{"nbformat": 4, "cells": 5, "metadata": {}}', '{"nbformat": 99}']
)
def test_a_file_that_is_no_notebook_is_told_in_one_line(tmp_path, text):
    path = tmp_path / "01_chapter.ipynb"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^01_chapter\.ipynb: no notebook \(.*\): restore the file$"):
        nb_tools.read(path)


def test_a_folder_with_other_files_is_not_emptied(tmp_path, capsys):
    path = save(notebook(code("1", "one")), tmp_path, "01_chapter")
    with pytest.raises(SystemExit):
        check.main(["--notebooks-dir", str(tmp_path), "--work-dir", str(tmp_path)])
    assert path.exists()
    assert "is emptied first and holds other files: name a new one" in capsys.readouterr().err


def test_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = save(notebook(code("1", "one")), tmp_path, "01_chapter")
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="disk full"):
        nb_tools.write(path, notebook(code("2", "two")))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
