"""Where the book is: its repository, its site, and what the site offers to run the chapters elsewhere."""

import json
import os
import re
from html import escape
from importlib.metadata import version
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

EDITIONS = "editions"  # the branch that holds the notebooks in plain Markdown
READERS_FOLDER = "my-notebooks"  # where `make lab` and Binder put them
DOWNLOADS = "download"  # the folder of the site with the wheel and the notebooks
ARCHIVE = f"{DOWNLOADS}/notebooks.zip"
PDF = f"{DOWNLOADS}/book.pdf"

FIND = """\
# Installs the package of the book where it is missing.
# In the book's own environment it does nothing.
import importlib.util
"""
INSTALL = """\
import subprocess
import sys

if importlib.util.find_spec("bigmodel_helpers") is None:
    site = "{site}/{folder}"
    wheel = f"{{site}}/{wheel}"
    command = [sys.executable, "-m", "pip", "install", "--quiet"]
    command += [f"bigmodel-helpers[notebooks] @ {{wheel}}"]
    command += {others}
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stderr if done.returncode else "bigmodel_helpers is there")
"""
INSTALL_MORE = """\
    command = [*command[:5], {words}]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stderr if done.returncode else "{name} is there")
"""
EXPLAIN = """\
import sys

if importlib.util.find_spec("bigmodel_helpers") is None:
    print("bigmodel_helpers is missing: in the folder of the book, run")
    print(f'"{sys.executable}" -m pip install ".[notebooks]"')"""
EXPLAIN_MORE = """
    print(f'"{{sys.executable}}" -m pip install {words}')"""


def repository_url() -> str | None:
    """Return the public address of the repository if the environment tells it, else None."""
    if url := os.environ.get("BOOK_REPOSITORY_URL"):
        return url.rstrip("/")
    server, name = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    return f"{server.rstrip('/')}/{name}" if server and name else None


def repository_branch() -> str:
    """Return the branch of the repository from which the pages are made."""
    return os.environ.get("BOOK_REPOSITORY_BRANCH", "main")


def site_url() -> str | None:
    """Return the public address of the built pages if the environment tells it, else None."""
    url = os.environ.get("BOOK_SITE_URL", "").rstrip("/")
    if url and not re.match(r"https?://[\w.~:/%@-]+$", url):
        raise ExtensionError(
            f"BOOK_SITE_URL is {url!r}, no address: write it as in https://ann.github.io/book"
        )
    return url or None


def wheel_name() -> str:
    """Return the name of the package's wheel."""
    return f"bigmodel_helpers-{version('bigmodel-helpers')}-py3-none-any.whl"


def is_install_cell(cell: dict[str, Any]) -> bool:
    """Say whether a cell of a notebook is the one that installs the package."""
    return cell["cell_type"] == "code" and "".join(cell["source"]).startswith("%pip install")


def install_code(source: str, site: str | None) -> str:
    """Return what does the work of an install cell with the package from `site`, or says how where there is none.

    The first line of the cell installs the package; each further line is a command of its own, with its own options.
    """
    first, *more = (line.split()[2:] for line in source.splitlines())
    more = [[word for word in words if word != "-q"] for words in more]
    if site is None:
        return FIND + EXPLAIN + "".join(EXPLAIN_MORE.format(words=" ".join(words)) for words in more)
    others = [word for word in first if not word.startswith(("-", '"bigmodel-helpers'))]
    code = INSTALL if others else INSTALL.replace("    command += {others}\n", "")
    code = code.format(site=site, folder=DOWNLOADS, wheel=wheel_name(), others=json.dumps(others))
    for words in more:
        name = words[-1].partition("==")[0]
        code += INSTALL_MORE.format(words=json.dumps(words)[1:-1], name=name)
    return f"{FIND}{code}    importlib.invalidate_caches()"


def show_install_code(_app: Sphinx, page: str, source: list[str]) -> None:
    """Show on the page of a chapter the install cell of its edition, which works."""
    if page.startswith("notebooks/"):
        notebook = json.loads(source[0])
        for cell in filter(is_install_cell, notebook["cells"]):
            cell["source"] = install_code("".join(cell["source"]), site_url())
        source[0] = json.dumps(notebook)


def add_repository_links(_app: Sphinx, config: Config) -> None:
    """Switch on the launch, repository, issue and edit buttons where the public repository is known."""
    url, site = repository_url(), site_url()
    config.html_baseurl = f"{site}/" if site else ""
    config.myst_substitutions = {"pdf": pdf_markdown(site)}
    config.bigmodel_places = [url, repository_branch(), site, wheel_name()]
    if url is None:
        config.html_theme_options["launch_buttons"] = {}
        return
    on_github = url.startswith("https://github.com/")
    config.html_theme_options |= {
        "repository_url": url,
        "repository_branch": repository_branch(),
        "use_repository_button": True,
        "use_issues_button": True,
        "use_edit_page_button": True,
        "launch_buttons": {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com" if on_github else "",
        },
    }


def pdf_markdown(site: str | None) -> str:
    """Return how a reader gets the book as a PDF: from the site where it is known, else by printing it."""
    prints = "`make pdf` prints the pages that `make book` built into one PDF; it needs Chromium or Chrome."
    where = f"To read on paper, there is [the whole book as a PDF]({site}/{PDF}). " if site else ""
    return f"{where}{prints}"


def launch_editions(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Let the launch buttons open the editions: Binder in the reader's folder, Colab on their branch."""
    branch = repository_branch()
    for group in context.get("header_buttons", ()):
        if isinstance(group, dict) and group.get("label") == "launch-buttons":
            for button in group["buttons"]:
                url = button["url"].replace("lab/tree/notebooks/", f"lab/tree/{READERS_FOLDER}/")
                button["url"] = url.replace(f"/blob/{branch}/notebooks/", f"/blob/{EDITIONS}/notebooks/")


def folder_markdown() -> str:
    """Return how a reader gets the folder of the book, with the address of the repository where it is known."""
    url = repository_url()
    if url is None:
        return (
            "Get the folder of the book first: with `git clone` and the address of its repository, or as a ZIP "
            "archive from the page of the repository (*Code*, *Download ZIP*). Open a terminal in that folder.\n"
        )
    name = escape(url.rpartition("/")[2])
    archive = f"{url}/archive/refs/heads/{repository_branch()}.zip"
    return (
        f"Get the folder of the book first:\n\n```bash\ngit clone {url}.git\ncd {name}\n```\n\n"
        f"Without git, download the folder as a [ZIP archive]({archive}), unpack it, and open a terminal in it.\n"
    )
