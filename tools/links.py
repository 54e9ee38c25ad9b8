"""Ask the servers whether the external links of the book still lead somewhere: the weekly workflow calls it.

Sphinx asks; a server that answers, but not to robots, as publishers do, is no dead link.
"""

import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tools.book import BUILDER, ROOT

REFUSES_ROBOTS = re.compile(r"(?:401|403|405|406|418|429|503) ")


def dead(lines: Iterable[str]) -> list[str]:
    """Return the dead links in the lines of Sphinx's `output.json`: page, line, address, answer."""
    found = [json.loads(line) for line in lines]
    return [
        f"{link['filename']}:{link['lineno']}: {link['uri']}: {link['info']}"
        for link in found
        if link["status"] in ("broken", "timeout") and not REFUSES_ROBOTS.match(link["info"])
    ]


def main(root: Path = ROOT) -> int:
    """Check the links of the book in `root`; return 1 where one is dead, or where Sphinx could not ask."""
    folder = root / "_build" / "links"
    answers = folder / "_build" / "html" / "output.json"
    answers.unlink(missing_ok=True)
    command = [*BUILDER, "build", str(root), "--all", "--builder", "linkcheck", "--path-output", str(folder)]
    subprocess.run(command, check=False)
    if not answers.exists():
        print("==> Sphinx asked no server: see above")
        return 1
    if links := dead(answers.read_text(encoding="utf-8").splitlines()):
        print(f"==> Dead links: {len(links)}", *links, sep="\n")
        return 1
    print("==> All links lead somewhere")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
