"""Sphinx extension of this book: repository links, chapter numbers, generated pages, drawings, link lists.

What the book needs beyond its configuration file `_config.yml`, and no more.
"""

import re
import zlib
from importlib import resources
from pathlib import Path
from typing import Any

from bigmodel_api import ROOMS, names_markdown, opening_markdown, package_files, rooms_markdown
from bigmodel_calculator import setup_calculator
from bigmodel_cards import card_paths, cards_markdown
from bigmodel_glossary import setup_glossary
from bigmodel_goals import goals_markdown
from bigmodel_links import setup_links
from bigmodel_page import setup_page
from bigmodel_quiz import SectionLink, quiz_markdown
from bigmodel_recorded import Generated, setup_recorded, svg_node
from bigmodel_records import chapter_number, curve, curve_alt, curve_svg, load_records, results_markdown
from bigmodel_site import add_repository_links, folder_markdown, launch_editions, show_install_code
from bigmodel_social import setup_social
from bigmodel_status import notebook_names, status_markdown
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx_external_toc.collectors import TocTreeCollectorWithStyles

HERE = Path(__file__).parent
FOREIGN_STYLESHEET = re.compile(r'<link[^>]+href="https?://maxcdn\.bootstrapcdn\.com/[^>]*>')


def write_inventories(app: Sphinx, config: Config) -> None:
    """Compress the lists of foreign names beside this file for intersphinx: links without a download."""
    for source in sorted(HERE.glob("*.txt")):
        comment, *names = source.read_text(encoding="utf-8").splitlines()
        header = f"# Sphinx inventory version 2\n# Project: {source.stem}\n# Version: \n"
        header += "# The remainder of this file is compressed using zlib.\n"
        target = Path(app.doctreedir, f"{source.stem}.inv")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(header.encode() + zlib.compress("\n".join(names).encode() + b"\n"))
        config.intersphinx_mapping[source.stem] = (comment.removeprefix("# "), str(target))


def number_chapters(env: BuildEnvironment) -> None:
    """Give each chapter the number in its file name, so that Fig. 4.2 keeps its name while the book grows."""
    for docname, numbers in env.toc_secnumbers.items():
        chapter = re.match(r"notebooks/(\d+)_", docname)
        if not chapter:
            continue
        for anchor, number in numbers.items():
            numbers[anchor] = number and (int(chapter[1]), *number[1:])
        env.titles[docname]["secnumber"] = list(numbers[""])
        for reference in env.tocs[docname].findall(nodes.reference):
            number = numbers[reference["anchorname"]]
            reference["secnumber"] = number and list(number)


def assign_section_numbers(collector: TocTreeCollectorWithStyles, env: BuildEnvironment) -> list[str]:
    """Number sections as usual, then by file name; return the pages whose numbers changed."""
    before = env.toc_secnumbers
    usual_assign_section_numbers(collector, env)
    number_chapters(env)
    return [name for name, numbers in env.toc_secnumbers.items() if numbers != before.get(name)]


usual_assign_section_numbers = TocTreeCollectorWithStyles.assign_section_numbers


def drop_foreign_stylesheets(_app: Sphinx, doctree: nodes.document, _docname: str) -> None:
    """Remove the link to a public icon font that matplotlib's animations bring; the theme has the icons."""
    for raw in doctree.findall(nodes.raw):
        if "maxcdn" in raw.astext():
            cleaned = FOREIGN_STYLESHEET.sub("", raw.astext())
            raw.replace_self(nodes.raw("", cleaned, **{key: raw[key] for key in ("format", "classes")}))


def keep_colons(_app: Sphinx, kind: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Put back the words before a colon in a property's first line, which napoleon takes for its type."""
    for line in [line for line in lines if kind == "property" and line.startswith(":type: ")]:
        lines.remove(line)
        lines[0] = f"{line.removeprefix(':type: ')}: {lines[0]}"


def name_factories(
    _app: Sphinx,
    _kind: str,
    _name: str,
    _object: Any,
    _options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Write ``...`` for a dataclass default made by a factory: Sphinx cannot read Python's ``<factory>``."""
    return signature and signature.replace("<factory>", "..."), returns


class InlineSvg(SphinxDirective):
    """``{inline-svg} file`` puts a drawing into the page itself, where it follows light and dark mode."""

    required_arguments = 1
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        name, path = self.env.relfn2path(self.arguments[0])
        if not Path(path).is_file():
            raise self.error(f"{name} does not exist: correct the name")
        if not self.options.get("alt", "").strip():
            raise self.error(f"{name} has no alternative text: say what it shows in a line `:alt: ...`")
        self.env.note_dependency(path)
        return [svg_node(Path(path).read_text(encoding="utf-8"), self.options["alt"])]


class Curves(SphinxDirective):
    """``{bigmodel-curves} N``: test accuracy over time of the recorded runs of chapter N."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        runs = load_records(Path(self.env.srcdir, "book", "records"))
        runs = [run for run in runs if str(chapter_number(run)) == self.arguments[0] and curve(run)]
        if not runs:
            raise self.error(f"no run of chapter {self.arguments[0]} is recorded: name another chapter")
        return [svg_node(curve_svg(runs), curve_alt(runs))]


class Status(Generated):
    """``{bigmodel-status}``: what each notebook was last run with."""

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        notebooks = [root / f"{name}.ipynb" for name in notebook_names(root)]
        return self.parse(status_markdown(root), [root / "_toc.yml", *notebooks])


class Results(Generated):
    """``{bigmodel-results}``: the recorded runs in `book/records`."""

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        folder = root / "book" / "records"
        markdown = results_markdown(load_records(folder), notebook_names(root))
        return self.parse(markdown, [folder, *folder.glob("*.json")])


class Goals(Generated):
    """``{bigmodel-goals}``: what `make bench` last measured against the floors and goals of the book."""

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir, "book", "goals.json")
        return self.parse(goals_markdown(path), [path])


class Quiz(Generated):
    """``{bigmodel-quiz}``: the questions that close a chapter, from `quizzes` beside its notebook."""

    def run(self) -> list[nodes.Node]:
        chapter = Path(self.env.doc2path(self.env.docname))
        path = chapter.parent / "quizzes" / f"{chapter.stem}.yml"
        return self.parse(quiz_markdown(path), [path])


class Folder(Generated):
    """``{bigmodel-folder}``: how a reader gets the folder of the book."""

    def run(self) -> list[nodes.Node]:
        return self.parse(folder_markdown(), [])


class Cards(Generated):
    """``{bigmodel-cards}``: the networks that come with the package."""

    def run(self) -> list[nodes.Node]:
        folder = Path(str(resources.files("bigmodel_helpers") / "weights"))
        return self.parse(cards_markdown(folder), card_paths(folder))


class Rooms(Generated):
    """``{bigmodel-rooms}``: the rooms of the package."""

    def run(self) -> list[nodes.Node]:
        return self.parse(rooms_markdown(), package_files())


class Room(Generated):
    """``{bigmodel-room} data``: what is in a room of the package."""

    required_arguments = 1
    markdown = staticmethod(opening_markdown)

    def run(self) -> list[nodes.Node]:
        if self.arguments[0] not in ROOMS:
            raise self.error(f"{self.arguments[0]!r} is no room: use {', '.join(ROOMS)}")
        return self.parse(self.markdown(self.arguments[0]), package_files())


class Names(Room):
    """``{bigmodel-names} data``: all that a room of the package offers, in sections."""

    markdown = staticmethod(names_markdown)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    TocTreeCollectorWithStyles.assign_section_numbers = assign_section_numbers
    app.add_config_value(
        "bigmodel_places", [], "env", [list]
    )  # all pages are read again where one has changed
    app.connect("config-inited", add_repository_links)
    app.connect("source-read", show_install_code)
    app.connect("html-page-context", launch_editions, priority=900)  # after the theme
    app.connect("config-inited", write_inventories, priority=400)
    app.connect("autodoc-process-docstring", keep_colons, priority=600)  # after napoleon
    app.connect("autodoc-process-signature", name_factories)
    app.connect("doctree-resolved", drop_foreign_stylesheets)
    setup_calculator(app)
    setup_glossary(app)
    setup_links(app)
    setup_page(app)
    setup_recorded(app)
    setup_social(app)
    app.add_directive("inline-svg", InlineSvg)
    app.add_directive("bigmodel-status", Status)
    app.add_directive("bigmodel-results", Results)
    app.add_directive("bigmodel-curves", Curves)
    app.add_directive("bigmodel-folder", Folder)
    app.add_directive("bigmodel-goals", Goals)
    app.add_directive("bigmodel-cards", Cards)
    app.add_directive("bigmodel-quiz", Quiz)
    app.add_directive("bigmodel-rooms", Rooms)
    app.add_directive("bigmodel-room", Room)
    app.add_directive("bigmodel-names", Names)
    app.add_role("section-link", SectionLink())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
