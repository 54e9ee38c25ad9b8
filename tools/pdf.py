"""Print the built pages into one PDF, in the order of `_toc.yml`, with bookmarks: `python -m tools.pdf`."""

import argparse
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from bigmodel_status import toc_files
from playwright.sync_api import Page, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, Fit, NameObject, NumberObject

from tools.notebooks import notebook

HTML, PDF = notebook.BUILD / "html", notebook.BUILD / "book.pdf"
TITLE = "From Zero to Large Models with PyTorch 2"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PAPER = {"width": 657, "height": 971}  # what print.css leaves of A4, in CSS pixels
# Waits for formulas and images, shrinks what is wider than the paper, and makes every place one that links reach.
PREPARE = """async () => {
    await window.MathJax?.startup?.promise;
    await document.fonts.ready;
    const images = [...document.images];
    images.forEach((image) => { image.loading = "eager"; });
    await Promise.all(images.map((image) => image.decode().catch(() => {})));
    for (const wide of document.querySelectorAll('mjx-container[display="true"], article table')) {
        const room = wide.parentElement.clientWidth, needed = Math.max(wide.scrollWidth, wide.offsetWidth);
        if (needed > room) wide.style.zoom = room / needed;
    }
    const key = [...document.querySelectorAll(".quiz")].map((question, i) => {
        return `${i + 1} ${question.querySelector(".quiz-right summary").textContent.trim()[0]}`;
    });
    if (key.length) [...document.querySelectorAll(".quiz")].at(-1).after(`The right answers: ${key.join(", ")}.`);
    for (const place of document.querySelectorAll("article [id]")) {
        const link = Object.assign(document.createElement("a"), { href: "#" + place.id, hidden: true });
        document.body.append(link);
    }
}"""


def find_chromium() -> str | None:
    """Return the browser that prints: the one in BIGMODEL_CHROMIUM, or one on the path."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
    return os.environ.get("BIGMODEL_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def printed(page: Page, file: Path, first: int) -> PdfReader:
    """Return a page of the book on paper, its first sheet with the number `first`."""
    page.goto(file.as_uri(), wait_until="load")
    page.evaluate(PREPARE)
    number = "@page { @bottom-center { content: counter(page); font: 10pt sans-serif } }"
    page.add_style_tag(content=f"{number} @page :first {{ counter-set: page {first} }}")
    return PdfReader(io.BytesIO(page.pdf(outline=True, prefer_css_page_size=True, print_background=True)))


def add_bookmarks(
    writer: PdfWriter, reader: PdfReader, entries: list[Any], before: int, parent: Any = None
) -> None:
    """Copy the headings of one reader, a list with the lower ones in lists behind each, below `parent`."""
    last = parent
    for entry in entries:
        if isinstance(entry, list):
            add_bookmarks(writer, reader, entry, before, last)
        else:
            number = before + reader.get_destination_page_number(entry)
            last = writer.add_outline_item(entry.title, number, parent, fit=Fit.xyz(top=entry.top))


def link_inside(writer: PdfWriter, places: dict[str, tuple[int, float]], addresses: list[str]) -> None:
    """Let links to pages of the book lead to their sheets; those to other files of the folder go."""
    for sheet, address in zip(writer.pages, addresses, strict=True):
        kept = ArrayObject()
        for reference in sheet.get("/Annots", ()):
            link = reference.get_object()
            name = link.get("/Dest") or link.get("/A", {}).get("/D")
            target = (
                f"{address}#{str(name).removeprefix('/')}" if name else link.get("/A", {}).get("/URI", "")
            )
            place = places.get(target) or places.get(target.partition("#")[0])
            if place:
                top = [NumberObject(0), NumberObject(round(place[1])), NumberObject(0)]
                where = [writer.pages[place[0]].indirect_reference, NameObject("/XYZ"), *top]
                link[NameObject("/Dest")] = ArrayObject(where)
                link.pop("/A", None)
            if place or not target.startswith("file:"):
                kept.append(reference)
        sheet[NameObject("/Annots")] = kept


def write_pdf(files: list[Path], target: Path, chromium: str) -> int:
    """Print the HTML files into the PDF `target`, and return its number of sheets."""
    writer, places, addresses = PdfWriter(), {}, []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_context(offline=True, color_scheme="light", viewport=PAPER).new_page()
        page.emulate_media(media="print", color_scheme="light")
        for file in files:
            before, address = len(writer.pages), file.as_uri()
            reader = printed(page, file, before + 1)
            for sheet in reader.pages:
                writer.add_page(sheet)
            places[address] = (before, 842)
            for name, place in reader.named_destinations.items():
                number = before + reader.get_destination_page_number(place)
                places[f"{address}#{name.removeprefix('/')}"] = (number, place.top)
            addresses += [address] * len(reader.pages)
            add_bookmarks(writer, reader, reader.outline, before)
        browser.close()
    link_inside(writer, places, addresses)
    writer.add_metadata({"/Title": TITLE})
    writer.write(target)
    return len(writer.pages)


def main(arguments: list[str] | None = None) -> None:
    """Print the book and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m tools.pdf", description=__doc__)
    parser.add_argument("--to", type=Path, default=PDF, metavar="FILE")
    target = parser.parse_args(arguments).to
    toc = yaml.safe_load((notebook.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [HTML / f"{name}.html" for name in toc_files(toc)]
    if missing := [file for file in files if not file.is_file()]:
        raise SystemExit(f"{missing[0]}: no built page: run make book first")
    chromium = find_chromium()
    if chromium is None:
        raise SystemExit("no Chromium found: install chromium or name one in BIGMODEL_CHROMIUM")
    print(f"==> {write_pdf(files, target, chromium)} pages are in {target}")


if __name__ == "__main__":
    sys.exit(main())
