"""What each room of the package offers, in which chapter it was introduced, and the page that shows it."""

import ast
import inspect
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import ModuleType

from bigmodel_text import table
from sphinx.pycode import ModuleAnalyzer

import bigmodel_helpers

PACKAGE = bigmodel_helpers.__name__
ROOMS = [
    "runtime",
    "data",
    "models",
    "measure",
    "evaluation",
    "training",
    "compression",
    "inference",
    "distributed",
]
ROOMS += ["figures", "exercises"]
FILES = {"runtime", "exercises"}  # modules that are no rooms
INTRODUCED = re.compile(
    r"^Introduced in\s+chapter (\d+)\. ?| Introduced in\s+chapter (\d+)\.(?=\s|$)", re.MULTILINE
)

# The docstring of a module as a title and the rest.
TITLE = re.compile(r"(.*?)(?:: |(?<=\?)(?=\s|$)|\.(?=\s|$)| (?=\()|$)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Name:
    """A public name: where a reader finds it (`path`, without the package), and the module that defines it."""

    path: str
    module: ModuleType
    thing: object

    @property
    def typed(self) -> str:
        """The name as a reader types it, such as ``data.flip`` or ``checkpoint.save``."""
        return ".".join(self.path.split(".")[-2:])

    @property
    def origin(self) -> tuple[str, str]:
        """The module that defines it and its name there: the same for all paths that lead to it."""
        return self.module.__name__, self.path.rpartition(".")[2]

    @property
    def is_constant(self) -> bool:
        return not (inspect.isfunction(self.thing) or inspect.isclass(self.thing))

    @property
    def chapter(self) -> int | None:
        """The chapter that its docstring names, else the one that its module's docstring names."""
        own = None if self.is_constant else inspect.getdoc(self.thing)
        found = [INTRODUCED.search(text) for text in (own or "", inspect.getdoc(self.module) or "")]
        return next((int(match[1] or match[2]) for match in found if match), None)


def package_files() -> list[Path]:
    """Return the files of the package: pages made from their docstrings are made anew when they change."""
    return sorted(Path(str(bigmodel_helpers.__file__)).parent.rglob("*.py"))


def without_chapter(docstring: str) -> str:
    """Remove the sentence that names the chapter: a link says the same."""
    return INTRODUCED.sub("", docstring)


def comment(module: ModuleType, constant: str) -> str:
    """Return the ``#:`` comment of a constant, or nothing."""
    docs = ModuleAnalyzer.for_module(module.__name__).find_attr_docs()
    return " ".join(docs.get(("", constant), ())).strip()


def module_names(path: str) -> list[Name]:
    """Return what a module offers that is used by its own name: functions, classes, commented constants."""
    module = import_module(f"{PACKAGE}.{path}")
    offered = getattr(module, "__all__", None) or [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (
            getattr(thing, "__module__", None) == module.__name__
            if inspect.isfunction(thing) or inspect.isclass(thing)
            else comment(module, name)
        )
    ]
    return [Name(f"{path}.{name}", module, getattr(module, name)) for name in offered]


def homes(room: ModuleType) -> dict[str, str]:
    """Return the module from which the room's `__init__` imports each name."""
    tree = ast.parse(Path(str(room.__file__)).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def in_file(name: Name) -> tuple[str, int]:
    """Return where the definition of a name stands."""
    return name.module.__name__, list(vars(name.module)).index(name.origin[1])


def by_chapter(section: tuple[str, list[Name]]) -> tuple[int, str]:
    """Return where a section stands on its page."""
    path, names = section
    return min(name.chapter or 99 for name in names), path


@cache
def room_names(room: str) -> dict[str, list[Name]]:
    """Return all public names of a room, by the module that is their section; modules kept as names come last."""
    if room in FILES:
        return {f"{PACKAGE}.{room}": module_names(room)}
    module = import_module(f"{PACKAGE}.{room}")
    home, sections, kept = homes(module), defaultdict(list), {}
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.ismodule(thing):
            kept[thing.__name__] = module_names(f"{room}.{name}")
        else:
            one = Name(f"{room}.{name}", import_module(home[name]), thing)
            sections[section(one)].append(one)
    for names in sections.values():
        names.sort(key=in_file)
    shared = {path: sections.pop(path, []) + names for path, names in kept.items()}
    return dict(sorted(sections.items(), key=by_chapter)) | shared


def section(name: Name) -> str:
    """Return the module under which a name is shown: the public one, where ``_x`` has an ``x`` beside it."""
    public = name.module.__name__.replace("._", ".")
    beside = Path(str(name.module.__file__)).with_name(f"{public.rpartition('.')[2]}.py")
    return public if beside.exists() else name.module.__name__


@cache
def all_names() -> list[Name]:
    """Return every public name of the package, in the order of the pages; each thing once."""
    once: dict[tuple[str, str], Name] = {}
    for room in ROOMS:
        for name in chain.from_iterable(room_names(room).values()):
            once.setdefault(name.origin, name)
    return list(once.values())


def first_sentence(thing: object) -> str:
    """Return the first line of a docstring, without the chapter, for Markdown."""
    return without_chapter(inspect.getdoc(thing) or "").partition("\n")[0].replace("``", "`").strip()


def directive(name: Name) -> str:
    """Return the directive, in reStructuredText, that shows a name with its docstring."""
    path = f"{PACKAGE}.{name.path}"
    if inspect.isclass(name.thing):
        kind = "autoexception" if issubclass(name.thing, BaseException) else "autoclass"
        return f".. {kind}:: {path}\n   :members:\n"
    if inspect.isfunction(name.thing):
        return f".. autofunction:: {path}\n"
    scope, _, last = path.rpartition(".")
    text = comment(name.module, last)
    return f".. py:data:: {last}\n   :module: {scope}\n   :value: {name.thing!r}\n\n   {text}\n"


def section_markdown(path: str, names: list[Name], room: str) -> str:
    """Return one section of a room's page: what its module is for, then its names."""
    module = import_module(path)
    kept = any(name.path.count(".") == 2 for name in names)
    text = without_chapter(inspect.getdoc(module) or "")
    title = f"`{path.rpartition('.')[2]}`"
    if not kept:
        title, text = TITLE.match(text).groups()
    body = [f".. py:{'module' if kept else 'currentmodule'}:: {path if kept else f'{PACKAGE}.{room}'}\n"]
    body += [] if room in FILES else [f"{text.strip()[:1].upper()}{text.strip()[1:]}\n"]
    first = {name.origin: name for name in reversed(names)}  # of the names of one thing
    body += [directive(name) for name in names if first[name.origin] is name]
    again = [(name, first[name.origin]) for name in names if first[name.origin] is not name]
    if again:
        links = ", ".join(f":py:obj:`{name.typed} <{PACKAGE}.{shown.path}>`" for name, shown in again)
        body += [
            f".. container:: also\n\n   The room offers these names, too, so they are shown above: {links}.\n"
        ]
    heading = "" if room in FILES else f"## {title}\n\n"
    return f"{heading}```{{eval-rst}}\n{chr(10).join(body)}```\n"


def opening_markdown(room: str) -> str:
    """Return what a room's page begins with: what is in the room."""
    module = import_module(f"{PACKAGE}.{room}")
    text = without_chapter(inspect.getdoc(module) or "")
    return f"```{{eval-rst}}\n.. py:module:: {module.__name__}\n\n{text}\n```\n"


def names_markdown(room: str) -> str:
    """Return all that a room offers, a section for each module."""
    return "\n".join(section_markdown(path, names, room) for path, names in room_names(room).items())


def rooms_markdown() -> str:
    """Return the table of the rooms."""
    rows = []
    for room in ROOMS:
        count = len({name.origin for part in room_names(room).values() for name in part})
        rows.append(
            [f"{{doc}}`{room} </book/api/{room}>`", first_sentence(import_module(f"{PACKAGE}.{room}")), count]
        )
    return table(("Room", "What is in it", "Names"), rows) + "\n"
