"""Editions: the chapters as notebooks in plain Markdown, for JupyterLab, VS Code, Colab and Binder.

`build` writes them (``make editions``), `lab` opens them in a folder of the reader (``make lab``), `site` adds
them to the built pages (``make book``), and `publish` puts them on a branch (``make publish``).
"""

import sys
from pathlib import Path

sys.path.append(
    str(Path(__file__).resolve().parents[2] / "book" / "_ext")
)  # the site's address is known there
