"""The README keeps its promises: its code runs as printed, its targets and files exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE-TEXT.md")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def make_targets(text: str) -> set[str]:
    """Return the make targets that `text` names in code: `make book`, or a line ``make book``."""
    code = re.findall(r"`make ([a-z]+)", text) + re.findall(r"^make ([a-z]+)", text, re.MULTILINE)
    return set(code)


def test_code_runs_as_printed(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", read("README.md"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    code_lines = [line for line in blocks[0].splitlines() if line]
    assert len(code_lines) <= 10, "the README promises ten lines"
    script = tmp_path / "readme.py"
    script.write_text(blocks[0], encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BIGMODEL_")}
    environment |= {"PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    environment |= {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "stand-in" in done.stdout
    accuracy = re.search(r"^test accuracy: ([\d.]+) % \(([\d.]+)-([\d.]+)\)$", done.stdout, re.MULTILINE)
    assert accuracy, done.stdout
    assert float(accuracy[2]) > 10, "after training, the interval lies above the 10 % of guessing"


@pytest.mark.parametrize("page", PAGES)
def test_named_make_targets_exist(page: str) -> None:
    known = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert make_targets(read(page)) <= known


def test_readme_names_the_two_commands() -> None:
    assert {"book", "test"} <= make_targets(read("README.md"))


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_to_files(page: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(page))
    broken = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not broken


def test_paths_in_the_table_exist() -> None:
    rows = re.findall(r"^\| (`.*`) \|", read("README.md"), re.MULTILINE)
    paths = [path for row in rows for path in re.findall(r"`([^`]+)`", row)]
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_pictures_have_alternative_texts() -> None:
    pictures = re.findall(r"!\[(.*?)\]\(", read("README.md"))
    assert pictures
    assert all(len(text) > 20 for text in pictures)
