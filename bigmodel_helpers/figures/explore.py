"""A figure that the reader moves: live in a kernel, pre-rendered frames on a page. Introduced in chapter 1.

One call draws a figure for each combination of slider values. The result shows itself in two ways. In a
notebook with a kernel, ipywidgets sliders call `draw` again each time they move. Everywhere else (the built
book, an exported page) the same sliders choose among the frames that were drawn beforehand: no kernel, no
network. Nothing moves unless the reader moves it.
"""

import base64
import functools
import gzip
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union
from urllib.parse import quote

from PIL import Image

if TYPE_CHECKING:
    import matplotlib.figure

Drawing = Union["matplotlib.figure.Figure", str]
MAX_BYTES = 1_500_000  # of one figure on a page
_PAGE = Path(__file__).with_name("_explore.html")


def _label(value: object) -> str:
    """Write a slider value as the reader sees it: 0.1, 4,096, full."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _encode(drawing: Drawing) -> tuple[str, bytes]:
    """Return the MIME type and the bytes of a drawing: SVG text as it is, a Matplotlib figure as WebP."""
    if isinstance(drawing, str):
        if not drawing.lstrip().startswith("<svg") or "http://www.w3.org/2000/svg" not in drawing:
            raise ValueError(
                'draw returned text that is no SVG drawing: begin it with <svg xmlns="http://www.w3.org/2000/svg"'
            )
        return "image/svg+xml", drawing.encode()
    if not hasattr(drawing, "savefig"):
        kind = type(drawing).__name__
        raise TypeError(f"draw returned {kind}: return a Matplotlib figure or the text of an SVG drawing")
    import matplotlib.pyplot as plt

    rendered = io.BytesIO()
    drawing.savefig(rendered, format="png", dpi=drawing.dpi)
    plt.close(drawing)
    image = Image.open(rendered).convert("RGB")
    # this method keeps the colors of small marks, and the step of k-means those of large areas
    palette = image.quantize(128, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    lines, photo = io.BytesIO(), io.BytesIO()
    palette.convert("RGB").save(lines, format="WEBP", lossless=True, quality=60)
    image.save(photo, format="WEBP", quality=80)
    return "image/webp", min(lines.getvalue(), photo.getvalue(), key=len)


def _data_uri(mime: str, content: bytes) -> str:
    if mime == "image/svg+xml":
        return f"data:{mime},{quote(content, safe=' /=:<>')}"  # text packs far better than base64
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


class Explorer:
    """A movable figure, made by `figure`; a notebook shows it when it is the last value of a cell.

    Attributes:
        sliders: the values of each slider, by the name of the argument of `draw`.
        start: the value at which each slider begins.
    """

    def __init__(
        self,
        draw: Callable[..., Drawing],
        sliders: dict[str, tuple[Any, ...]],
        alt: Callable[..., str],
        start: dict[str, Any],
        live: dict[str, tuple[Any, ...]],
    ) -> None:
        self.sliders, self.start = sliders, start
        self._draw, self._alt, self._live = draw, alt, live

    def _describe(self, values: Mapping[str, Any]) -> str:
        text = " ".join(self._alt(**values).split())
        if len(text) < 20:
            raise ValueError(
                f"alt says {text!r} at {dict(values)}: describe in a sentence what the frame shows"
            )
        return text

    def combinations(self) -> list[dict[str, Any]]:
        """Return the values of all sliders in each frame, in the order of the frames (last slider fastest)."""
        return [
            dict(zip(self.sliders, values, strict=True))
            for values in itertools.product(*self.sliders.values())
        ]

    @functools.cached_property
    def html(self) -> str:
        """The figure as it stands on a page, with all frames inside: sliders, picture, script.

        Raises:
            ValueError: the figure is larger than 1.5 MB.
        """
        combinations = self.combinations()
        frames = [_data_uri(*_encode(self._draw(**values))) for values in combinations]
        alts = [self._describe(values) for values in combinations]
        places = {frame: place for place, frame in enumerate(dict.fromkeys(frames))}
        labels = [[_label(value) for value in values] for values in self.sliders.values()]
        content = {
            "frames": list(places),
            "order": [places[frame] for frame in frames],
            "alts": alts,
            "labels": labels,
        }
        packed = base64.b64encode(gzip.compress(json.dumps(content).encode(), mtime=0)).decode()
        first = combinations.index(self.start)
        inputs = "".join(
            f"<label>{escape(name.replace('_', ' '))}"
            f'<input type="range" min="0" max="{len(values) - 1}" value="{values.index(self.start[name])}">'
            f"<output>{escape(_label(self.start[name]))}</output></label>"
            for name, values in self.sliders.items()
        )
        page = (
            f'<div class="explore" data-frames="{packed}">'
            f'<img src="{frames[first]}" alt="{escape(alts[first])}">'
            f"<fieldset hidden><legend>Move the figure</legend>{inputs}</fieldset>"
            f'<span aria-live="polite"></span></div>\n{_PAGE.read_text(encoding="utf-8")}'
        )
        if len(page) > MAX_BYTES:
            size, limit = len(page) / 1e6, MAX_BYTES / 1e6
            raise ValueError(
                f"the figure has {len(combinations)} frames and {size:.1f} MB, more than {limit} MB: "
                "take fewer values, a smaller figure, or SVG"
            )
        return page

    def widget(self) -> Any:
        """Return the live figure, an ``ipywidgets.VBox`` whose sliders call `draw`; needs ipywidgets."""
        import ipywidgets

        sliders = {
            name: ipywidgets.SelectionSlider(
                options=[(_label(value), value) for value in self._live[name]],
                value=self.start[name],
                description=name.replace("_", " "),
                style={"description_width": "initial"},
                layout={"width": "min(100%, 28rem)"},
                continuous_update=False,
            )
            for name in self.sliders
        }
        picture, errors = ipywidgets.HTML(), ipywidgets.Output()

        @errors.capture(clear_output=True)
        def show(_change: object = None) -> None:
            values = {name: slider.value for name, slider in sliders.items()}
            source, alt = _data_uri(*_encode(self._draw(**values))), escape(self._describe(values))
            picture.value = f'<img src="{source}" alt="{alt}" style="max-width: min(100%, 45rem)">'

        for slider in sliders.values():
            slider.observe(show, names="value")
        show()
        return ipywidgets.VBox([*sliders.values(), picture, errors])

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        bundle: dict[str, object] = {"text/plain": str(self), "text/html": self.html}
        try:
            widget = self.widget()
        except ModuleNotFoundError as error:
            if error.name != "ipywidgets":
                raise
            return bundle  # the frames need nothing but a browser
        return widget._repr_mimebundle_() | bundle

    def __str__(self) -> str:
        names = ", ".join(name.replace("_", " ") for name in self.sliders)
        return f"A figure to move: {names}"


def figure(
    draw: Callable[..., Drawing],
    sliders: Mapping[str, Sequence[Any]],
    *,
    alt: Callable[..., str],
    start: Mapping[str, Any] | None = None,
    live: Mapping[str, Sequence[Any]] | None = None,
) -> Explorer:
    """Make a figure with sliders that works with a kernel and on a static page.

    Each combination of values becomes one frame, drawn when the figure is shown: a Matplotlib frame takes
    about 0.1 s and 10 to 20 kB (stored as WebP), an SVG drawing next to nothing.

    Args:
        draw: called with one keyword argument per slider; returns a Matplotlib figure, which is then closed, or
            the text of an SVG drawing.
        sliders: the values of each slider by name, numbers or strings. The name is the label, with spaces for
            underscores.
        alt: called like `draw`; returns a sentence that says what this frame shows, for those who cannot see it.
        start: where sliders begin; the others begin at their first value.
        live: finer values for sliders in a live kernel, those of `start` among them.

    Raises:
        ValueError: a slider has fewer than two values or a value twice, or `start` or `live` do not fit.
    """
    values = {name: tuple(options) for name, options in sliders.items()}
    if not values:
        raise ValueError("there is no slider: name at least one, with its values")
    for name, options in values.items():
        if len(set(options)) < max(2, len(options)):
            raise ValueError(f"slider {name!r} has the values {options}: give at least two, each once")
    finer = {name: tuple(options) for name, options in (live or {}).items()}
    begin = {name: options[0] for name, options in values.items()} | dict(start or {})
    for name in (*begin, *finer):
        if name not in values:
            raise ValueError(f"there is no slider {name!r}: the sliders are {', '.join(values)}")
        for options in (values[name], finer.get(name, values[name])):
            if begin[name] not in options:
                raise ValueError(f"slider {name!r} cannot start at {begin[name]!r}: choose one of {options}")
    return Explorer(draw, values, alt, begin, values | finer)
