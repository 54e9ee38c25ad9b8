"""`make test` runs the tests and the notebooks, whatever fails, and its end says what did."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from long_first import LONG, pytest_collection_modifyitems

from tools import test as make_test

FAILING = """\
import pytest

@pytest.mark.parametrize("n", [1, 2])
def test_number(n):
    assert n == 1, "two is not one\\nand more"

@pytest.fixture
def broken():
    raise OSError("no disk")

def test_broken(broken):
    pass
"""


@pytest.mark.parametrize(
    ("failed", "well", "status"), [([], True, 0), (["a: b"], True, 1), ([], False, 1), (["a: b"], False, 1)]
)
def test_both_run_and_each_can_fail_the_whole(monkeypatch, capsys, failed, well, status):
    ran = []
    monkeypatch.setattr(make_test, "run_tests", lambda *_: ran.append("tests") or failed)
    monkeypatch.setattr(make_test, "run_notebooks", lambda: ran.append("notebooks") or well)
    monkeypatch.setattr("sys.argv", ["test.py"])
    assert make_test.main() == status
    assert ran == ["tests", "notebooks"]
    assert ("All tests passed" in capsys.readouterr().out) == (status == 0)


def test_the_end_is_short(monkeypatch, capsys):
    monkeypatch.setattr(make_test, "run_tests", lambda *_: [f"test {n}: it failed" for n in range(44_000)])
    monkeypatch.setattr(make_test, "run_notebooks", lambda: True)
    monkeypatch.setattr("sys.argv", ["test.py"])
    assert make_test.main() == 1
    *_, last = lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 16
    assert last == "... and 43990 more"
    assert any(line.startswith("==> Tests FAILED: 44000; one alone: ") for line in lines)


def test_failed_tests_are_told_with_their_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (tmp_path / "test_it.py").write_text(FAILING, encoding="utf-8")
    options = [
        "-q",
        "-p",
        "xdist.plugin",
        "-c",
        str(tmp_path / "pytest.ini"),
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    assert make_test.run_tests(0, options) == [
        "test_it.py::test_number[2]: AssertionError: two is not one",
        'test_it.py::test_broken: failed on setup with "OSError: no disk"',
    ]


def test_a_pytest_that_did_not_get_so_far_has_failed(monkeypatch):
    ended = subprocess.CompletedProcess([], 4)
    monkeypatch.setattr(make_test.subprocess, "run", lambda *_, **__: ended)
    assert make_test.run_tests(2, []) == ["pytest ended with status 4"]
    assert not make_test.run_notebooks()
    ended.returncode = 0
    assert make_test.run_tests(2, []) == []
    assert make_test.run_notebooks()


def test_long_files_come_first_then_those_with_most_tests():
    paths = [Path("tests", name) for name in ("data/test_a.py", LONG[1], "data/test_b.py", LONG[0])]
    items = [
        SimpleNamespace(path=path, n=n)
        for path, most in zip(paths, (1, 1, 2, 2), strict=True)
        for n in range(most)
    ]
    pytest_collection_modifyitems(items)
    a, second, b, first = paths
    assert [(item.path, item.n) for item in items] == [
        (first, 0),
        (first, 1),
        (second, 0),
        (b, 0),
        (b, 1),
        (a, 0),
    ]
    assert [name for name in LONG if not (make_test.ROOT / "tests" / name).is_file()] == []
