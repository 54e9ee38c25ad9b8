"""Figures in one visual style, and figures that the reader moves (`explore.figure`).

What draws with Matplotlib is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from bigmodel_helpers.figures import explore
from bigmodel_helpers.figures.recording import Recorder, recorder

if TYPE_CHECKING:
    from bigmodel_helpers.figures.plots import (
        BLACK,
        BLUE,
        GRAY,
        GREEN,
        ORANGE,
        SKY,
        VERMILLION,
        bars_with_intervals,
        image_grid,
        ink,
        learning_curves,
        legend_above,
        use_style,
        whole_ticks,
    )

__all__ = [
    "BLACK",
    "BLUE",
    "GRAY",
    "GREEN",
    "ORANGE",
    "SKY",
    "VERMILLION",
    "Recorder",
    "bars_with_intervals",
    "explore",
    "image_grid",
    "ink",
    "learning_curves",
    "legend_above",
    "recorder",
    "use_style",
    "whole_ticks",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module(f"{__name__}.plots"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
