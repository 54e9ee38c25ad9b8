"""The source of the package and of what uses it, as the tests of its surface read it: rooms, modules, imports."""

import ast
import importlib
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType

import bigmodel_helpers

ROOT = Path(__file__).resolve().parents[1]
TOP = "bigmodel_helpers"
PACKAGE = ROOT / TOP
ROOMS = [name for name in bigmodel_helpers.__all__ if name != "__version__"]
FILES = {"runtime", "exercises"}  # the modules that are no rooms


def module_name(path: Path) -> str:
    """Return the dotted name of the module in file `path`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = [name for name in SOURCES if not any(part.startswith("_") for part in name.split("."))]


def room(name: str) -> ModuleType:
    """Return the room `name`, or the module of that name."""
    return importlib.import_module(f"{TOP}.{name}")


def public_objects(module: ModuleType) -> dict[str, type | FunctionType]:
    """Return the public functions, classes and methods that `module` defines, by dotted name."""
    found = {}
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            found[f"{module.__name__}.{name}"] = thing
        if inspect.isclass(thing):
            found |= {f"{module.__name__}.{name}.{method}": function for method, function in methods(thing)}
    return found


def methods(thing: type) -> Iterator[tuple[str, FunctionType]]:
    """Yield the public methods and properties that a class defines itself."""
    for name, member in vars(thing).items():
        function = member.fget if isinstance(member, property) else inspect.unwrap(member)
        if not name.startswith("_") and inspect.isfunction(function):
            yield name, function


@cache
def exports() -> dict[str, str]:
    """Return what the rooms export: dotted name where it is defined, and the one by which it is used.

    A module that a room keeps, such as ``models.pretrained``, stands for all its public names.
    """
    found = {}
    for name in ROOMS:
        for word in getattr(room(name), "__all__", ()):
            thing = getattr(room(name), word)
            if not inspect.ismodule(thing):
                found[f"{getattr(thing, '__module__', f'{TOP}.{name}')}.{word}"] = f"{TOP}.{name}.{word}"
    return found


# ------------------------------------------------------------------------------- what code refers to


def imports_of(name: str, tree: ast.Module, modules: Mapping[str, object], is_package: bool) -> set[str]:
    """Return the modules that the module `name` imports anywhere: in functions and for type checkers, too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")[: len(name.split(".")) - node.level + is_package]
                base = ".".join([*parents, *filter(None, [node.module])])
            inside = {f"{base}.{alias.name}" for alias in node.names}
            found |= {path if path in modules else base for path in inside}
    return {path for path in found if path in modules}


def bindings(tree: ast.AST) -> dict[str, str]:
    """Return the names that imports from the package bind, with the dotted name that each stands for."""
    bound = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == TOP:
            bound |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias for alias in node.names if alias.name.split(".")[0] == TOP]
            bound |= {alias.asname: alias.name for alias in names if alias.asname}
            bound |= {TOP: TOP} if any(not alias.asname for alias in names) else {}
    return bound


def uses(tree: ast.AST) -> set[str]:
    """Return the dotted names of the package that the code uses; an import alone is no use."""
    bound = bindings(tree)

    def dotted(node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return bound.get(node.id)
        if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
            return f"{before}.{node.attr}"
        return None

    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute))
    return {path for node in nodes if (path := dotted(node))}
