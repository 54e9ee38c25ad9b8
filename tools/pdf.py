"""Print the built pages into one PDF, in the order of `_toc.yml`, with bookmarks: `python -m tools.pdf`."""

import argparse
import io
import shutil
import sys
from pathlib import Path

import bigmodel_site
import yaml
from bigmodel_status import toc_files
from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, Fit, NameObject, NumberObject

from tools.chromium import FLAGS, find_chromium
from tools.notebooks import notebook

HTML = notebook.BUILD / "html"
PAPER = {"width": 657, "height": 971}  # what print.css leaves of A4, in CSS pixels
TOP = 842  # of A4, in points from below
PREPARE = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
NUMBERS = """\
@page {{ @bottom-center {{ content: counter(page); font: 10pt sans-serif }} }}
@page :first {{ counter-set: page {first} }}"""


def link_inside(writer: PdfWriter, places: dict[str, tuple[int, float]], addresses: list[str]) -> None:
    """Let links to places of the book lead to their sheets; those to other files beside it go."""
    for sheet, address in zip(writer.pages, addresses, strict=True):
        kept = ArrayObject()
        for reference in sheet.get("/Annots", ()):
            link = reference.get_object()
            name, target = link.get("/Dest"), link.get("/A", {}).get("/URI", "")
            target = f"{address}#{name.removeprefix('/')}" if name else target
            if place := places.get(target, places.get(target.partition("#")[0])):
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
        page.emulate_media(media="print")
        for file in files:
            before, address = len(writer.pages), file.as_uri()
            page.goto(address)
            headings = page.evaluate(PREPARE)
            page.add_style_tag(content=NUMBERS.format(first=before + 1))
            reader = PdfReader(io.BytesIO(page.pdf(prefer_css_page_size=True, print_background=True)))
            for sheet in reader.pages:
                writer.add_page(sheet)
            places[address] = (before, TOP)
            for name, place in reader.named_destinations.items():
                number = before + reader.get_destination_page_number(place)
                places[f"{address}#{name.removeprefix('/')}"] = (number, place.top)
            addresses += [address] * len(reader.pages)
            above = {1: None}
            for level, title, name in headings:
                number, top = places.get(f"{address}#{name}", places[address])
                parent = above.get(level)
                above[level + 1] = writer.add_outline_item(
                    title=title, page_number=number, parent=parent, fit=Fit.xyz(top=top), is_open=False
                )
        browser.close()
    link_inside(writer, places, addresses)
    writer.add_metadata({"/Title": "From Zero to Large Models with PyTorch 2"})
    writer.write(target)
    return len(writer.pages)


def main(arguments: list[str] | None = None) -> None:
    """Print the book and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m tools.pdf", description=__doc__)
    parser.add_argument("--to", type=Path, default=HTML / bigmodel_site.PDF, metavar="FILE")
    target = parser.parse_args(arguments).to
    toc = yaml.safe_load((notebook.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [HTML / f"{name}.html" for name in toc_files(toc)]
    if missing := [file for file in files if not file.is_file()]:
        raise SystemExit(f"{missing[0]}: no built page: run make book first")
    if (chromium := find_chromium()) is None or not shutil.which(chromium):
        found = f"{chromium}: no program" if chromium else "no Chromium found"
        raise SystemExit(f"{found}: install chromium or name one in BIGMODEL_CHROMIUM")
    try:
        target.open("ab").close()
        print(f"==> {write_pdf(files, target, chromium)} pages are in {target}")
    except OSError as error:
        raise SystemExit(f"{target}: {error.strerror}: name another file with --to") from error


if __name__ == "__main__":
    sys.exit(main())
