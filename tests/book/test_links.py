"""`make links`, of the weekly workflow: a dead link fails, a server that refuses robots does not."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tools import links

ROOT = Path(__file__).parents[2]


def answer(status: str, info: str = "") -> str:
    link = {"filename": "book/faq.md", "lineno": 3, "status": status, "code": 0}
    return json.dumps(link | {"uri": "https://example.org/a", "info": info})


ANSWERS = [
    ("working", "", True),
    ("redirected", "https://example.org/b", True),
    ("unchecked", "", True),
    ("broken", "403 Client Error: Forbidden for url: https://example.org/a", True),
    ("broken", "429 Client Error: Too Many Requests for url: https://example.org/a", True),
    ("broken", "404 Client Error: Not Found for url: https://example.org/a", False),
    ("broken", "410 Client Error: Gone for url: https://example.org/a", False),
    ("broken", "Anchor 'data' not found", False),
    ("broken", "HTTPSConnectionPool(host='example.org', port=443): Max retries exceeded", False),
    ("timeout", "HTTPSConnectionPool(host='example.org', port=443): Read timed out.", False),
]


@pytest.mark.parametrize(("status", "info", "alive"), ANSWERS)
def test_dead_links_are_told_from_shy_ones(status, info, alive):
    told = [] if alive else [f"book/faq.md:3: https://example.org/a: {info}"]
    assert links.dead([answer(status, info)]) == told


@pytest.mark.parametrize(
    ("lines", "result", "told"),
    [
        ([answer("working")], 0, "All links lead somewhere"),
        ([answer("working"), answer("broken", "404 Gone")], 1, "Dead links: 1\nbook/faq.md:3: "),
        (None, 1, "Sphinx asked no server"),
    ],
)
def test_the_status_says_whether_all_are_alive(tmp_path, monkeypatch, capsys, lines, result, told):
    answers = tmp_path / "_build" / "links" / "_build" / "html" / "output.json"
    answers.parent.mkdir(parents=True)
    answers.write_text(answer("broken", "404 of an earlier run"), encoding="utf-8")

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess:
        assert command[command.index("--builder") + 1] == "linkcheck"
        if lines is not None:
            answers.write_text("\n".join(lines), encoding="utf-8")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(links.subprocess, "run", run)
    assert links.main(tmp_path) == result
    assert told in capsys.readouterr().out


def test_the_weekly_workflow_asks():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "weekly.yml").read_text(encoding="utf-8"))
    commands = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert "make links PYTHON=python" in commands
