"""`make book`: a build that failed fails again, and one that was good is quick."""

import subprocess
from pathlib import Path

import pytest

from tools import book

CONFIG = """\
title: A small book
only_build_toc_files: true
execute: {execute_notebooks: "off"}
sphinx:
  config:
    extensions: [myst_nb, jupyter_book, sphinx_comments, sphinx_external_toc, sphinx_book_theme]
    suppress_warnings: [myst.domains]
"""
TOC = "format: jb-book\nroot: book/a\nchapters:\n  - file: book/b\n  - file: book/c\n"
PAGES = {"a": "# A", "b": "# B\n\n(here)=\n## Here", "c": "# C\n\n{ref}`here`"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of a book of three pages."""
    (tmp_path / "book").mkdir()
    (tmp_path / "_config.yml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "_toc.yml").write_text(TOC, encoding="utf-8")
    for name, text in PAGES.items():
        (tmp_path / "book" / f"{name}.md").write_text(f"{text}\n\nText.\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the builder by one that ends with the first of these statuses and takes it away."""
    statuses: list[int] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess:
        assert command[-3:] == ["-W", "--keep-going", "--all"]
        page = Path(command[-4], "_build", "html", "index.html")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.touch()
        return subprocess.CompletedProcess(command, statuses.pop(0))

    monkeypatch.setattr(book.subprocess, "run", run)
    return statuses


def test_a_link_that_another_page_broke_fails_the_build(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert book.build(root) == 0, capfd.readouterr()
    page = root / "book" / "b.md"
    page.write_text(page.read_text(encoding="utf-8").replace("here", "there"), encoding="utf-8")
    capfd.readouterr()
    assert book.build(root) != 0
    out, err = capfd.readouterr()
    assert "c.md:3: WARNING: undefined label: 'here'" in out + err
    assert "The book is ready" not in out


def test_a_failed_build_is_tried_again_and_a_good_one_is_not(
    root: Path, builds: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    builds += [1, 1, 0]
    assert [book.build(root) for _ in range(5)] == [1, 1, 0, 0, 0]
    assert capsys.readouterr().out.count("The book is ready") == 3
    (root / "_build" / "html" / "index.html").unlink()
    builds += [2]
    assert book.build(root) == 2


@pytest.mark.parametrize("change", ["older", "gone", "new", "config", "address"])
def test_any_change_builds_again(
    root: Path, builds: list[int], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds += [0, 3]
    assert book.build(root) == 0
    page = root / "book" / "c.md"
    if change == "older":
        page.write_text("# An older C\n", encoding="utf-8")
        book.os.utime(page, (1, 1))
    elif change == "gone":
        page.unlink()
    elif change == "new":
        page.with_name("picture.svg").touch()
    elif change == "config":
        (root / "_config.yml").write_text(CONFIG.replace("small", "smaller"), encoding="utf-8")
    else:
        monkeypatch.setenv("BOOK_REPOSITORY_URL", "https://example.org/a/b")
    assert book.build(root) == 3


def test_a_build_that_was_stopped_is_not_ready(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(book.subprocess, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        book.build(root)
    assert not (root / "_build" / "book-is-ready").exists()
