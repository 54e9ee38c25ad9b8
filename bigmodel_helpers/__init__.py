"""Helpers of the book *From Zero to Large Models with PyTorch 2*.

Each submodule holds what one or more chapters wrote out in full first. Submodules are loaded
when they are first used, so ``import bigmodel_helpers`` costs next to nothing.
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_SUBMODULES = (
    "budgets",
    "calibration",
    "comparison",
    "corruptions",
    "curves",
    "data",
    "digits",
    "distributed",
    "evaluation",
    "explain",
    "explore",
    "folders",
    "images",
    "inference",
    "low_rank",
    "measure",
    "models",
    "optim",
    "plots",
    "pretrained",
    "pruning",
    "quantization",
    "roofline",
    "runtime",
    "scoreboard",
    "synthetic",
    "text",
    "training",
    "transfer",
)
__all__ = ["__version__", *_SUBMODULES]


def __getattr__(name: str) -> ModuleType:
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
