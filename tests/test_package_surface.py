"""The package as its users meet it: cheap to import, one way to each name, typed, documented, tested."""

import ast
import importlib
import inspect
import json
import subprocess
import sys

import pytest
from rooms import (
    FILES,
    MODULES,
    PACKAGE,
    ROOMS,
    ROOT,
    SOURCES,
    TOP,
    exports,
    methods,
    public_objects,
    room,
    uses,
)

import bigmodel_helpers

HEAVY = ("matplotlib", "pandas", "sklearn", "scipy", "torchvision", "IPython")
INSIDE = {
    "mirror",
    "Block",
    "Attention",
    "MLP",
}  # public for the other code of their room, exported by no room


# ------------------------------------------------------------------------------------------- imports


def modules_after(code: str) -> set[str]:
    """Run `code` in a fresh Python and return the names of all modules that are loaded then."""
    report = "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, encoding="utf-8", cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_nothing_else() -> None:
    before = modules_after("import importlib, types, typing")
    new = modules_after("import importlib, types, typing; import bigmodel_helpers") - before
    assert {name for name in new if "editable" not in name} == {TOP}


def test_a_room_is_loaded_when_it_is_first_used() -> None:
    loaded = modules_after("import bigmodel_helpers; bigmodel_helpers.runtime.get_profile('smoke')")
    assert {name for name in loaded if name.startswith(f"{TOP}.")} == {f"{TOP}.runtime"}


def test_only_drawing_needs_more_than_torch() -> None:
    lines = ["import bigmodel_helpers", *(f"bigmodel_helpers.{name}" for name in ROOMS)]
    lines += [f"import {name}" for name in MODULES if name != f"{TOP}.figures.plots"]
    loaded = modules_after("\n".join(lines))
    assert {"torch", *MODULES} - loaded == {f"{TOP}.figures.plots"}
    assert [name for name in HEAVY if name in loaded] == []
    assert "matplotlib" in modules_after("from bigmodel_helpers import figures; figures.use_style")


# --------------------------------------------------------------------------------------------- names


def in_order(names: list[str]) -> list[str]:
    """Sort as isort does: constants, classes, the rest."""
    return sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


def test_the_package_lists_its_rooms() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert {*ROOMS} == folders | files
    assert files == FILES
    assert [*bigmodel_helpers.__all__] == dir(bigmodel_helpers) == ["__version__", *sorted(ROOMS)]
    with pytest.raises(AttributeError, match="no_such_room"):
        _ = bigmodel_helpers.no_such_room


@pytest.mark.parametrize("name", sorted({*ROOMS} - FILES))
def test_a_room_lists_all_its_names_in_order(name: str) -> None:
    here, listed = room(name), room(name).__all__
    assert [*listed] == in_order(listed)
    assert [word for word in listed if not hasattr(here, word)] == []
    assert {*listed} <= {*dir(here)}
    bound = {
        word
        for word, thing in vars(here).items()
        if not word.startswith("_") and not inspect.ismodule(thing) and defined_in_the_package(thing)
    }
    assert bound - {*listed} == set(), "left out of __all__"


def defined_in_the_package(thing: object) -> bool:
    return (getattr(thing, "__module__", None) or "").split(".")[0] == TOP


@pytest.mark.parametrize("name", sorted({*ROOMS} - FILES))
def test_a_name_like_that_of_a_module_is_the_module(name: str) -> None:
    files = {path.stem for path in (PACKAGE / name).glob("*.py")}
    for word in files & {*room(name).__all__}:
        assert getattr(room(name), word) is importlib.import_module(f"{TOP}.{name}.{word}")


def test_no_two_rooms_export_the_same_thing() -> None:
    owners: dict[int, list[str]] = {}
    for name in ROOMS:
        for word in getattr(room(name), "__all__", ()):
            owners.setdefault(id(getattr(room(name), word)), []).append(f"{name}.{word}")
    assert [paths for paths in owners.values() if len(paths) > 1] == []


def test_every_public_name_is_in_a_room() -> None:
    kept = {f"{TOP}.{name}" for name in FILES} | {
        f"{TOP}.{name}.{word}" for name in ROOMS for word in kept_modules(name)
    }
    hidden = {
        path
        for name in MODULES
        if name not in kept
        for path in public_objects(importlib.import_module(name))
        if path.rpartition(".")[0] == name and path not in exports()
    }
    assert {path.split(".")[-1] for path in hidden} == INSIDE, hidden


def kept_modules(name: str) -> list[str]:
    """Return the modules that room `name` exports as modules, such as ``pretrained``."""
    return [
        word for word in getattr(room(name), "__all__", ()) if inspect.ismodule(getattr(room(name), word))
    ]


# ------------------------------------------------------------------------------- docstrings and types


def has_docstring(thing: object) -> bool:
    """Say whether someone wrote a docstring; a dataclass without one shows its signature instead."""
    text = thing.__doc__ or ""
    return len(text.split()) >= 3 and not text.startswith(f"{thing.__name__}(")


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


# --------------------------------------------------------------------------------------------- tests


def public_ways(name: str) -> dict[str, set[str]]:
    """Return the functions, classes and methods that room `name` offers, with the names a test may use.

    A function or class is used as ``room.name`` or from the module that defines it; a method, whose object a
    reader of code cannot know, by its name behind a dot.
    """
    here = room(name)
    things = {f"{TOP}.{name}.{word}": getattr(here, word) for word in getattr(here, "__all__", ())}
    for module in [thing for thing in things.values() if inspect.ismodule(thing)] or [here]:
        inside = public_objects(module).items()  # a name that the room exports, too, counts once
        things |= {
            path: thing for path, thing in inside if not any(thing is known for known in things.values())
        }
    ways = {}
    for path, thing in things.items():
        if inspect.isclass(thing):
            ways |= {
                f"{path}.{method}": {f".{method}"} for method, _ in methods(thing) if method != "forward"
            }
        if inspect.isclass(thing) or (inspect.isfunction(thing) and "." not in thing.__qualname__):
            ways[path] = {path, f"{thing.__module__}.{thing.__qualname__}"}
    return ways


def untested(ways: dict[str, set[str]], tests: list[str]) -> set[str]:
    """Return the names of `ways` that the code of `tests` neither calls nor passes on."""
    used = set()
    for source in tests:
        tree = ast.parse(source)
        used |= uses(tree)
        used |= {f".{node.attr}" for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {path for path, names in ways.items() if not names & used}


def sources_of_tests(name: str) -> list[str]:
    """Return the source of the tests of room `name` and of the chapters."""
    folder = ROOT / "tests"
    files = [*(folder / name).glob("test_*.py"), *(folder / "chapters").glob("test_*.py")]
    files += [folder / f"test_{name}.py"] if name in FILES else []
    return [path.read_text(encoding="utf-8") for path in files]


@pytest.mark.parametrize("name", ROOMS)
def test_public_names_are_tested(name: str) -> None:
    ways = public_ways(name)
    assert ways
    assert untested(ways, sources_of_tests(name)) == set()


PLANTED = {f"{TOP}.data.shred": {f"{TOP}.data.shred", f"{TOP}.data.shredder.shred"}}


@pytest.mark.parametrize(
    ("source", "tested"),
    [
        ("from bigmodel_helpers import data\ndata.shred(1)", True),
        ("from bigmodel_helpers.data import shred as cut\nrun(cut)", True),
        ("from bigmodel_helpers.data.shredder import shred\nshred()", True),
        ("from bigmodel_helpers.data import shred", False),
        ("from bigmodel_helpers import data\n'data.shred'  # data.shred(1)\nother.shred(1)\nshred(1)", False),
    ],
)
def test_a_mention_is_no_test(source: str, tested: bool) -> None:
    assert (untested(PLANTED, [source]) == set()) is tested


def test_an_untested_method_is_found() -> None:
    ways = {f"{TOP}.data.Batches.shred": {".shred"}}
    assert untested(ways, ["def shred(): 'batches.shred()'"]) == {*ways}
    assert untested(ways, ["batches.shred()"]) == set()


# -------------------------------------------------------------------------------------------- length


LENGTHS = {name: len(source.splitlines()) for name, source in SOURCES.items()}
LENGTHS |= {
    path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
    for path in sorted((ROOT / "tools").rglob("*.py"))
}


def test_no_file_of_package_and_tools_has_more_than_300_lines() -> None:
    assert len(LENGTHS) > 50
    assert {name: lines for name, lines in LENGTHS.items() if lines > 300} == {}
