"""The order of the rooms, drawn from the imports: no import runs up, and no circle, not within a room either."""

import ast
import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import pytest
from rooms import ROOT, SOURCES, TOP, imports_of

LEVELS = [
    {"runtime", "exercises"},
    {"data"},
    {"models", "measure"},
    {"evaluation", "inference", "compression"},
    {"training", "distributed", "figures"},
]
BESIDE = {("measure", "models")}  # on one level, and yet the first may import the second
PACKAGES = {name for name in SOURCES if any(other.startswith(f"{name}.") for other in SOURCES)}


def graph_of(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return what each module imports; the root, which loads the rooms when they are asked for, is left out."""
    graph = {
        name: imports_of(name, ast.parse(source), sources, name in PACKAGES) - {name, TOP}
        for name, source in sources.items()
    }
    del graph[TOP]
    return graph


def room_of(module: str) -> str:
    return module.split(".")[1]


def arrows_up(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the imports that do not go to a lower level."""
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    arrows = [(source, target) for source, targets in graph.items() for target in targets]
    return sorted(
        f"{source} -> {target}"
        for source, target in arrows
        if room_of(source) != room_of(target)
        and (room_of(source), room_of(target)) not in BESIDE
        and level[room_of(target)] >= level[room_of(source)]
    )


def circle(graph: Mapping[str, set[str]]) -> str:
    """Return the modules of a circle, each of which imports the next, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))  # graphlib names the imported module first
    return ""


def test_every_room_has_one_level() -> None:
    named = [name for level in LEVELS for name in level]
    assert sorted(named) == sorted({room_of(name) for name in SOURCES if name != TOP})


def test_contributors_are_told_the_same_levels() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.+) \|$", page, re.MULTILINE)
    told = {int(number): set(re.findall(r"`(\w+)`", names)) for number, names in rows}
    assert told == dict(enumerate(LEVELS, start=1))


def test_no_import_runs_up() -> None:
    graph = graph_of(SOURCES)
    assert sum(map(len, graph.values())) > 50, "the imports were not read"
    assert arrows_up(graph) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(graph_of(SOURCES)) == ""


@pytest.mark.parametrize(
    ("module", "line", "arrow"),
    [
        ("runtime", "from bigmodel_helpers import data", "runtime -> bigmodel_helpers.data"),
        ("models.convnet", "import bigmodel_helpers.measure", "models.convnet -> bigmodel_helpers.measure"),
        (
            "models.convnet",
            "from bigmodel_helpers.measure import budgets",
            "-> bigmodel_helpers.measure.budgets",
        ),
        ("models.convnet", "from ..measure import flops", "models.convnet -> bigmodel_helpers.measure"),
        (
            "data.batches",
            "def f():\n    from bigmodel_helpers.training import fit",
            "-> bigmodel_helpers.training",
        ),
        (
            "evaluation.metrics",
            "if TYPE_CHECKING:\n    from bigmodel_helpers.inference import Prediction",
            "evaluation.metrics -> bigmodel_helpers.inference",
        ),
        ("measure.counting", "from bigmodel_helpers.models import ResNet", ""),
    ],
)
def test_an_import_upward_is_named(module: str, line: str, arrow: str) -> None:
    name = f"{TOP}.{module}"
    found = arrows_up(graph_of({**SOURCES, name: f"{SOURCES[name]}\n{line}\n"}))
    assert any(arrow in text for text in found) if arrow else found == []


@pytest.mark.parametrize(
    "line",
    [
        "from bigmodel_helpers.data.batches import Batches",
        "from bigmodel_helpers.data import batches",
        "from . import batches",
        "from .batches import Batches",
        "from bigmodel_helpers.data import Batches",
        "if TYPE_CHECKING:\n    from bigmodel_helpers.data.batches import Batches",
        "def late():\n    from bigmodel_helpers.data.batches import Batches",
    ],
)
def test_a_circle_is_named(line: str) -> None:
    data = {
        name: source
        for name, source in SOURCES.items()
        if name == TOP or f"{name}.".startswith(f"{TOP}.data.")
    }
    assert circle(graph_of(data)) == ""
    name = f"{TOP}.data.image_set"
    found = circle(graph_of({**data, name: f"{data[name]}\n{line}\n"}))
    assert f"{name} -> " in found
    assert found.split(" -> ")[0] == found.split(" -> ")[-1]
