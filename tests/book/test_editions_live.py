"""One edition in an environment without the package, and one in JupyterLab as `make lab` opens it."""

import http.server
import json
import re
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from chromium import running_chromium
from conftest import nowhere
from nbformat.v4 import new_code_cell
from playwright.sync_api import Page, expect
from rooms import ROOT

from tools.editions.chapter import Edition
from tools.editions.readers import MANIFEST, fingerprint
from tools.editions.references import Book
from tools.notebooks import notebook

CHAPTER = ROOT / "notebooks" / "02_autograd.ipynb"
RUN = """
import sys, nbformat
from nbclient import NotebookClient
nb = nbformat.read(sys.argv[1], 4)
NotebookClient(nb, kernel_name="python3", timeout=300, startup_timeout=180).execute()
nbformat.write(nb, sys.argv[1])
"""


def homeless(folder: Path) -> dict[str, str]:
    """Return an environment without the package and the user's settings, whose home is `folder`."""
    left_out = ("PYTHON", "JUPYTER", "IPYTHON", "PIP_", "BIGMODEL_", "VIRTUAL_ENV")
    kept = {name: value for name, value in nowhere().items() if not name.startswith(left_out)}
    names = (
        "HOME",
        "USERPROFILE",
        "JUPYTER_DATA_DIR",
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_RUNTIME_DIR",
        "IPYTHONDIR",
    )
    kept |= {name: str(folder / name.lower()) for name in names}
    return kept | {
        "BIGMODEL_PROFILE": "smoke",
        "OMP_NUM_THREADS": "1",
        "PIP_RETRIES": "0",
        "PYTHONUTF8": "1",
    }


# ---------------------------------------------------------------------------- an empty environment


@pytest.fixture
def empty_python(tmp_path: Path) -> Path:
    """Return the Python of an environment that has what this one has, but for the package and what is editable."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if "bigmodel" not in entry.name and entry.suffix != ".pth":
                try:
                    (packages / entry.name).symlink_to(entry)
                except OSError:
                    pytest.skip("this user may not make symbolic links")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    base = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    own = Path(sysconfig.get_path("purelib", "venv", base))
    (own / "packages.pth").write_text(f"{packages}\n", encoding="utf-8")
    return Path(sysconfig.get_path("scripts", "venv", base)) / Path(sys.executable).name


@pytest.fixture
def site(built_book: Path) -> Iterator[str]:
    """Return the address at which the built pages are served."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=built_book)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_edition_runs_where_its_first_cell_must_install_the_package(
    empty_python: Path, site: str, tmp_path: Path, no_process_left: None
) -> None:
    nb = Edition(CHAPTER, Book(site=site)).notebook()
    for cell in nb.cells:
        cell.metadata.tags = [tag for tag in cell.metadata.get("tags", []) if tag != "skip-execution"]
    nb.cells.append(new_code_cell("import bigmodel_helpers\nbigmodel_helpers.__file__", id="where"))
    path = tmp_path / CHAPTER.name
    notebook.write(path, nb)
    environment = homeless(tmp_path)
    asked = [str(empty_python), "-c", "import importlib.util as u; print(u.find_spec('bigmodel_helpers'))"]
    asked = subprocess.run(
        asked, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=True
    )
    assert asked.stdout.strip() == "None"
    command = [str(empty_python), "-c", RUN, str(path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    cells = {cell.id: cell for cell in notebook.read(path).cells}
    assert cells["install"].outputs[0].text == "bigmodel_helpers is there\n"
    assert str(tmp_path / "venv") in cells["where"].outputs[0].data["text/plain"]
    (figure,) = cells["descent"].outputs
    assert {"application/vnd.jupyter.widget-view+json", "text/html"} <= figure.data.keys(), (
        "alive in a kernel"
    )
    assert "<th>profile</th><td>smoke</td>" in cells["provenance"].outputs[0].data["text/html"]


# --------------------------------------------------------------------------------------- JupyterLab


@pytest.fixture
def lab(tmp_path: Path, no_process_left: None) -> Iterator[str]:
    """Start JupyterLab as `make lab` does, in `tmp_path`; return the address of its notebooks."""
    settings = tmp_path / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')  # all cells at once
    environment = homeless(tmp_path) | {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings")}
    environment |= {"JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces")}
    command = [sys.executable, "-m", "tools.editions.lab", "--folder", str(tmp_path / "mine"), "--no-browser"]
    command += ["--port=0", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    command += ["--LabApp.news_url=None"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    runtime = Path(environment["JUPYTER_RUNTIME_DIR"])
    end = time.monotonic() + 180
    while not (found := [*runtime.glob("jpserver-*.json")]):
        assert server.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.2)
    about = json.loads(found[0].read_text())
    yield f"{about['url']}lab/tree/{{}}?token={about['token']}"
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    server.terminate()
    _, alive = psutil.wait_procs(processes, timeout=20)
    for process in alive:
        process.kill()
    server.wait()


def shown(page: Page) -> list[str]:
    """Return what a reader reads in each text cell."""
    return page.locator(".jp-MarkdownCell .jp-MarkdownOutput").all_inner_texts()


def test_jupyterlab_shows_an_edition(lab: str, tmp_path: Path) -> None:
    path = tmp_path / "mine" / CHAPTER.name
    nb = notebook.read(path)
    hidden = [cell for cell in nb.cells if cell.metadata.get("jupyter", {}).get("source_hidden")]
    tags = re.findall(r"\\tag\{([\d.]+)\}", "".join(cell.source for cell in nb.cells))
    assert len(tags) > 5
    with running_chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(lab.format(path.name))
        cells = page.locator(".jp-Notebook .jp-Cell")
        page.wait_for_function(
            f"document.querySelectorAll('.jp-Notebook .jp-Cell').length == {len(nb.cells)}", timeout=120_000
        )
        page.wait_for_function(
            f"document.querySelectorAll('mjx-labels').length == {len(tags)}", timeout=120_000
        )
        assert cells.count() == len(nb.cells)
        text = "\n".join(shown(page))
        for raw in (r"\{[\w:]+\}", r":{3,}", ":label:", r"\$", r"\\tag", "solution-", r"\[\w+ et al"):
            assert not re.search(raw, text), raw
        numbers = page.locator("mjx-assistive-mml mlabeledtr > mtd:first-child").all_text_contents()
        assert numbers == [f"({tag})" for tag in tags]
        assert page.locator("mjx-merror").count() == 0
        assert page.locator("blockquote strong").first.inner_text() == "In this chapter"
        assert "Exercise 2.1: A rule for log-softmax" in text
        assert page.locator(".jp-InputPlaceholder").count() == len(hidden) > 5
        for number, cell in enumerate(nb.cells):
            if {"exercise", "solution"} & set(notebook.tags(cell)):
                editors = cells.nth(number).locator(".jp-InputArea-editor:visible")
                assert editors.count() == ("exercise" in notebook.tags(cell)), cell.id
        assert page.locator("details[open]").count() == 0
        moving = page.locator(".explore[data-ready]").first  # the stored figure is trusted, so it moves
        expect(moving.locator("fieldset")).to_be_visible(timeout=60_000)
        before = moving.locator("img").get_attribute("alt")
        moving.get_by_role("slider").first.press("ArrowRight")
        expect(moving.locator("img")).not_to_have_attribute("alt", before)
        saved = path.stat().st_mtime_ns
        cells.first.click()
        page.keyboard.press("Control+s")
        for _ in range(200):
            page.wait_for_timeout(50)
            if path.stat().st_mtime_ns != saved:
                break
        page.close()
    assert path.stat().st_mtime_ns != saved
    given = json.loads((path.parent / MANIFEST).read_text())[path.name]
    assert fingerprint(notebook.read(path)) == given, "opened and saved is not yet changed by the reader"
