"""Build the book into `_build/html`: all of it where anything has changed, nothing where nothing has.

Sphinx shows the warnings of a page only when it makes that page. A page that was made, or whose link went dead
because another page changed, would keep silent the next time; so a build makes every page.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("_config.yml", "_toc.yml", "book", "notebooks", "bigmodel_helpers", "requirements.txt")
ADDRESS = (
    "BOOK_SITE_URL",
    "BOOK_REPOSITORY_URL",
    "BOOK_REPOSITORY_BRANCH",
    "GITHUB_SERVER_URL",
    "GITHUB_REPOSITORY",
)
BUILDER = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]


def fingerprint(root: Path) -> str:
    """Return a hash that changes when a source of the book in `root`, its pins, or its address does."""
    files = [path for name in SOURCES for path in (root / name, *(root / name).rglob("*")) if path.is_file()]
    told = [
        f"{path.relative_to(root)} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for path in sorted(files)
        if "__pycache__" not in path.parts
    ]
    told += [f"{name}={os.environ.get(name)}" for name in ADDRESS]
    return hashlib.sha256("\n".join(told).encode("utf-8")).hexdigest()


def build(root: Path) -> int:
    """Build the book in `root`, warnings as errors; return 0 where it is ready, else the status of the build."""
    page, ready = root / "_build" / "html" / "index.html", root / "_build" / "book-is-ready"
    now = fingerprint(root)
    if not (page.exists() and ready.exists() and ready.read_text(encoding="utf-8") == now):
        ready.unlink(missing_ok=True)
        command = [*BUILDER, "build", str(root), "-W", "--keep-going", "--all"]
        if status := subprocess.run(command, check=False).returncode:
            return status
        ready.write_text(now, encoding="utf-8")
    print(f"==> The book is ready. Open {page} (or run: make serve)")
    return 0


if __name__ == "__main__":
    raise SystemExit(build(ROOT))
