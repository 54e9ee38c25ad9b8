"""Helpers of the book *From Zero to Large Models with PyTorch 2*.

Nine rooms, and the modules `runtime` and `exercises`. Each name was written out in full by a chapter first.
A room is loaded when it is first used, so ``import bigmodel_helpers`` costs next to nothing.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigmodel_helpers import (
        compression,
        data,
        distributed,
        evaluation,
        exercises,
        figures,
        inference,
        measure,
        models,
        runtime,
        training,
    )

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "compression",
    "data",
    "distributed",
    "evaluation",
    "exercises",
    "figures",
    "inference",
    "measure",
    "models",
    "runtime",
    "training",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
