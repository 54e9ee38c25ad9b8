"""Put the editions of the built pages on their branch, where Colab finds them: `python -m tools.editions.publish`."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import bigmodel_site

from tools.editions.site import CHAPTERS, HTML
from tools.notebooks import notebook

IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "make publish"), ("EMAIL", "noreply@github.com"))
}


def git(*arguments: str, root: Path, **environment: str) -> str:
    """Run git in the repository `root` and return what it prints.

    Raises:
        SystemExit: git failed; its last line says why.
    """
    command, settings = ["git", *arguments], os.environ | environment
    try:
        done = subprocess.run(command, cwd=root, env=settings, capture_output=True, encoding="utf-8")
    except FileNotFoundError as error:
        raise SystemExit("git is missing: install it, then run this again") from error
    if done.returncode:
        raise SystemExit(f"git {arguments[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout.strip()


def publish(folder: Path, root: Path, remote: str) -> None:
    """Replace the branch of the editions at `remote` by one commit with the notebooks in `folder`."""
    paths = sorted(folder.glob("*.ipynb"))
    if not paths:
        raise SystemExit(f"{folder}: no notebooks: run make book first")
    with tempfile.TemporaryDirectory() as place:
        index = {"GIT_INDEX_FILE": str(Path(place, "index"))}
        for path in paths:
            blob = git("hash-object", "-w", "--no-filters", str(path.resolve()), root=root)
            entry = f"100644,{blob},notebooks/{path.name}"
            git("update-index", "--add", "--cacheinfo", entry, root=root, **index)
        tree = git("write-tree", root=root, **index)
    message = f"Editions of {git('rev-parse', '--short', 'HEAD', root=root)}"
    commit = git("commit-tree", tree, "-m", message, root=root, **IDENTITY)
    git("push", "--force", "--", remote, f"{commit}:refs/heads/{bigmodel_site.EDITIONS}", root=root)


def main(arguments: list[str] | None = None) -> None:
    """Publish what `make book` made."""
    parser = argparse.ArgumentParser(prog="python -m tools.editions.publish", description=__doc__)
    parser.add_argument("--remote", default="origin")
    options = parser.parse_args(arguments)
    publish(HTML / CHAPTERS, notebook.ROOT, options.remote)
    print(f"==> The notebooks are on the branch {bigmodel_site.EDITIONS} of {options.remote}")


if __name__ == "__main__":
    sys.exit(main())
