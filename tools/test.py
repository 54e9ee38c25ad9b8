"""`make test`: the tests, then the notebooks. Both run, whatever fails; the end says what did, and how to run it."""

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHOWN = 10


def failed_tests(report: Path) -> list[str]:
    """Return a line for each failed test in pytest's report: its name, and the first line of the reason."""
    told = []
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        faults = [*case.iter("failure"), *case.iter("error")]
        if faults:
            file = case.get("classname", "").replace(".", "/")
            name = f"{file}.py::{case.get('name')}" if file else case.get("name")
            told.append(f"{name}: {(faults[0].get('message') or '').partition(chr(10))[0][:200]}")
    return told


def run_tests(jobs: int, arguments: list[str]) -> list[str]:
    """Run pytest with `arguments` in `jobs` processes, long files first; return a line for each test that failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-p", "tests.forbid_skips", "-n", str(jobs)]
        command += ["-p", "tests.long_first", "--dist", "loadfile", "--no-loadscope-reorder"]
        command += [f"--junitxml={report}", *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        return failed_tests(report) or [f"pytest ended with status {status}"] if status else []


def run_notebooks() -> bool:
    """Check the notebooks; return whether all passed."""
    command = [sys.executable, "-m", "tools.notebooks.check"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main() -> int:
    """Run both; return 1 where one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="tests that run at the same time")
    options = parser.parse_args()
    print("==> Tests", flush=True)
    failed = run_tests(options.jobs, [])
    print("==> Notebooks", flush=True)
    well = run_notebooks()
    if failed:
        more = [f"... and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
        alone = f"one alone: {sys.executable} -m pytest NAME"
        print(f"\n==> Tests FAILED: {len(failed)}; {alone}", *failed[:SHOWN], *more, sep="\n")
    if failed or not well:
        return 1
    print("==> All tests passed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
