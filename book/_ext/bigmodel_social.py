"""What other programs read of the site: descriptions and cards of its pages, `book.json`, a cover, a sitemap."""

import json
import re
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from bigmodel_site import site_url
from bigmodel_status import notebook_names
from docutils import nodes
from PIL import Image, ImageDraw, ImageFont
from sphinx.application import Sphinx

CARD = re.compile(
    r"\*\*You will be able to\*\* (.+?)\n\n\*\*Prerequisites:\*\* (.+?)\n\n((?:\|.*\n)+)", re.DOTALL
)
NO_TEXT = "A page of the executable book {}."
INK, PAPER, BLUE = "#102a43", "#f7f9fb", "#0072b2"


def one_line(markdown: str) -> str:
    """Return Markdown as plain text in one line."""
    return " ".join(re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", markdown).split())


def read_chapter(notebook: Path) -> dict[str, Any] | None:
    """Return what the card of a chapter says, or None where it has no card."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    card = next((found for text in texts if (found := CARD.search(text))), None)
    if card is None:
        return None
    rows = [[one_line(cell) for cell in line.strip("|").split("|")] for line in card[3].splitlines()[2:]]
    return {
        "number": int(notebook.name[:2]),
        "title": texts[0].removeprefix("# ").strip(),
        "page": f"notebooks/{notebook.stem}.html",
        "objectives": one_line(card[1]),
        "prerequisites": one_line(card[2]),
        "profiles": {
            name: {"run_time": time, "memory": memory, "what_it_does": what}
            for name, time, memory, what in rows
        },
    }


def first_sentences(text: str, most: int = 200) -> str:
    """Return the beginning of `text`: whole words, at most `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rsplit(" ", 1)[0].rstrip(" ,;:") + "…"


def description(page: str, doctree: nodes.document, root: Path, title: str) -> str:
    """Return what a page is about: the goals of a chapter, else its first paragraph."""
    chapter = read_chapter(root / f"{page}.ipynb") if page.startswith("notebooks/") else None
    if chapter:
        return first_sentences(f"You will be able to {chapter['objectives']}")
    paragraphs = (
        node.astext() for node in doctree.findall(nodes.paragraph) if isinstance(node.parent, nodes.section)
    )
    return first_sentences(next((text for text in paragraphs if len(text) > 20), NO_TEXT.format(title)))


def describe_page(
    app: Sphinx, page: str, _template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Write the description of a page into its head, and what a link to it shows elsewhere."""
    if doctree is None:
        return
    book = app.config.html_title or app.config.project
    text = description(page, doctree, Path(app.srcdir), book)
    tags = {
        "og:type": "article",
        "og:site_name": book,
        "og:title": re.sub(r"<[^>]+>", "", context["title"]),
        "og:description": text,
    }
    if site := site_url():
        tags |= {"og:url": f"{site}/{page}.html", "og:image": f"{site}/_static/cover.png"}
        tags |= {"og:image:alt": f"The cover of {book}", "twitter:card": "summary_large_image"}
    lines = [f'<meta name="description" content="{escape(text)}" />']
    lines += [f'<meta property="{name}" content="{escape(value)}" />' for name, value in tags.items()]
    context["metatags"] += "\n".join(["", *lines, ""])


def draw_cover(title: str) -> Image.Image:
    """Draw the cover: networks that grow from a single neuron to many, under the title."""
    cover = Image.new("RGB", (1200, 630), PAPER)
    draw = ImageDraw.Draw(cover)
    columns = [
        [(120 + 120 * i, 430 + 30 * (2 * k - n + 1) / 2) for k in range(n)]
        for i, n in enumerate((1, 2, 3, 5, 7, 9, 10, 11, 11))
    ]
    for left, right in pairwise(columns):
        for start in left:
            for end in right:
                draw.line([start, end], fill="#c5d5e4", width=1)
    for x, y in (point for column in columns for point in column):
        draw.ellipse([x - 9, y - 9, x + 9, y + 9], fill=BLUE)
    first, _, rest = title.partition(" with ")
    draw.text((80, 60), first, fill=INK, font=ImageFont.load_default(58))
    draw.text((80, 140), f"with {rest}" if rest else "", fill=BLUE, font=ImageFont.load_default(44))
    return cover


def write_site_files(app: Sphinx, error: Exception | None) -> None:
    """Write `book.json` and the cover, and the sitemap where the address of the site is known."""
    if error or app.builder.format != "html":
        return
    root, out = Path(app.srcdir), Path(app.outdir)
    chapters = filter(None, (read_chapter(root / f"{name}.ipynb") for name in notebook_names(root)))
    book = {"title": app.config.html_title or app.config.project, "chapters": list(chapters)}
    (out / "book.json").write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw_cover(book["title"]).save(out / "_static" / "cover.png", optimize=True)
    if site := site_url():
        places = "".join(
            f"<url><loc>{escape(f'{site}/{page}.html')}</loc></url>\n" for page in sorted(app.env.found_docs)
        )
        head = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        (out / "sitemap.xml").write_text(f"{head}{places}</urlset>\n", encoding="utf-8")


def setup_social(app: Sphinx) -> None:
    """Register what is written for other programs."""
    app.connect("html-page-context", describe_page)
    app.connect("build-finished", write_site_files)
