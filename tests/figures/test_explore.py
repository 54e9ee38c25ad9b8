"""Movable figures: what they refuse, what a page holds, and that widget and page show the same."""

import base64
import builtins
import gzip
import io
import json
from urllib.parse import unquote_to_bytes

import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup, Tag
from PIL import Image

from bigmodel_helpers.figures import explore

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 20" width="100" height="20">{}</svg>'


def bar(length: int, color: str = "red", corner: float = 0.5) -> str:
    return SVG.format(f'<rect width="{length}" height="20" rx="{corner}" fill="{color}"/>')


def describe(length: int, color: str = "red", corner: float = 0.5) -> str:
    return f'A {color} bar of length {length} with corners of "{corner}" & more.'


def made(**options: object) -> explore.Explorer:
    sliders = {"length": [10, 2000], "color": ["red", "blue"], "corner": [0.5, 1e-6]}
    options = {"alt": describe, "start": {"color": "blue"}} | options
    return explore.figure(bar, sliders, **options)


def page_of(figure: explore.Explorer) -> tuple[Tag, dict]:
    """Return the element of the figure and its unpacked frames."""
    element = BeautifulSoup(figure.html, "html.parser").find(class_="explore")
    return element, json.loads(gzip.decompress(base64.b64decode(element["data-frames"])))


def content(uri: str) -> bytes:
    head, _, data = uri.partition(",")
    return base64.b64decode(data) if head.endswith(";base64") else unquote_to_bytes(data)


def test_page_holds_one_described_frame_for_each_combination() -> None:
    figure = made()
    _, data = page_of(figure)
    assert len(figure.combinations()) == len(data["order"]) == len(data["alts"]) == 8
    assert data["labels"] == [["10", "2,000"], ["red", "blue"], ["0.5", "1e-06"]]
    for values, place, alt in zip(figure.combinations(), data["order"], data["alts"], strict=True):
        assert content(data["frames"][place]).decode() == bar(**values)
        assert alt == describe(**values)


def test_page_shows_the_first_frame_and_labeled_sliders_without_a_script() -> None:
    element, _ = page_of(made())
    begin = {"length": 10, "color": "blue", "corner": 0.5}
    assert content(element.img["src"]).decode() == bar(**begin)
    assert element.img["alt"] == describe(**begin)
    labels = element.find_all("label")
    assert [label.find(string=True) for label in labels] == ["length", "color", "corner"]
    assert [label.input["value"] for label in labels] == ["0", "1", "0"]
    assert [label.input["max"] for label in labels] == ["1", "1", "1"]
    assert [label.output.text for label in labels] == ["10", "blue", "0.5"]
    assert element.fieldset.has_attr("hidden")  # until the script has unpacked the frames


def test_page_is_the_same_each_time_and_stores_equal_frames_once() -> None:
    assert made().html == made().html
    figure = explore.figure(
        lambda a, b: bar(a),
        {"a": [1, 2], "b": [1, 2, 3]},
        alt=lambda a, b: f"A bar of length {a} for b = {b}",
    )
    _, data = page_of(figure)
    assert (len(data["frames"]), data["order"]) == (2, [0, 0, 0, 1, 1, 1])


def test_matplotlib_figures_become_small_pictures_and_are_closed() -> None:
    def line(slope: float) -> plt.Figure:
        figure, ax = plt.subplots(figsize=(4, 2), dpi=100)
        ax.plot([0, 1], [0, slope])
        ax.set_ylim(0, 3)
        return figure

    before = plt.get_fignums()
    figure = explore.figure(line, {"slope": [1.0, 3.0]}, alt=lambda slope: f"A line with the slope {slope}")
    _, data = page_of(figure)
    pictures = [np.asarray(Image.open(io.BytesIO(content(frame))), int) for frame in data["frames"]]
    assert [picture.shape for picture in pictures] == [(200, 400, 3)] * 2
    assert abs(pictures[0] - pictures[1]).max() > 100
    assert max(map(len, data["frames"])) < 15_000
    assert plt.get_fignums() == before


def test_small_marks_and_pale_areas_keep_their_color() -> None:
    def marks(size: int) -> plt.Figure:
        figure, ax = plt.subplots(figsize=(7, 4.2), dpi=120)
        across = np.linspace(0, 1, 100)
        for k in range(12):
            ax.plot(across, across**k, color="#9a9a9a", lw=1)
            ax.plot(across, across ** (1 / (k + 1)), color="#0072B2", lw=1 + k / 10)
        ax.fill_between(across, 0.4, 0.6, color="#D9EAF3")
        ax.plot(0.5, 0.5, "s", color="#D55E00", markersize=size)
        return figure

    figure = explore.figure(marks, {"size": [9, 12]}, alt=lambda size: f"An orange square of the size {size}")
    _, data = page_of(figure)
    for frame in data["frames"]:
        stored = np.asarray(Image.open(io.BytesIO(content(frame))), int)
        for color, pixels in (((0xD5, 0x5E, 0x00), 100), ((0xD9, 0xEA, 0xF3), 10_000)):
            assert (np.abs(stored - color).max(axis=-1) < 4).sum() > pixels


def test_pictures_stay_close_to_what_was_drawn() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 10, 3))

    def photo(kind: str) -> plt.Figure:
        smooth = np.kron(noise, np.ones((20, 20, 1), int)) if kind == "blocks" else noise
        figure = plt.figure(figsize=(2, 1.6), dpi=100)
        figure.figimage(np.asarray(Image.fromarray(smooth.astype("uint8")).resize((200, 160))))
        return figure

    figure = explore.figure(
        photo, {"kind": ["blocks", "smooth"]}, alt=lambda kind: f"A colored picture, {kind}"
    )
    _, data = page_of(figure)
    for kind, frame in zip(["blocks", "smooth"], data["frames"], strict=True):
        drawn = photo(kind)
        drawn.canvas.draw()
        exact = np.asarray(drawn.canvas.buffer_rgba(), float)[..., :3]
        plt.close(drawn)
        stored = np.asarray(Image.open(io.BytesIO(content(frame))), float)
        assert np.abs(stored - exact).mean() < 8


def test_widget_draws_what_the_page_holds_and_moves() -> None:
    figure = made(live={"length": [10, 20, 2000]})
    box = figure.widget()
    length, color, corner, picture, errors = box.children
    assert [slider.description for slider in (length, color, corner)] == ["length", "color", "corner"]
    assert [label for label, _ in length.options] == ["10", "20", "2,000"]

    def shown() -> tuple[str, str]:
        image = BeautifulSoup(picture.value, "html.parser").img
        return content(image["src"]).decode(), image["alt"]

    assert shown() == (bar(10, "blue"), describe(10, "blue"))
    length.value, color.value = 20, "red"
    assert shown() == (bar(20, "red"), describe(20, "red"))
    assert errors.outputs == ()


def test_notebook_gets_widget_and_frames_in_one_output(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = made()
    bundle = figure._repr_mimebundle_()
    assert bundle["text/html"] == figure.html
    assert bundle["text/plain"] == "A figure to move: length, color, corner"
    assert "model_id" in bundle["application/vnd.jupyter.widget-view+json"]

    usual = builtins.__import__

    def without_widgets(name: str, *args: object, **options: object) -> object:
        if name == "ipywidgets":
            raise ModuleNotFoundError("No module named 'ipywidgets'", name="ipywidgets")
        return usual(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_widgets)
    assert set(figure._repr_mimebundle_()) == {"text/plain", "text/html"}


@pytest.mark.parametrize(
    ("sliders", "options", "complaint"),
    [
        ({}, {}, "there is no slider"),
        ({"length": [1]}, {}, "at least two"),
        ({"length": [1, 2, 1]}, {}, "each once"),
        ({"length": [1, 2]}, {"start": {"size": 1}}, "no slider 'size': the sliders are length"),
        ({"length": [1, 2]}, {"start": {"length": 3}}, "cannot start at 3"),
        ({"length": [1, 2]}, {"live": {"length": [2, 3]}}, "cannot start at 1"),
        ({"length": [1, 2]}, {"live": {"size": [2, 3]}}, "no slider 'size'"),
    ],
)
def test_figure_refuses_sliders_that_do_not_fit(sliders: dict, options: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        explore.figure(bar, sliders, alt=describe, **options)


@pytest.mark.parametrize(
    ("draw", "alt", "error", "complaint"),
    [
        (lambda length: "a bar", describe, ValueError, "no SVG"),
        (lambda length: "<svg></svg>", describe, ValueError, "no SVG"),
        (lambda length: None, describe, TypeError, "draw returned NoneType"),
        (bar, lambda length: "a bar", ValueError, "describe in a sentence"),
        (
            lambda length: bar(length) + "<!--" + np.random.bytes(800_000).hex(),
            describe,
            ValueError,
            "2 frames and",
        ),
    ],
)
def test_page_refuses_what_it_cannot_show(
    draw: object, alt: object, error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        _ = explore.figure(draw, {"length": [1, 2]}, alt=alt).html
