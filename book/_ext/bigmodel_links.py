"""Links of the package reference: from names to chapters and back, and from names in docstrings to entries."""

import re
from itertools import groupby
from typing import Any

from bigmodel_api import PACKAGE, Name, all_names, package_files, without_chapter
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

REFERENCE = "book/api"
SHORT = {"nn.": "torch.nn.", "F.": "torch.nn.functional.", "dist.": "torch.distributed."}
logger = logging.getLogger(__name__)


class QuietName(PyXRefRole):
    """The role of words between single backticks in a docstring: a link if they name something, else code."""

    def process_link(
        self, env: BuildEnvironment, refnode: nodes.Element, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        title, target = super().process_link(env, refnode, has_explicit_title, title, target)
        refnode.attributes |= {"refdomain": "py", "reftype": "obj", "quiet": True}
        for short, long in SHORT.items():
            target = long + target.removeprefix(short) if target.startswith(short) else target
        return title, target


def resolve_quietly(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.Node | None:
    """Look a name up as readers type it (``training.fit``), and leave it as code where there is none."""
    if not node.get("quiet"):
        return None
    python = env.get_domain("py")
    paths = [path for path in python.objects if path.endswith(f".{node['reftarget']}")]
    typed = [
        path for path in paths if re.fullmatch(rf"{PACKAGE}(\.\w+)?\.{re.escape(node['reftarget'])}", path)
    ]
    if "." not in node["reftarget"] or not typed:
        return nodes.literal("", content.astext())
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", typed[0], node, content)


def use_documented_path(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, _: nodes.Element
) -> None:
    """Turn the place where a class is defined into the one that the pages of its library name.

    torch has ``torch._C.Generator``, Python 3.13 ``pathlib._local.Path``.
    """
    target = node.get("reftarget", "")
    library = "torch" if target.startswith("torch.") else "python"
    inventory = env.intersphinx_named_inventory.get(library, {})
    known = [name for kind in inventory.values() for name in kind]
    last, public = target.rpartition(".")[2], re.sub(r"\._\w+(?=\.)", "", target)
    if library == "torch":
        node["reftarget"] = next((name for name in known if name.rpartition(".")[2] == last), target)
    elif public in known:
        node["reftarget"] = public


def chapter_page(env: BuildEnvironment, chapter: int) -> str | None:
    """Return the page of a chapter."""
    return next(
        (page for page in sorted(env.found_docs) if page.startswith(f"notebooks/{chapter:02}_")), None
    )


def link_chapter(app: Sphinx, kind: str, path: str, thing: Any, _options: Any, lines: list[str]) -> None:
    """Write the chapter that introduced a name as a link below its docstring."""
    if kind not in ("function", "class", "exception"):
        return
    name = next((name for name in all_names() if f"{PACKAGE}.{name.path}" == path), None)
    if name is None:
        return
    lines[:] = without_chapter("\n".join(lines)).splitlines()
    page = chapter_page(app.env, name.chapter or 0)
    if page is None:
        logger.warning(
            "%s: no chapter %s: write 'Introduced in chapter N.'", path, name.chapter, type="bigmodel"
        )
        return
    link = f":doc:`chapter {name.chapter} </{page}>`"
    lines += ["", ".. container:: introduced", "", f"   Introduced in {link}.", ""]


def name_link(name: Name, page: str) -> addnodes.pending_xref:
    """Return a link to the entry of a name."""
    code = nodes.literal("", name.typed, classes=["xref", "py", "py-obj"])
    target = f"{PACKAGE}.{name.path}"
    return addnodes.pending_xref(
        "", code, refdomain="py", reftype="obj", reftarget=target, refdoc=page, refexplicit=True, refwarn=True
    )


def list_introduced(app: Sphinx, doctree: nodes.document) -> None:
    """End a chapter with the names that it adds to the package, as their docstrings say."""
    page = app.env.docname
    chapter = re.match(r"notebooks/(\d+)_", page)
    if not chapter or REFERENCE not in app.env.found_docs:
        return
    for file in package_files():
        app.env.note_dependency(str(file))
    names = [name for name in all_names() if name.chapter == int(chapter[1]) and not name.is_constant]
    if not names:
        return
    lines = nodes.line_block()
    for _, group in groupby(names, lambda name: name.typed.partition(".")[0]):
        links = [node for name in group for node in (name_link(name, page), nodes.Text(", "))]
        lines += nodes.line("", "", *links[:-1])
    title = nodes.title("", "Introduced in this chapter, from now on in the package")
    last = next(doctree.findall(nodes.section), doctree)  # a chapter without a title has no section
    last.append(nodes.admonition("", title, lines, classes=["introduced"]))


def shorten_paths(app: Sphinx, doctree: nodes.document) -> None:
    """Show names in the reference as readers type them: ``data.flip``, not ``bigmodel_helpers.data.flip``."""
    if app.env.docname.startswith(f"{REFERENCE}/"):
        for node in doctree.findall(addnodes.desc_addname):
            node[:] = [nodes.Text(".".join(node.astext().split(".")[-2:]))]


def setup_links(app: Sphinx) -> None:
    """Register the links."""
    app.add_role("name", QuietName())
    app.connect("missing-reference", use_documented_path, priority=400)  # before intersphinx
    app.connect("missing-reference", resolve_quietly, priority=900)  # after intersphinx
    app.connect("autodoc-process-docstring", link_chapter, priority=400)  # before napoleon
    app.connect("doctree-read", list_introduced)
    app.connect("doctree-read", shorten_paths)
