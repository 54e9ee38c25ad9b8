"""Figures of the book in one visual style, with colors that color-blind readers can tell apart.

Each function draws one figure with pyplot and returns it. A notebook shows it with ``plt.show()``; elsewhere
save it with ``figure.savefig(path)`` and close it with ``plt.close(figure)``. Introduced in chapter 4.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

try:
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator
except ModuleNotFoundError as error:
    message = "figures need matplotlib, which is not installed: pip install matplotlib"
    raise ModuleNotFoundError(message) from error

from bigmodel_helpers.evaluation import Proportion

#: A color of Okabe and Ito, "Color Universal Design" (2008), without the yellow that white paper swallows.
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"  #: One more of these colors.
GRAY = "#595959"  #: For what stands beside the data: limits, notes, earlier results.

WIDTH = 7.0  # inches; the page shows this width in about 700 pixels, a telephone in about 360
STYLE = {
    "figure.figsize": (WIDTH, 4.0),
    "figure.dpi": 144,
    "savefig.dpi": 144,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 13,
    "axes.titlesize": 13,
    "axes.labelsize": 13,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "lines.linewidth": 2.2,
    "lines.markersize": 5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    # color and dash differ from line to line, so that lines can be told apart without color
    "axes.prop_cycle": mpl.cycler(color=[BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK])
    + mpl.cycler(linestyle=["-", "--", "-.", ":", "-", "--", "-."]),
}


def use_style() -> None:
    """Draw all figures from now on in the style of the book; the other functions use it in any case.

    Introduced in chapter 1.
    """
    mpl.rcParams.update(STYLE)


def ink(background: object) -> str:
    """Return black or white, whichever is read better on a color: for numbers in colored cells.

    Args:
        background: a color as Matplotlib takes it, on white paper: a name, "#0072B2", or (r, g, b[, a]) from 0 to 1.

    Introduced in chapter 3.

    >>> figures.ink("#FFCC00"), figures.ink((0.1, 0.1, 0.4))
    ('black', 'white')
    """
    *color, alpha = mpl.colors.to_rgba(background)
    channels = 1 - alpha * (1 - np.array(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (
        0.2126,
        0.7152,
        0.0722,
    )  # the contrast of WCAG 2 is (lighter + 0.05) / (darker + 0.05)
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def whole_ticks(ax: Axes) -> None:
    """Mark whole numbers only on the horizontal axis, which counts layers, steps or epochs.

    Introduced in chapter 3.
    """
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def _columns(names: Sequence[str]) -> int:
    """Return into how many columns a legend as wide as the figure fits; Matplotlib fills column by column."""
    for columns in range(len(names), 1, -1):
        rows = math.ceil(len(names) / columns)
        letters = [8 + max(map(len, names[i : i + rows])) for i in range(0, len(names), rows)]
        if sum(letters) <= 76:
            return len(letters)
    return 1


def legend_above(figure: Figure) -> None:
    """Put one legend of all panels above them, where it hides no data. Introduced in chapter 1.

    Args:
        figure: made in the style of the book, whose constrained layout makes room for the legend.

    Raises:
        ValueError: the figure has another layout, or nothing in it has a label.
    """
    if not isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        raise ValueError("the figure makes no room for a legend: call figures.use_style() before you make it")
    shown = {
        label: handle
        for ax in figure.axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if not shown:
        raise ValueError("nothing in the figure has a label: pass label= to what you draw")
    figure.legend(shown.values(), shown, loc="outside upper center", ncols=_columns(list(shown)))


def _array(data: object) -> np.ndarray:
    return data.numpy(force=True) if isinstance(data, Tensor) else np.asarray(data)


@mpl.rc_context(STYLE)
def image_grid(images: Tensor, titles: Sequence[str] | None = None, columns: int = 6) -> Figure:
    """Show images in rows of `columns`, each under its title.

    Args:
        images: (N, 3, H, W) uint8.
        titles: N texts, which may have several lines; None for no titles.
        columns: images per row. Titles get smaller where the columns are narrow.

    Raises:
        ValueError: the images have another format, or there is not one title per image.

    >>> len(figures.image_grid(synthetic.shapes(6, seed=0)[0], columns=3).axes)
    6
    """
    pixels = _array(images)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or len(pixels) == 0:
        raise ValueError(f"images are {pixels.dtype} {pixels.shape}: pass uint8 (N, 3, H, W) with N >= 1")
    titles = [""] * len(pixels) if titles is None else list(titles)
    if len(titles) != len(pixels):
        raise ValueError(f"{len(pixels)} images have {len(titles)} titles: pass one title per image")
    lines = [line for title in titles for line in title.split("\n")]
    cell = WIDTH / columns
    size = min(13.0, 72 * cell / (0.66 * max(5, *map(len, lines))))  # in points; a letter is 0.66 wide
    rows = math.ceil(len(pixels) / columns)
    title_height = max(title.count("\n") + 1 for title in titles) * 1.5 * size / 72 if any(titles) else 0.05
    figure, axes = plt.subplots(rows, columns, squeeze=False, figsize=(WIDTH, rows * (cell + title_height)))
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, title in zip(axes.flat, pixels, titles, strict=False):
        ax.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        ax.set_title(title, fontsize=size, pad=3)
    return figure


@mpl.rc_context(STYLE)
def learning_curves(rows: Sequence[Mapping[str, float | None]], x: str, *ys: str | Sequence[str]) -> Figure:
    """Draw columns of a table against its column `x`, one panel per entry of `ys`, one below the other.

    Args:
        rows: the table, one mapping per row. Where a column is missing or None, its line has no point.
        x: name of the column on the horizontal axis.
        ys: per panel the name of a column, or several names for several lines in one panel.

    Raises:
        ValueError: no panel is asked for, or no row holds both `x` and a column of `ys`.
    """
    panels = [[y] if isinstance(y, str) else list(y) for y in ys]
    if not panels:
        raise ValueError("no column to draw: name at least one after x")
    lines = {}
    for name in {name for panel in panels for name in panel}:
        points = [(row[x], row[name]) for row in rows if row.get(x) is not None and row.get(name) is not None]
        if not points:
            columns = ", ".join(sorted({column for row in rows for column in row})) or "none"
            raise ValueError(f"no row holds {x!r} and {name!r}: the columns are {columns}")
        lines[name] = tuple(zip(*points, strict=True))
    size = (WIDTH, 0.6 + 2.6 * len(panels))
    figure, axes = plt.subplots(len(panels), 1, sharex=True, squeeze=False, figsize=size)
    for ax, panel in zip(axes.flat, panels, strict=True):
        for name in panel:
            marker = "o" if len(lines[name][0]) <= 30 else ""
            ax.plot(*lines[name], marker=marker, label=name.replace("_", " "))
        if len(panel) > 1:
            names = [name.replace("_", " ") for name in panel]
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=_columns(names))
        else:
            ax.set_ylabel(panel[0].replace("_", " "))
    axes[-1, 0].set_xlabel(x.replace("_", " "))
    if all(float(value).is_integer() for line in lines.values() for value in line[0]):
        whole_ticks(axes[-1, 0])
    return figure


@mpl.rc_context(STYLE)
def bars_with_intervals(proportions: Mapping[str, Proportion], label: str = "accuracy") -> Figure:
    """Draw proportions as bars, the highest on top, with their 95 % intervals (Wilson 1927).

    Args:
        proportions: what to draw, by name.
        label: what the proportions are, for the axis.

    Raises:
        ValueError: there is no proportion.
    """
    if not proportions:
        raise ValueError("no proportion to draw: pass at least one")
    ordered = sorted(proportions.items(), key=lambda item: item[1].value, reverse=True)
    values = 100 * np.array([p.value for _, p in ordered])
    intervals = 100 * np.array([p.interval() for _, p in ordered]).T
    errors = np.abs(intervals - values)
    names = [textwrap.fill(name, 22, break_long_words=False) for name, _ in ordered]
    lines = sum(name.count("\n") + 1.4 for name in names)
    figure, ax = plt.subplots(figsize=(WIDTH, 1.1 + 0.24 * lines))
    ax.set_yticks(range(len(names)), names)
    ax.barh(range(len(names)), values, height=0.7, color=SKY, xerr=errors, error_kw={"lw": 2, "capsize": 3})
    texts = ["(95 % interval)", *(str(proportion) for _, proportion in ordered)]
    right_edge = 10 + 7.7 * max(map(len, texts))  # in points from the axes
    for row, text in enumerate(texts, start=-1):
        at = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
        ax.annotate(text, (1, row), (right_edge, 0), ha="right", va="center_baseline", fontsize=12, **at)
    ax.set(xlim=(0, 100), ylim=(len(names) - 0.4, -0.6), xlabel=f"{label} in %")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    return figure
