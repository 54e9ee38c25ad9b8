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
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
except ModuleNotFoundError as error:
    message = 'figures need matplotlib, which is not installed: pip install "bigmodel-helpers[plots]"'
    raise ModuleNotFoundError(message) from error

from bigmodel_helpers.evaluation import Proportion
from bigmodel_helpers.measure import Rate, _number

# Okabe and Ito, "Color Universal Design" (2008), without the yellow that white paper swallows
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
GRAY = "#595959"

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
    """Draw all figures from now on in the style of the book; the functions below use it in any case."""
    mpl.rcParams.update(STYLE)


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
            ax.legend()
        else:
            ax.set_ylabel(panel[0].replace("_", " "))
    axes[-1, 0].set_xlabel(x.replace("_", " "))
    if all(float(value).is_integer() for line in lines.values() for value in line[0]):
        axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return figure


def _blend(color: str, share: np.ndarray) -> np.ndarray:
    """Mix `color` into white: share 0 gives white, 1 the full color; shape (..., 3)."""
    return 1 - share[..., None] * (1 - np.array(to_rgb(color)))


@mpl.rc_context(STYLE)
def confusion(matrix: Tensor, classes: Sequence[str]) -> Figure:
    """Show a confusion matrix with its counts: right answers in blue, mistakes in orange.

    Blue gets darker with the share of the class that is right, orange with the number of mistakes.

    Args:
        matrix: (C, C) counts, rows = true class, as `evaluation.confusion_matrix` returns it.
        classes: C names.

    Raises:
        ValueError: the matrix is not (C, C).
    """
    counts = _array(matrix)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"the matrix is {counts.shape}, but there are {len(classes)} classes: pass (C, C)")
    n, right = len(classes), np.eye(len(classes), dtype=bool)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = np.where(right, 0, counts) / max(1, counts[~right].max(initial=0))
    side = min(WIDTH, 2.4 + 0.6 * n)
    figure, ax = plt.subplots(figsize=(side, side))
    ax.imshow(np.where(right[..., None], _blend(BLUE, share), _blend(ORANGE, 0.8 * wrong)))
    size = min(13.0, 150 / n)
    for i, j in np.ndindex(n, n):
        color = "white" if i == j and share[i, j] > 0.8 else "black" if counts[i, j] else GRAY
        ax.text(j, i, f"{counts[i, j]}", ha="center", va="center", fontsize=size, color=color)
    ax.set_xticks(range(n), classes, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(n), classes)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def _bars(labels: Sequence[str], columns: Mapping[str, Sequence[str]]) -> tuple[Figure, plt.Axes]:
    """Make a figure for bars at 0, 1, ... from the top, labels on the left, columns of text on the right."""
    labels = [textwrap.fill(label, 22, break_long_words=False) for label in labels]
    lines = sum(label.count("\n") + 1.4 for label in labels)
    figure, ax = plt.subplots(figsize=(WIDTH, 1.1 + 0.24 * lines))
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    right_edge = 0.0  # of the column, in points from the axes
    for header, cells in columns.items():
        right_edge += 10 + 7.7 * max(map(len, (header, *cells)))
        for row, text in enumerate((header, *cells), start=-1):
            at = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
            ax.annotate(text, (1, row), (right_edge, 0), ha="right", va="center_baseline", fontsize=12, **at)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    return figure, ax


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
    figure, ax = _bars([name for name, _ in ordered], {"(95 % interval)": [str(p) for _, p in ordered]})
    errors = np.abs(intervals - values)
    ax.barh(range(len(values)), values, height=0.7, color=SKY, xerr=errors, error_kw={"lw": 2, "capsize": 3})
    ax.set_xlim(0, 100)
    ax.set_xlabel(f"{label} in %")
    return figure


@mpl.rc_context(STYLE)
def log_ratio_bars(labels: Sequence[str], rates: Sequence[float | Rate], unit: str = "images/s") -> Figure:
    """Draw the ratio of each rate to the first one as a bar on a logarithmic axis, with its number beside it.

    Equal lengths are equal ratios; a rate below the first one has a bar of another color, to the left.
    A `Rate` is drawn at its median, with a thin line over its spread.

    Args:
        labels: what was measured, the reference first.
        rates: one positive number or `Rate` per label.
        unit: unit of the rates.

    Raises:
        ValueError: there is not one positive rate per label.
    """
    spreads = np.array([rate.spread if isinstance(rate, Rate) else (rate, rate) for rate in rates], float)
    medians = np.array([rate.median if isinstance(rate, Rate) else rate for rate in rates], float)
    if len(labels) != len(medians) or len(medians) == 0 or not (spreads > 0).all():
        raise ValueError(f"{len(labels)} labels, rates {medians.tolist()}: pass one positive rate per label")
    ratios = medians / medians[0]
    columns = {unit: [_number(rate) for rate in medians], "ratio": [f"{_number(r)}x" for r in ratios]}
    figure, ax = _bars(labels, columns)
    errors = np.abs(spreads / medians[0] - ratios[:, None]).T
    colors = [BLUE if ratio >= 1 else VERMILLION for ratio in ratios]
    ax.barh(range(len(ratios)), ratios - 1, left=1, height=0.7, color=colors)
    ax.errorbar(ratios, range(len(ratios)), xerr=errors, fmt="none", ecolor=BLACK, elinewidth=1.5)
    ax.axvline(1, color=BLACK, lw=1)
    ax.set_xscale("log", base=2)
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, 0.95), max(high, 2.1))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}x"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("ratio to the first row")
    return figure
