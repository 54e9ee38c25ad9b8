"""Open the chapters in JupyterLab, in a folder of the reader: `python -m tools.editions.lab`.

Options that are not listed here go to JupyterLab, such as --no-browser or --port=8890.
"""

import argparse
import os
import sys
from pathlib import Path

import bigmodel_site

from tools.editions.build import editions, site
from tools.editions.readers import deliver
from tools.notebooks import notebook


def jupyter_options(folder: Path, others: list[str]) -> list[str]:
    """Return the options of JupyterLab; root must say that this is meant."""
    is_root = getattr(os, "geteuid", lambda: 1)() == 0
    if is_root and "--allow-root" not in others:
        print("==> You are root: JupyterLab starts with --allow-root, and a notebook may change any file")
        others = ["--allow-root", *others]
    return [str(folder), *others]


def main(arguments: list[str] | None = None) -> None:
    """Bring the reader's folder up to date, and start JupyterLab in it."""
    parser = argparse.ArgumentParser(prog="python -m tools.editions.lab", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=notebook.ROOT / bigmodel_site.READERS_FOLDER)
    parser.add_argument("--no-start", action="store_true", help="only bring the folder up to date")
    options, others = parser.parse_known_args(arguments)
    folder = options.folder.expanduser()
    try:
        told = deliver(folder, editions(site=site()))
    except OSError as error:
        raise SystemExit(f"{folder}: {error.strerror}: name another folder with --folder") from error
    print("\n".join(f"==> {line}" for line in [f"Your notebooks are in {folder}", *told]), flush=True)
    if not options.no_start:
        from jupyterlab.labapp import main as start

        start(jupyter_options(folder, others))


if __name__ == "__main__":
    sys.exit(main())
