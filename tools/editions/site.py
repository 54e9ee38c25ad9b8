"""Add to the built pages what runs elsewhere, the editions and the package: `python -m tools.editions.site`."""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import bigmodel_site

from tools.editions.build import editions, site, write
from tools.notebooks import notebook

HTML = notebook.BUILD / "html"
CHAPTERS = "_sources/notebooks"  # where the download button of a page leads
BUILD_WHEEL = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def write_wheel(folder: Path) -> None:
    """Build the wheel of the package into `folder`, from a copy: setuptools leaves files beside the sources."""
    with tempfile.TemporaryDirectory() as copy:
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(notebook.ROOT / name, copy)
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(notebook.ROOT / "bigmodel_helpers", Path(copy, "bigmodel_helpers"), ignore=unwanted)
        command = [sys.executable, "-c", BUILD_WHEEL, str(folder.resolve())]
        done = subprocess.run(command, cwd=copy, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode or not (folder / bigmodel_site.wheel_name()).is_file():
        raise SystemExit(
            f"the wheel cannot be built: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        )


def main(arguments: list[str] | None = None) -> None:
    """Add the wheel, the editions behind the download buttons, and all of them as one archive."""
    parser = argparse.ArgumentParser(prog="python -m tools.editions.site", description=__doc__)
    parser.add_argument("html", type=Path, nargs="?", default=HTML, help="the folder of the built pages")
    html = parser.parse_args(arguments).html
    if not (html / "index.html").is_file():
        raise SystemExit(f"{html}: no built pages: run make book first")
    made = editions(site=site())
    downloads = html / bigmodel_site.DOWNLOADS
    shutil.rmtree(downloads, ignore_errors=True)
    downloads.mkdir()
    write_wheel(downloads)
    write(html / CHAPTERS, made)
    with ZipFile(html / bigmodel_site.ARCHIVE, "w", ZIP_DEFLATED) as archive:
        for name, nb in made.items():
            archive.writestr(f"{bigmodel_site.READERS_FOLDER}/{name}", notebook.text_of(nb))


if __name__ == "__main__":
    sys.exit(main())
