"""The package as its users meet it: cheap to import, typed, documented, flat."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import bigmodel_helpers

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bigmodel_helpers"
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(bigmodel_helpers.__path__, "bigmodel_helpers.")
    if "._" not in module.name
)
HEAVY = ("matplotlib", "pandas", "sklearn", "scipy", "torchvision", "IPython")


def modules_after(code: str) -> set[str]:
    """Run `code` in a fresh Python and return the names of all modules that are loaded then."""
    report = "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, encoding="utf-8", cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def public_objects(module: ModuleType) -> dict[str, type | FunctionType]:
    """Return the public functions, classes and methods that `module` defines, by name."""
    found = {}
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            found[f"{module.__name__}.{name}"] = thing
        if inspect.isclass(thing):
            for method, member in vars(thing).items():
                function = member.fget if isinstance(member, property) else inspect.unwrap(member)
                if not method.startswith("_") and inspect.isfunction(function):
                    found[f"{module.__name__}.{name}.{method}"] = function
    return found


def has_docstring(thing: type | FunctionType) -> bool:
    """Say whether someone wrote a docstring; a dataclass without one shows its signature instead."""
    text = thing.__doc__ or ""
    return len(text.split()) >= 3 and not text.startswith(f"{thing.__name__}(")


def test_import_loads_nothing_else() -> None:
    before = modules_after("import importlib, types")
    new = modules_after("import importlib, types; import bigmodel_helpers") - before
    assert {name for name in new if "editable" not in name} == {"bigmodel_helpers"}


def test_submodules_load_on_first_use_and_only_figures_need_more_than_torch() -> None:
    light = [name for name in MODULES if not name.endswith(".plots")]
    lines = ["import sys, bigmodel_helpers", "bigmodel_helpers.runtime.get_profile('smoke')"]
    lines += ["assert 'bigmodel_helpers.training' not in sys.modules", *(f"import {name}" for name in light)]
    loaded = modules_after("\n".join(lines))
    assert {"torch", *light} <= loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_every_module_is_reachable_by_attribute() -> None:
    flat = {name.removeprefix("bigmodel_helpers.") for name in MODULES if name.count(".") == 1}
    assert flat == set(bigmodel_helpers.__all__) - {"__version__"}
    assert flat <= set(dir(bigmodel_helpers))
    for name in flat:
        assert getattr(bigmodel_helpers, name) is importlib.import_module(f"bigmodel_helpers.{name}")
    with pytest.raises(AttributeError, match="no_such_module"):
        _ = bigmodel_helpers.no_such_module


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), f"{name} has no docstring"
    undocumented = {
        path
        for path, thing in public_objects(module).items()
        if not path.endswith(".forward") and not has_docstring(thing)  # the class explains forward()
    }
    assert undocumented == set()


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_typed(name: str) -> None:
    untyped = set()
    for path, thing in public_objects(importlib.import_module(name)).items():
        function = vars(thing).get("__init__") if inspect.isclass(thing) else thing
        if not inspect.isfunction(function):
            continue  # a class without a constructor of its own
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
        untyped |= {f"{path}: {p.name}" for p in parameters if p.annotation is inspect.Parameter.empty}
        if not inspect.isclass(thing) and signature.return_annotation is inspect.Signature.empty:
            untyped.add(f"{path}: return value")
    assert untyped == set()


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_tested(name: str) -> None:
    tests = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "tests").glob("test_*.py")
        if path != Path(__file__)
    )
    names = {path.split(".")[-1] for path in public_objects(importlib.import_module(name))} - {"forward"}
    assert {word for word in names if not re.search(rf"\b{word}\b", tests)} == set()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_modules_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 340  # about 300


def test_imports_go_one_way() -> None:
    """No module imports, directly or through others, a module that imports it."""
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        graph[name] = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:  # not those for type checkers only
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bigmodel_helpers"):
                inside = {f"{node.module}.{alias.name}" for alias in node.names} & {*MODULES}
                graph[name] |= inside or {node.module}
            elif isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & {*MODULES}
    assert sum(map(len, graph.values())) > 5, "the graph was not read"
    while leaves := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert graph == {}, "these modules import each other in a circle"
