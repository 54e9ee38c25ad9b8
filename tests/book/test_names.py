"""Notebooks, tools and pages use each name of the package in one way: that of its room."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator

import nbformat
import pytest
from rooms import ROOMS, ROOT, TOP, bindings, room, uses

KEPT = {
    word: f"{TOP}.{name}.{word}"
    for name in ROOMS
    for word in getattr(room(name), "__all__", ())
    if inspect.ismodule(getattr(room(name), word))
}
# Modules of before the rooms whose names are elsewhere today.
GONE = {"calibration", "comparison", "corruptions", "curves", "digits", "distillation", "explain", "folders"}
GONE |= {"images", "low_rank", "plots", "pruning", "roofline", "scoreboard"}
PAGES = [*sorted((ROOT / "book").glob("*.md")), *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING"))]


def code_of(text: str) -> str:
    """Return the Python of a page, without lines for IPython and lines of a session."""
    blocks = re.findall(r"^`{3,}(?:python|\{code-cell\}.*)\n(.*?)^`{3,}", text, re.MULTILINE | re.DOTALL)
    return "\n".join(blocks)


def parts() -> Iterator[tuple[str, str, str]]:
    """Yield the name, the code and the text of each notebook, tool and page."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        code = "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        yield path.stem, re.sub(r"^(\s*)[%!].*", r"\1pass", code, flags=re.MULTILINE), text
    for path in sorted((ROOT / "notebooks" / "quizzes").glob("*.yml")):
        yield path.name, "", path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "tools").rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"), ""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        yield path.name, code_of(text), text


PARTS = {name: (code, text) for name, code, text in parts()}


def problem(path: str) -> str:
    """Say what is wrong with a dotted name of the package, or nothing."""
    _, *names = path.split(".")
    if not names or names[0] == "__version__":
        return ""
    if names[0] not in ROOMS:
        return f"{path}: no room is called {names[0]}"
    here = room(names[0])
    if len(names) == 1:
        return ""
    if names[1] not in getattr(here, "__all__", dir(here)):
        return f"{path}: {names[0]} does not export {names[1]}"
    if names[1] in KEPT and len(names) > 2:
        module = getattr(here, names[1])
        thing = getattr(module, names[2], None)
        offered = names[2] in getattr(module, "__all__", ())
        if thing is None or (callable(thing) and thing.__module__ != module.__name__ and not offered):
            return f"{path}: {names[1]} has no {names[2]}"
        if names[2] in here.__all__ and thing is getattr(here, names[2]):
            return f"{path}: write {names[0]}.{names[2]}"
    return ""


def problems_of_code(code: str) -> list[str]:
    """Return what is wrong with the names of the package that Python code imports and uses."""
    tree = ast.parse(code)
    found = {*bindings(tree).values(), *uses(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == TOP}
    stored = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    hidden = {f"{name}: a variable hides what was imported" for name in stored & bindings(tree).keys()}
    return sorted({*map(problem, found), *hidden} - {""})


def problems_of_text(text: str) -> list[str]:
    """Return what is wrong with the names of the package in text: `room.name`, `module.name`, and full ones."""
    found = {problem(path) for path in re.findall(rf"\b{TOP}(?:\.[A-Za-z_]\w*)+", text)}
    for first, second in re.findall(r"`([a-z_]+)\.([A-Za-z_]\w*)(?=[\w.]*[(`])", text):
        if first in GONE:
            found.add(f"{first}.{second}: no longer a module")
        elif first in ROOMS or first in KEPT:
            found.add(problem(f"{KEPT.get(first, f'{TOP}.{first}')}.{second}"))
    return sorted(found - {""})


@pytest.mark.parametrize("name", PARTS)
def test_names_are_used_in_the_way_of_their_room(name: str) -> None:
    code, text = PARTS[name]
    assert problems_of_code(code) + problems_of_text(text) == []


def test_what_is_read_is_there() -> None:
    code = "\n".join(code for code, _ in PARTS.values())
    assert {f"{TOP}.data.load_cifar10", f"{TOP}.training.fit"} <= uses(ast.parse(code))
    assert all(importlib.import_module(path) for path in KEPT.values())


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("from bigmodel_helpers.models.resnet import ResNet", "models does not export resnet"),
        ("from bigmodel_helpers.models import resnet", "models does not export resnet"),
        ("import bigmodel_helpers.models.resnet", "models does not export resnet"),
        ("import bigmodel_helpers.models.resnet as resnet", "models does not export resnet"),
        ("import bigmodel_helpers as b\nb.evaluation.metrics.accuracy(1, 2)", "does not export metrics"),
        ("from bigmodel_helpers import evaluation\nevaluation.metrics.accuracy(1, 2)", "export metrics"),
        ("from bigmodel_helpers import corruptions", "no room is called corruptions"),
        ("from bigmodel_helpers.data import few_shots", "data does not export few_shots"),
        ("from bigmodel_helpers.compression.quantization import quantize", "write compression.quantize"),
        (
            "from bigmodel_helpers.compression import quantization\nquantization.quantize(1)",
            "write compression.quantize",
        ),
        ("from bigmodel_helpers.training import checkpoint\ncheckpoint.store(1)", "checkpoint has no store"),
        ("from bigmodel_helpers.data import _download", "data does not export _download"),
        ("from bigmodel_helpers.models import ResNet, pretrained\npretrained.load('auto')", ""),
        (
            "from bigmodel_helpers import models\nmodels = {1: 2}",
            "models: a variable hides what was imported",
        ),
        ("from torch import optim\noptim.SGD()", ""),
    ],
)
def test_another_way_is_found(code: str, complaint: str) -> None:
    found = problems_of_code(code)
    assert complaint in found[0] if complaint else found == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Call `plots.use_style()`.", "plots.use_style: no longer a module"),
        ("Call `data.load_cifar100(download=False)`.", "data does not export load_cifar100"),
        ("See {py:class}`bigmodel_helpers.models.resnet.ResNet`.", "models does not export resnet"),
        ("Use `pretrained.fetch`.", "pretrained has no"),
        ("Use `training.fit(...)`, `pretrained.load(name)`, `torch.load` and images.", ""),
    ],
)
def test_an_old_name_in_text_is_found(text: str, complaint: str) -> None:
    found = problems_of_text(text)
    assert complaint in found[0] if complaint else found == []
