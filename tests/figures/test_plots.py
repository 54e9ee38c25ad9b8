"""Each figure shows the numbers it was given, legibly, and leaves nothing behind."""

import gc
import importlib
import io
import sys
import weakref

import matplotlib as mpl
import numpy as np
import pytest
import torch

mpl.use("Agg")

import matplotlib.pyplot as plt

from bigmodel_helpers import figures
from bigmodel_helpers.evaluation import Proportion

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ROWS = [
    {"epoch": n, "train_loss": 2 / n, "test_loss": 2.2 / n if n % 2 else None, "test_accuracy": 1 - 0.7 / n}
    for n in range(1, 9)
]
PROPORTIONS = {name: Proportion(800 + 20 * (i * 7 % 10), 1000) for i, name in enumerate(CIFAR)}
IMAGES = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

FIGURES = {
    "grid": lambda: figures.image_grid(IMAGES, [f"{name}\nnot automobile" for name in CIFAR[:7]], columns=6),
    "curves": lambda: figures.learning_curves(ROWS, "epoch", ("train_loss", "test_loss"), "test_accuracy"),
    "bars": lambda: figures.bars_with_intervals(PROPORTIONS),
    "legend": lambda: _panels_with_a_legend(),
    "long legend": lambda: _long_legend(),
}


def _panels_with_a_legend():
    with mpl.rc_context():
        figures.use_style()
        figure, axes = plt.subplots(1, 2, figsize=(7, 3))
        for ax in axes:
            for name in ("constant", "triangle", "a schedule with a long name", "cosine"):
                ax.plot([0, 1], [1, 1], label=name)
        figures.legend_above(figure)
    return figure


def _long_legend():
    figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    ax.plot([0, 1], label="_hidden")
    ax.bar([0, 1], [1, 2], label="a name that is so long that no other one fits into the line beside it")
    ax.plot([0, 1], label="short")
    figures.legend_above(figure)
    return figure


@pytest.fixture(autouse=True)
def closed_figures():
    plt.close("all")
    yield
    plt.close("all")


def pixels(figure):
    """Render as a notebook does (PNG, tight box) and return (H, W, 3) uint8."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", bbox_inches="tight")
        file.seek(0)
        return (255 * plt.imread(file)[..., :3]).round().astype(np.uint8)


def texts(figure, monkeypatch):
    """Draw the figure; return each text that was really drawn, with its box in pixels."""
    drawn, draw = [], mpl.text.Text.draw

    def noting_draw(self, renderer, *args, **kwargs):
        drawn.append(self)
        draw(self, renderer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(mpl.text.Text, "draw", noting_draw)
        figure.canvas.draw()
    return [(t, t.get_window_extent()) for t in dict.fromkeys(drawn) if t.get_visible() and t.get_text()]


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_legible_on_white(name, monkeypatch):
    figure = FIGURES[name]()
    image = pixels(figure)
    assert image[:3].min() == image[:, :3].min() == 255, "the margin is not white"
    assert image.min() < 100, "nothing dark was drawn"
    width = image.shape[1] / figure.dpi
    assert 6 < width < 7.5, f"{width} inches wide"
    drawn = texts(figure, monkeypatch)
    assert len(drawn) > 5
    for text, box in drawn:
        assert text.get_fontsize() >= 8, f"{text.get_text()!r} is too small"
        assert box.x0 >= 0, f"{text.get_text()!r} is cut"
        assert box.x1 <= figure.bbox.x1 + 1, f"{text.get_text()!r} is cut"
    upright = [(t, b) for t, b in drawn if t.get_rotation() in (0, 90)]
    for i, (first, a) in enumerate(upright):
        for second, b in upright[i + 1 :]:
            overlap_x, overlap_y = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert overlap_x < 1 or overlap_y < 3, f"{first.get_text()!r} lies on {second.get_text()!r}"


@pytest.mark.parametrize("name", FIGURES)
def test_figures_change_no_setting_and_can_be_closed(name):
    before = dict(mpl.rcParams)
    figure = FIGURES[name]()
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == [figure.number]
    gone = weakref.ref(figure)
    plt.close(figure)
    del figure
    gc.collect()
    assert gone() is None
    assert plt.get_fignums() == []


def test_use_style_reaches_the_readers_own_figures():
    with mpl.rc_context():
        mpl.rcParams["font.size"] = 3
        figures.use_style()
        assert mpl.rcParams["font.size"] == 13
        figure, ax = plt.subplots()
        ax.plot([0, 1])
        assert mpl.colors.to_hex(ax.lines[0].get_color()).upper() == "#0072B2"
        assert figure.get_facecolor() == (1, 1, 1, 1)


def test_image_grid_shows_the_images_in_order():
    colors = torch.tensor([[250, 10, 20], [30, 240, 40], [50, 60, 230]], dtype=torch.uint8)
    images = colors[:, :, None, None].expand(3, 3, 8, 8)
    figure = figures.image_grid(images, ["red", "green", "blue"], columns=2)
    assert [ax.get_title() for ax in figure.axes] == ["red", "green", "blue", ""]
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 1, 0]
    figure.canvas.draw()
    canvas = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    for ax, color in zip(figure.axes, colors, strict=False):
        x, y = ax.transAxes.transform((0.5, 0.5)).astype(int)
        assert canvas[canvas.shape[0] - y, x].tolist() == color.tolist()
    assert len(figures.image_grid(IMAGES, columns=3).axes) == 9


def test_learning_curves_draw_the_table():
    figure = figures.learning_curves(ROWS, "epoch", ("train_loss", "test_loss"), "test_accuracy")
    top, bottom = figure.axes
    assert top.lines[0].get_xdata().tolist() == list(range(1, 9))
    assert top.lines[0].get_ydata().tolist() == [row["train_loss"] for row in ROWS]
    assert top.lines[1].get_xdata().tolist() == [1, 3, 5, 7]  # None has no point
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["train loss", "test loss"]
    assert top.lines[0].get_linestyle() != top.lines[1].get_linestyle()
    assert bottom.lines[0].get_ydata().tolist() == [row["test_accuracy"] for row in ROWS]
    assert (bottom.get_xlabel(), bottom.get_ylabel()) == ("epoch", "test accuracy")


@pytest.mark.parametrize("name", ["curves", "legend", "long legend"])
def test_legends_hide_no_data(name):
    figure = FIGURES[name]()
    figure.canvas.draw()
    legends = [legend for ax in figure.axes if (legend := ax.get_legend())] + figure.legends
    assert legends
    for legend in legends:
        box = legend.get_window_extent()
        assert not any(ax.bbox.overlaps(box) for ax in figure.axes)
        names = [text.get_text() for text in legend.get_texts()]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("layout", "message"), [("constrained", "has a label"), ("tight", "no room"), (None, "no room")]
)
def test_a_legend_without_labels_or_room_is_refused(layout, message):
    with pytest.raises(ValueError, match=message):
        figures.legend_above(plt.figure(layout=layout))


@pytest.mark.parametrize(
    ("color", "ink"),
    [
        ("white", "black"),
        (figures.SKY, "black"),
        ("#999999", "black"),
        (figures.BLUE, "white"),
        ((0, 0, 0, 1), "white"),
        (np.array([0.1, 0.1, 0.4, 1.0]), "white"),
        ((0, 0, 0, 0.1), "black"),
        ("none", "black"),
    ],
)
def test_ink_is_what_contrasts_more(color, ink):
    assert figures.ink(color) == ink


@pytest.mark.parametrize("count", [1, 2, 3, 19, 57, 200])
def test_counts_have_whole_ticks(count):
    _, ax = plt.subplots()
    ax.plot(range(count))
    figures.whole_ticks(ax)
    assert all(float(tick).is_integer() for tick in ax.get_xticks())


def test_bars_are_sorted_and_show_the_intervals():
    proportions = {"low": Proportion(10, 100), "high": Proportion(90, 100), "middle": Proportion(500, 1000)}
    (ax,) = figures.bars_with_intervals(proportions).axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["high", "middle", "low"]
    assert ax.yaxis_inverted()
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([90, 50, 10])
    (errors,) = (c for c in ax.collections if isinstance(c, mpl.collections.LineCollection))
    drawn = [tuple(segment[:, 0]) for segment in errors.get_segments()]
    for segment, name in zip(drawn, ["high", "middle", "low"], strict=True):
        assert segment == pytest.approx([100 * edge for edge in proportions[name].interval()])
    assert str(proportions["low"]) in [t.get_text() for t in ax.texts]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.image_grid(IMAGES.float()), "float32"),
        (lambda: figures.image_grid(IMAGES[0]), r"\(3, 32, 32\)"),
        (lambda: figures.image_grid(IMAGES[:0]), "N >= 1"),
        (lambda: figures.image_grid(IMAGES, ["one"]), "7 images have 1 titles"),
        (lambda: figures.learning_curves(ROWS, "epoch"), "no column"),
        (lambda: figures.learning_curves(ROWS, "epoch", "los"), "no row holds 'epoch' and 'los'.*test_loss"),
        (lambda: figures.learning_curves([], "epoch", "loss"), "columns are none"),
        (lambda: figures.bars_with_intervals({}), "no proportion"),
    ],
)
def test_wrong_input_is_refused_and_leaves_no_figure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert plt.get_fignums() == []


def test_missing_matplotlib_is_told_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "bigmodel_helpers.figures.plots")
    with pytest.raises(ModuleNotFoundError, match=r"^[^\n]*pip install matplotlib$"):
        importlib.import_module("bigmodel_helpers.figures.plots")
