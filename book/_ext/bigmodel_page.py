"""What the book adds to each page on its own: script, stylesheet, columns of tables, roles."""

import re
from typing import Any

from bs4 import BeautifulSoup
from docutils import nodes
from sphinx.application import Sphinx

TABLE = re.compile(r'<table class="table">.*?</table>', re.DOTALL)
FORMULA = re.compile(r'\(?<span class="math [^"]*">[^<]*</span>[-.,;:?!)\u2019\w]+')


def card_table(table: str) -> str:
    """Write into each cell of an HTML table the name of its column, which a phone shows instead of the head."""
    soup = BeautifulSoup(table, "html.parser")
    names = [re.sub(r"\\[()]", "", cell.get_text(strip=True)) for cell in soup.select("thead th")]
    for name, cell in zip(names, soup.select("thead th"), strict=True):
        if not name:
            cell.name = "td"  # a head without words is none
    soup.table["class"] = ["table", "cards"]
    for row in soup.select("tbody tr"):
        for name, cell in zip(names, row.find_all("td"), strict=True):
            cell["data-label"] = name
    return str(soup)


def finish_page(
    _app: Sphinx, _page: str, _template: str, context: dict[str, Any], _doctree: nodes.document | None
) -> None:
    """Finish the HTML of a page."""
    if "body" in context:
        body = TABLE.sub(lambda match: card_table(match[0]), context["body"])
        body = body.replace("<th></th>", "<td></td>")  # the corner of a pandas table
        body = FORMULA.sub(r'<span class="unbroken">\g<0></span>', body)
        context["body"] = body.replace(' role="doc-biblioentry"', ' role="listitem"')


def preload_font(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _doctree: object) -> None:
    """Have the browser fetch the font of the text at once, not when it has read the stylesheet."""
    font = context["pathto"]("_static/fonts/inter.woff2", resource=True)
    link = f'<link rel="preload" href="{font}" as="font" type="font/woff2" crossorigin>'
    context["metatags"] = f"{context.get('metatags', '')}\n{link}"


def setup_page(app: Sphinx) -> None:
    """Register the files and what is done to each page."""
    app.add_css_file("page.css", priority=900)
    app.add_css_file("print.css", priority=950)
    app.add_js_file("page.js")
    app.connect("html-page-context", finish_page)
    app.connect("html-page-context", preload_font)
