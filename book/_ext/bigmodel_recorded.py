"""Directives and roles that put parts of a record in `book` into a page, and what all generated parts share."""

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from bigmodel_gpu import images_markdown, load_gpu, steps_markdown
from bigmodel_llama_cpp import equal_markdown, load_llama_cpp, speed_markdown
from bigmodel_model import (
    board_markdown,
    load_model,
    model_numbers,
    run_markdown,
    samples_markdown,
    tasks_markdown,
)
from bigmodel_scaling import (
    laws_markdown,
    load_scaling,
    predictions_markdown,
    runs_markdown,
    scaling_alt,
    scaling_numbers,
    scaling_svg,
)
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole


def svg_node(svg: str, alt: str) -> nodes.raw:
    """Return a node that puts `svg` into the page; `alt` describes it to those who cannot see it."""
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
    return nodes.raw("", f'<div class="drawing">{svg}</div>', format="html")


class Generated(SphinxDirective):
    """A directive whose content is Markdown made at build time."""

    def parse(self, markdown: str, dependencies: list[Path]) -> list[nodes.Node]:
        for path in dependencies:
            self.env.note_dependency(str(path))
        parent = nodes.section()
        parent.document = self.state.document
        lines = StringList(markdown.splitlines(), self.name)
        self.state.nested_parse(lines, 0, parent, match_titles=True)
        return parent.children


class Scaling(Generated):
    """``{bigmodel-scaling} figure|laws|predictions|runs``: parts of the scaling experiment in `book/scaling.json`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir, "book", "scaling.json")
        record, part = load_scaling(path), self.arguments[0]
        if part == "figure":
            self.env.note_dependency(str(path))
            return [svg_node(scaling_svg(record), scaling_alt(record))]
        parts = {"laws": laws_markdown, "predictions": predictions_markdown, "runs": runs_markdown}
        if part not in parts:
            raise self.error(f"{part!r} is no part of it: use {', '.join(['figure', *parts])}")
        return self.parse(parts[part](record), [path])


class RecordedNumber(SphinxRole):
    """``{scaling}`share` ``, ``{model}`minutes` ``: a number of a record in `book`, by its name."""

    def __init__(self, file: str, numbers: Callable[[Path], dict[str, str]]) -> None:
        super().__init__()
        self.file, self.numbers = file, numbers

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        path = Path(self.env.srcdir, "book", self.file)
        self.env.note_dependency(str(path))
        numbers = self.numbers(path)
        if self.text not in numbers:
            known = ", ".join(numbers)
            message = f"book/{self.file} gives no number {self.text!r}: use {known}"
            raise ExtensionError(f"{self.env.docname}: {message}")
        return [nodes.Text(numbers[self.text])], []


class Recorded(Generated):
    """A directive whose argument names a part of the record `file` in `book`."""

    required_arguments = 1
    file: str
    load: Callable[[Path], dict[str, Any]]
    parts: ClassVar[dict[str, Callable[[dict[str, Any]], str]]]

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir, "book", self.file)
        if self.arguments[0] not in self.parts:
            raise self.error(f"{self.arguments[0]!r} is no part of it: use {', '.join(self.parts)}")
        return self.parse(self.parts[self.arguments[0]](self.load(path)), [path])


class Model(Recorded):
    """``{bigmodel-model} board|tasks|samples|run``: parts of the run recorded in `book/model.json`."""

    file, load = "model.json", staticmethod(load_model)
    parts: ClassVar = {
        "board": board_markdown,
        "tasks": tasks_markdown,
        "samples": samples_markdown,
        "run": run_markdown,
    }


class LlamaCpp(Recorded):
    """``{bigmodel-llama-cpp} equal|speed``: PyTorch and llama.cpp on the same files, from `book/llama_cpp.json`."""

    file, load = "llama_cpp.json", staticmethod(load_llama_cpp)
    parts: ClassVar = {"equal": equal_markdown, "speed": speed_markdown}


class Gpu(Recorded):
    """``{bigmodel-gpu} steps|images``: what was measured on one graphics card, from `book/gpu.json`."""

    file, load = "gpu.json", staticmethod(load_gpu)
    parts: ClassVar = {"steps": steps_markdown, "images": images_markdown}


def setup_recorded(app: Sphinx) -> None:
    """Register the directives and roles."""
    app.add_directive("bigmodel-scaling", Scaling)
    app.add_directive("bigmodel-llama-cpp", LlamaCpp)
    app.add_directive("bigmodel-model", Model)
    app.add_directive("bigmodel-gpu", Gpu)
    app.add_role("scaling", RecordedNumber("scaling.json", lambda path: scaling_numbers(load_scaling(path))))
    app.add_role("model", RecordedNumber("model.json", lambda path: model_numbers(load_model(path))))
