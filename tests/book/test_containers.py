"""The files for a container, a codespace and Binder: their form, because nothing of it is built here."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rooms import ROOT

DOCKERFILE = ROOT / "docker" / "Dockerfile"
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments, lines joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [tuple(line.split(None, 1)) for line in "\n".join(lines).replace("\\\n", " ").splitlines()]


def lint(text: str) -> list[str]:
    """Return what is wrong with a Dockerfile, by the rules of hadolint that matter here."""
    found, steps = [], instructions(text)
    names = {re.split(r"\s+[Aa][Ss]\s+", value)[-1] for name, value in steps if name == "FROM"}
    for name, value in steps:
        if name not in ("FROM", "ARG", "ENV", "RUN", "USER", "WORKDIR", "COPY", "EXPOSE", "CMD"):
            found.append(f"unexpected {name}")
        if (
            name == "FROM"
            and value.split()[0] not in names
            and not re.search(r":[\w.-]*\d", value.split()[0])
        ):
            found.append(f"base image without a version: {value}")
        if name == "RUN" and "apt-get install" in value:
            wanted = ("apt-get update", "-y", "--no-install-recommends", "rm -rf /var/lib/apt/lists/*")
            found += [f"apt-get without {part}" for part in wanted if part not in value]
        if name == "RUN" and re.search(r"\bsudo\b|apt upgrade|curl[^|]*\|", value):
            found.append(f"do not run {value}")
        if name == "WORKDIR" and not value.startswith("/"):
            found.append("WORKDIR is not absolute")
        if name == "CMD" and not isinstance(json.loads(value), list):
            found.append("CMD is no list")
    users = [value for name, value in steps if name == "USER"]
    found += [] if users and users[-1] not in ("root", "0") else ["runs as root"]
    found += [] if [name for name, _ in steps].count("CMD") == 1 else ["needs one CMD"]
    return found


def make_targets(text: str) -> set[str]:
    return set(re.findall(r"\bmake ([a-z]+)", text))


def test_dockerfile_is_clean() -> None:
    assert lint(DOCKERFILE.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("python:3.13-slim-bookworm", "python", "base image without a version: python AS base"),
        ("python:3.13-slim-bookworm", "python:latest", "base image without a version: python:latest AS base"),
        ("USER reader", "USER root", "runs as root"),
        (" --no-install-recommends", "", "apt-get without --no-install-recommends"),
        ("&& rm -rf /var/lib/apt/lists/*", "", "apt-get without rm -rf /var/lib/apt/lists/*"),
        ("WORKDIR /book", "WORKDIR book", "WORKDIR is not absolute"),
        ("EXPOSE 8888", "ADD x /", "unexpected ADD"),
    ],
)
def test_faults_of_a_dockerfile_are_found(old: str, new: str, said: str) -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert old in text
    assert said in lint(text.replace(old, new))


def test_image_is_made_by_make_and_opens_the_lab() -> None:
    steps = instructions(DOCKERFILE.read_text(encoding="utf-8"))
    assert (
        make_targets(" ".join(value for name, value in steps if name == "RUN")) == {"setup", "lab"} <= TARGETS
    )
    (command,) = [json.loads(value) for name, value in steps if name == "CMD"]
    assert command[:2] == ["make", "lab"]
    assert {"--ip=0.0.0.0", "--no-browser"} == set(shlex.split(command[2].removeprefix("LAB=")))


def test_commands_of_the_dockerfile_and_of_setup_agree() -> None:
    comments = "\n".join(
        re.findall(r"^#\s+(docker .*)", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    )
    setup = (ROOT / "book" / "setup.md").read_text(encoding="utf-8")
    for words in (
        "docker build -f docker/Dockerfile -t from-zero",
        "--build-arg BACKEND=cu132",
        "--gpus all",
    ):
        assert words in comments
        assert words in setup
    assert "127.0.0.1:8888:8888" in comments, "nobody else's machine reaches the notebooks"
    command = [sys.executable, "-m", "uv", "pip", "install", "--help"]
    options = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    assert {"cpu", "cu132"} <= set(re.findall(r"\w+", options)), "uv knows these builds of PyTorch"


def test_image_leaves_out_what_git_ignores() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "_build", "my-notebooks", "runs"} <= set(ignored)


def test_dev_container_uses_the_image_and_make() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    build = container["build"]
    assert (ROOT / ".devcontainer" / build["dockerfile"]).resolve() == DOCKERFILE
    assert (ROOT / ".devcontainer" / build["context"]).resolve() == ROOT
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert f" AS {build['target']}\n" in text
    assert re.search(rf"useradd .*\b{container['remoteUser']}\b", text)
    assert make_targets(container["postCreateCommand"]) == {"setup", "lab"}
    assert "latest" not in json.dumps(container)


def test_binder_installs_the_pins_and_opens_the_editions() -> None:
    folder = ROOT / ".binder"
    (line,) = (folder / "requirements.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert (folder / line.removeprefix("-r ")).resolve() == ROOT / "requirements.txt"
    version = (folder / "runtime.txt").read_text(encoding="utf-8").strip().removeprefix("python-")
    matrix = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    assert version in matrix["jobs"]["platforms"]["strategy"]["matrix"]["python"]
    build = (folder / "postBuild").read_text(encoding="utf-8")
    for module in re.findall(r"-m (tools[\w.]+)", build):
        assert Path(ROOT, *module.split(".")).with_suffix(".py").is_file()
    assert "python -m tools.editions.lab --no-start" in build
    assert 'exec "$@"' in (folder / "start").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_binder_may_run_its_scripts(name: str) -> None:
    command = ["git", "ls-files", "-s", f".binder/{name}"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert listed.stdout.startswith("100755")
    text = (ROOT / ".binder" / name).read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    done = subprocess.run(["bash", "-n", "-c", text], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
