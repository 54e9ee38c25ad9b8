"""The examples in the docstrings of the package do what they say."""

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

import bigmodel_helpers

MODULES = [module.name for module in pkgutil.walk_packages(bigmodel_helpers.__path__, "bigmodel_helpers.")]


def names_of_a_reader() -> dict[str, object]:
    """Return what the examples take for granted: torch, nn, the rooms, and the modules that rooms offer."""
    rooms = {
        name: getattr(bigmodel_helpers, name) for name in bigmodel_helpers.__all__ if name != "__version__"
    }
    offered = {name: getattr(room, name) for room in rooms.values() for name in getattr(room, "__all__", ())}
    kept = {name: thing for name, thing in offered.items() if inspect.ismodule(thing)}
    return {"torch": torch, "nn": nn} | rooms | kept


def examples(module: ModuleType) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(exclude_empty=True).find(module, globs=names_of_a_reader())
    return [one for one in found if one.examples]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_examples_do_what_they_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("BIGMODEL_DATA", "BIGMODEL_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    mpl.use("Agg")
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST)
    for example in examples(importlib.import_module(name)):
        runner.run(example, out=report.append)
    plt.close("all")
    assert "".join(report) == ""


def test_there_are_examples() -> None:
    shown = {name: len(examples(importlib.import_module(name))) for name in MODULES if "__main__" not in name}
    assert sum(shown.values()) >= 30
    for room in (
        "runtime",
        "data",
        "models",
        "measure",
        "evaluation",
        "compression",
        "inference",
        "figures",
        "exercises",
    ):
        assert any(count for name, count in shown.items() if name.split(".")[1] == room), room
