"""Where the editions go: the reader's folder, JupyterLab, the site, and the branch for Colab."""

import json
import os
import subprocess
import zipfile
from pathlib import Path
from types import ModuleType

import bigmodel_site
import jupyterlab.labapp
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from rooms import ROOT

from tools.editions import build, lab, publish, readers, site
from tools.editions.readers import MANIFEST, deliver
from tools.notebooks import notebook

NAME = "01_concepts.ipynb"


def edition(text: str) -> nbformat.NotebookNode:
    return new_notebook(cells=[new_markdown_cell(text, id="a"), new_code_cell("1 + 1", id="b")])


FIRST, SECOND, THIRD = ({NAME: edition(text)} for text in ("first", "second", "third"))


@pytest.fixture(autouse=True)
def jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Jupyter keep what it trusts in a folder of the test."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "my-notebooks"


def shown(folder: Path) -> dict[str, str]:
    """Return the first cell of each notebook in `folder`."""
    return {path.name: notebook.read(path).cells[0].source for path in sorted(folder.glob("*.ipynb"))}


def write_into(path: Path, text: str) -> None:
    nb = notebook.read(path)
    nb.cells[0].source = text
    nbformat.write(nb, path)


# ------------------------------------------------------------------------------- the reader's folder


def test_new_files_are_put_there(folder: Path) -> None:
    assert deliver(folder, FIRST) == []
    assert shown(folder) == {NAME: "first"}
    assert json.loads((folder / MANIFEST).read_text()) == {NAME: readers.fingerprint(FIRST[NAME])}


def test_unchanged_files_follow_the_book(folder: Path) -> None:
    deliver(folder, FIRST)
    before = (folder / NAME).stat().st_mtime_ns
    deliver(folder, FIRST)
    assert (folder / NAME).stat().st_mtime_ns == before, "the same edition is not written again"
    assert deliver(folder, SECOND) == []
    assert shown(folder) == {NAME: "second"}


def test_changed_files_stay(folder: Path) -> None:
    deliver(folder, FIRST)
    write_into(folder / NAME, "mine")
    assert deliver(folder, FIRST) == []
    assert shown(folder) == {NAME: "mine"}


def test_a_later_edition_lies_beside_a_changed_file(folder: Path) -> None:
    deliver(folder, FIRST)
    write_into(folder / NAME, "mine")
    line = f"{NAME} is yours and stays; the new edition is 01_concepts-2.ipynb"
    assert deliver(folder, SECOND) == [line]
    assert shown(folder) == {NAME: "mine", "01_concepts-2.ipynb": "second"}
    assert deliver(folder, SECOND) == []
    assert deliver(folder, THIRD) == [line], "what the reader has not touched follows the book"
    assert shown(folder) == {NAME: "mine", "01_concepts-2.ipynb": "third"}
    write_into(folder / "01_concepts-2.ipynb", "mine, too")
    assert deliver(folder, FIRST) == [], "the edition that the first file came from is no news"
    assert deliver(folder, SECOND)[0].endswith("01_concepts-3.ipynb")
    assert shown(folder) == {
        NAME: "mine",
        "01_concepts-2.ipynb": "mine, too",
        "01_concepts-3.ipynb": "second",
    }


def test_what_jupyter_changes_by_itself_does_not_count(folder: Path) -> None:
    deliver(folder, FIRST)
    nb = notebook.read(folder / NAME)
    nb.metadata["language_info"] = {"name": "python", "version": "3.13.1"}
    nb.cells[1].metadata["collapsed"] = True
    nb.cells[0]["id"] = "another"
    nbformat.write(nb, folder / NAME)
    deliver(folder, SECOND)
    assert shown(folder) == {NAME: "second"}


def test_outputs_of_a_run_count(folder: Path) -> None:
    deliver(folder, FIRST)
    nb = notebook.read(folder / NAME)
    nb.cells[1].outputs = [new_output("stream", text="2")]
    nbformat.write(nb, folder / NAME)
    assert len(deliver(folder, SECOND)) == 1
    assert notebook.read(folder / NAME).cells[1].outputs[0].text == "2"


def test_deleted_files_come_back(folder: Path) -> None:
    deliver(folder, FIRST)
    (folder / NAME).unlink()
    deliver(folder, FIRST)
    assert shown(folder) == {NAME: "first"}


OTHERS = {
    "empty": b"",
    "text": b"my notes",
    "JSON": b'{"a": 1}',
    "list": b"[]",
    "no text": b"\xff\xfe\x00",
    "future": b'{"nbformat": 99, "nbformat_minor": 0, "metadata": {}, "cells": []}',
    "cells": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [1]}',
    "old": b'{"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [{"cell_type": "markdown", "metadata": {},'
    b' "source": "mine"}]}',
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_any_other_file_of_that_name_stays(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / NAME).write_bytes(content)
    assert len(deliver(folder, FIRST)) == 1
    assert (folder / NAME).read_bytes() == content
    assert notebook.read(folder / "01_concepts-2.ipynb").cells[0].source == "first"


def test_a_folder_of_that_name_stays(folder: Path) -> None:
    (folder / NAME).mkdir(parents=True)
    assert deliver(folder, FIRST)[0].endswith("01_concepts-2.ipynb")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_of_that_name_is_not_waited_for(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / NAME)
    assert deliver(folder, FIRST)[0].endswith("01_concepts-2.ipynb")


def test_a_huge_file_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(folder, FIRST)
    monkeypatch.setattr(readers, "MAX_BYTES", 10)
    assert readers.present(folder / NAME) == "no notebook"


def test_the_same_file_without_a_list_is_known_again(folder: Path) -> None:
    deliver(folder, FIRST)
    (folder / MANIFEST).unlink()
    assert deliver(folder, FIRST) == []
    assert list(shown(folder)) == [NAME]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', "\udcff"])
def test_a_damaged_list_is_one_line(folder: Path, content: str) -> None:
    deliver(folder, FIRST)
    (folder / MANIFEST).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(SystemExit, match=r"\.editions\.json: not readable: delete it"):
        deliver(folder, SECOND)
    assert shown(folder) == {NAME: "first"}


def test_a_file_in_place_of_the_folder_is_one_line(folder: Path) -> None:
    folder.write_text("x")
    with pytest.raises(SystemExit, match="a file where the folder of your notebooks should be"):
        deliver(folder, FIRST)


def test_jupyter_trusts_what_it_got_from_the_book_only(folder: Path) -> None:
    deliver(folder, FIRST)
    notary = readers.NotebookNotary()
    assert notary.check_signature(notebook.read(folder / NAME))
    write_into(folder / NAME, "mine")
    deliver(folder, FIRST)
    assert not notary.check_signature(notebook.read(folder / NAME))


# ----------------------------------------------------------------------------------------- make lab


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the options with which JupyterLab was started, without starting it."""
    calls: list[list[str]] = []
    monkeypatch.setattr(jupyterlab.labapp, "main", calls.append)
    monkeypatch.setattr(lab, "editions", lambda site: FIRST)
    return calls


@pytest.mark.parametrize(
    ("user", "given", "options"),
    [
        (0, [], ["--allow-root"]),
        (0, ["--allow-root"], ["--allow-root"]),
        (0, ["--port=8890"], ["--allow-root", "--port=8890"]),
        (1000, ["--no-browser"], ["--no-browser"]),
        (None, [], []),
    ],
)
def test_lab_starts_in_the_readers_folder(
    folder: Path,
    started: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    user: int | None,
    given: list[str],
    options: list[str],
) -> None:
    if user is None:
        monkeypatch.delattr(os, "geteuid", raising=False)  # Windows
    else:
        monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
    lab.main(["--folder", str(folder), *given])
    assert started == [[str(folder), *options]]
    printed = capsys.readouterr().out
    assert f"==> Your notebooks are in {folder}" in printed
    assert ("You are root" in printed) == (user == 0 and "--allow-root" not in given)


def test_lab_says_what_lies_beside(
    folder: Path, started: list[list[str]], capsys: pytest.CaptureFixture
) -> None:
    deliver(folder, SECOND)
    write_into(folder / NAME, "mine")
    lab.main(["--folder", str(folder), "--no-start"])
    assert started == []
    assert "==> 01_concepts.ipynb is yours and stays" in capsys.readouterr().out


def test_lab_explains_a_folder_that_cannot_be_written(tmp_path: Path, started: list[list[str]]) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SystemExit, match="name another folder with --folder"):
        lab.main(["--folder", str(tmp_path / "file" / "inside")])
    assert started == []


# ----------------------------------------------------------------------------------------- the site


def test_site_carries_wheel_and_archive(built_book: Path) -> None:
    with zipfile.ZipFile(built_book / "download" / bigmodel_site.wheel_name()) as wheel:
        names = wheel.namelist()
    package = ROOT / "bigmodel_helpers"
    wanted = {path.relative_to(ROOT).as_posix() for path in package.rglob("*") if path.suffix != ".pyc"}
    assert {name for name in wanted if (ROOT / name).is_file()} <= set(names)
    assert not any(name.startswith(("tests", "tools", "book")) for name in names)
    with zipfile.ZipFile(built_book / bigmodel_site.ARCHIVE) as archive:
        assert sorted(archive.namelist()) == [f"my-notebooks/{path.name}" for path in notebook.find([])]
        for name in archive.namelist():
            text = archive.read(name).decode("utf-8")
            assert text == (built_book / site.CHAPTERS / Path(name).name).read_text(encoding="utf-8")
            assert "{admonition}" not in text


def test_download_button_leads_to_the_edition(built_book: Path) -> None:
    for path in notebook.find([]):
        html = (built_book / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert f'href="../{site.CHAPTERS}/{path.name}"' in html
        nb = notebook.read(built_book / site.CHAPTERS / path.name)
        assert nb.cells[0].source.startswith(f"# {int(path.stem[:2])}. ")


def test_setup_links_the_archive(built_book: Path) -> None:
    assert f'href="../{bigmodel_site.ARCHIVE}"' in (built_book / "book" / "setup.html").read_text(
        encoding="utf-8"
    )


def test_site_without_pages_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no built pages: run make book first"):
        site.main([str(tmp_path)])


def test_a_wheel_that_cannot_be_built_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "BUILD_WHEEL", "raise SystemExit('two\\nlines')")
    with pytest.raises(SystemExit, match=r"^the wheel cannot be built: lines$"):
        site.write_wheel(tmp_path)


# --------------------------------------------------------------------------------------- the branch


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, encoding="utf-8", check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with one commit, and `remote` beside it as its origin."""
    for name in ("remote", "here"):
        subprocess.run(["git", "init", "-q", "-b", "main", str(tmp_path / name)], check=True)
    here = tmp_path / "here"
    (here / "file").write_text("x")
    git(here, "add", "file")
    git(here, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "first")
    git(here, "remote", "add", "origin", str(tmp_path / "remote"))
    return here


def test_publish_puts_the_notebooks_on_their_branch(tmp_path: Path, repository: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    for made in (FIRST, SECOND):
        notebook.write(pages / NAME, made[NAME])
        publish.publish(pages, repository, "origin")
    remote = tmp_path / "remote"
    assert git(remote, "ls-tree", "-r", "--name-only", "editions") == f"notebooks/{NAME}"
    assert git(remote, "show", f"editions:notebooks/{NAME}") == (pages / NAME).read_text().strip()
    assert git(remote, "rev-list", "--count", "editions") == "1"
    assert git(repository, "status", "--short") == ""
    assert git(repository, "branch", "--list") == "* main"


def test_publish_says_what_is_missing(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="no notebooks: run make book first"):
        publish.publish(tmp_path, repository, "origin")
    notebook.write(tmp_path / NAME, FIRST[NAME])
    with pytest.raises(SystemExit, match=r"^git push: [^\n]+$"):
        publish.publish(tmp_path, repository, "nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="git is missing"):
        publish.publish(tmp_path, repository, "origin")


@pytest.mark.parametrize("program", [build, lab, publish, site], ids=lambda program: program.__name__)
def test_each_program_tells_its_options(program: ModuleType, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        program.main(["--help"])
    assert f"usage: python -m {program.__name__} " in capsys.readouterr().out
