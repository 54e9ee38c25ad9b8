"""Shared by the tests: the book, built once and cleanly, and a fixture that finds processes left behind."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ["_config.yml", "_toc.yml", "book", "notebooks", "bigmodel_helpers", "tools/editions"]
PLACES = {
    "BOOK_REPOSITORY_URL",
    "BOOK_REPOSITORY_BRANCH",
    "BOOK_SITE_URL",
    "GITHUB_SERVER_URL",
    "GITHUB_REPOSITORY",
}


def nowhere() -> dict[str, str]:
    """Return the environment without the public repository and site that may surround the tests."""
    return {name: value for name, value in os.environ.items() if name not in PLACES}


def build_book(source: Path, output: Path, **environment: str) -> None:
    """Build a book from nothing with warnings as errors."""
    environment |= nowhere()
    shutil.rmtree(output, ignore_errors=True)
    program = shutil.which("jupyter-book", path=Path(sys.executable).parent)
    command = [program, "build", str(source), "-W", "--keep-going", "--path-output", str(output)]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=300)
    log = done.stdout + done.stderr
    warnings = [line for line in log.splitlines() if "WARNING" in line or "rror:" in line]
    assert done.returncode == 0, "the book does not build cleanly:\n" + ("\n".join(warnings) or log[-3000:])


def newest(paths: list[Path]) -> float:
    """Return when anything in `paths` last changed; a folder changes when a file in it comes or goes."""
    files = [path for top in paths for path in (top, *top.rglob("*")) if "__pycache__" not in path.parts]
    return max(path.stat().st_mtime for path in files)


def build_once(folder: Path, sources: list[Path], build: Callable[[], None]) -> None:
    """Call `build` if it never succeeded in `folder` or a source is newer; other test processes wait for it."""
    done = folder / "built-without-warnings"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock"), timeout=600):
        if not done.exists() or done.stat().st_mtime < newest(sources):
            build()
            done.touch()


@pytest.fixture(scope="session")
def built_book() -> Path:
    """Return the folder of the rendered pages of the book."""
    folder = ROOT / "_build" / "checked"  # apart from what `make book` leaves for the reader
    html = folder / "_build" / "html"

    def build() -> None:
        build_book(ROOT, folder)
        add = [sys.executable, "-m", "tools.editions.site", str(html)]
        subprocess.run(add, cwd=ROOT, env=nowhere(), check=True, timeout=300)

    build_once(folder, [ROOT / name for name in SOURCES], build)
    return html


def running_children() -> set[psutil.Process]:
    """Return the processes that this one has started, but for the two servers of `multiprocessing`.

    Those end with this process: `resource_tracker` and the server from which `launch` starts ranks on Linux.
    """
    servers = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
    found = set()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # also a zombie, which has ended
            command = " ".join(child.cmdline())
            if not any(name in command for name in servers):
                found.add(child)
    return found


@pytest.fixture
def no_process_left() -> Iterator[None]:
    """Fail a test after which a process that it started is still there."""
    before = running_children()
    yield
    _, alive = psutil.wait_procs(running_children() - before, timeout=5)
    for process in alive:
        process.kill()
    assert not alive, f"still running: {alive}"
