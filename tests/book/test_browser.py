"""The built pages in a real browser: mathematics, figures, light and dark, search, and no foreign request.

Needs Chromium or Chrome, see `chromium`.
"""

import http.server
import io
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import pytest
from bigmodel_status import toc_files
from chromium import running_chromium
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect
from rooms import ROOT
from yaml import safe_load

from bigmodel_helpers.figures import explore

PAGES = toc_files(safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
CHAPTER = "notebooks/04_cifar_training"

# What is wider than its box: each with "cut" where it does not scroll, or does so without a sign or a keyboard.
WIDER = """() => [...document.querySelectorAll("article *:not(mjx-container *)")].filter(
    (e) => e.checkVisibility() && e.clientWidth > 40 && e.scrollWidth > e.clientWidth + 1
        && getComputedStyle(e).overflowX !== "visible"
).map((e) => {
    const style = getComputedStyle(e);
    const scrolls = style.overflowX !== "hidden" && e.tabIndex === 0 && style.maskImage !== "none";
    return [scrolls ? "scrolls" : "cut", e.localName, e.textContent.trim().slice(0, 30)];
})"""


# Code, formulas and signatures are the making of the theme, MathJax and Sphinx; to look at them takes long.
AXE = """(rules) => axe.run({
    include: ["article"], exclude: ["pre", "mjx-container, th:has(mjx-container)", "dt.sig"],
}, {
    runOnly: rules, resultTypes: ["violations"],
}).then((found) => found.violations.flatMap((rule) => rule.nodes.map((one) => [rule.id, one.html.slice(0, 120)])))"""


LOOK = """async (i) => {
    i.seen.add(i.src);
    await i.decode();
    return [i.seen.size, i.alt, i.naturalWidth];
}"""


# Formulas are set, fonts are there, and what follows from both is drawn.
READY = """async () => {
    await window.MathJax?.startup?.promise;
    await document.fonts.ready;
    for (const frame of [1, 2, 3]) await new Promise(requestAnimationFrame);
}"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(built_book: Path) -> Iterator[str]:
    """Serve the built pages on a free port of this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=built_book))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


class Visit:
    """One page in a window of its own that reaches only the served folder and writes down what goes wrong."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.address, self.problems = address, []
        context.route("**/*", self.guard)
        self.page: Page = context.new_page()
        self.page.on("console", self.console)
        self.page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        self.page.on("requestfailed", lambda request: self.problems.append(f"failed: {request.url}"))
        self.page.on("response", self.response)

    def guard(self, route: Route) -> None:
        if route.request.url.startswith((self.address + "/", "data:", "blob:")):
            route.continue_()
        else:
            self.problems.append(f"foreign request: {route.request.url}")
            route.abort()

    def console(self, message: object) -> None:
        if message.type == "error":
            self.problems.append(f"console {message.type}: {message.text}")

    def response(self, response: object) -> None:
        if response.status >= 400:
            self.problems.append(f"status {response.status}: {response.url}")

    def open(self, name: str) -> Page:
        """Open a page and wait until its scripts have done their work."""
        self.page.goto(f"{self.address}/{name}")
        self.page.evaluate(READY)
        return self.page


@pytest.fixture
def visit(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """Open a window, in the color scheme the test asks for; at the end nothing may have gone wrong."""
    scheme = (
        request.node.callspec.params.get("scheme", "light") if hasattr(request.node, "callspec") else "light"
    )
    context = browser.new_context(color_scheme=scheme)
    visit = Visit(context, address)
    yield visit
    problems = [*visit.problems]  # before closing breaks off what may still be loading
    context.close()
    assert problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_chapter_shows_mathematics_and_figures(visit: Visit, scheme: str) -> None:
    page = visit.open(f"{CHAPTER}.html")
    expect(page.locator("html")).to_have_attribute("data-theme", scheme)
    expect(page.locator("article mjx-container").first).to_be_visible(timeout=20_000)
    assert page.locator("mjx-merror").count() == 0
    assert page.evaluate("document.querySelector('article').innerText.includes('$$')") is False
    images = page.locator("article img").all()
    assert len(images) > 0
    for image in images:
        image.scroll_into_view_if_needed()
        assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") > 0
        assert image.bounding_box()["width"] > 20


@pytest.mark.parametrize("name", PAGES)
def test_no_page_complains_or_cuts_anything_and_every_slider_of_a_chapter_moves_its_figure(
    visit: Visit, name: str
) -> None:
    page = visit.open(f"{name}.html")
    page.wait_for_load_state("networkidle")  # also what a page asks for late is written down
    expect(page.locator("article h1")).to_be_visible()
    wider = page.evaluate(WIDER)
    assert [what for what in wider if what[0] == "cut"] == []
    assert [what for what in wider if what[1] == "mjx-container"] == []
    page.add_style_tag(content="* { transition: none !important }")
    page.add_script_tag(path=Path(__file__).parent / "axe" / "axe.min.js")
    assert page.evaluate(AXE, ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]) == []
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert page.evaluate(AXE, ["color-contrast"]) == []  # the other rules see no colors
    if name.startswith("notebooks/"):  # in the same window: to open a chapter takes long
        page.evaluate("document.documentElement.dataset.theme = 'light'")
        move_sliders(page)


def move_sliders(page: Page) -> None:
    """Move each slider of a chapter over its whole way, by keyboard, and look at its figure."""
    assert page.locator(".explore").count() > 0
    for figure in page.locator(".explore").all():
        image = figure.locator("img")
        expect(figure.locator("fieldset")).to_be_visible()
        for slider in figure.get_by_role("slider").all():
            assert slider.evaluate("input => input.labels[0].textContent.trim().length") > 0
            slider.focus()
            image.evaluate("i => (i.seen = new Set([i.src]))")  # the pictures stay there: they are long
            told = {image.get_attribute("alt")}
            for key in ("Home", *["ArrowRight"] * int(slider.get_attribute("max"))):
                page.keyboard.press(key)
                seen, alt, width = image.evaluate(LOOK)
                told.add(alt)
                assert width > 200
            assert seen > 1, slider.evaluate("input => input.labels[0].textContent")
            assert len(told) > 1
            assert slider.get_attribute("aria-valuetext") == slider.locator("+ output").text_content()


@pytest.fixture
def dot_page(built_book: Path) -> Iterator[str]:
    """Put a page with the same movable figure twice beside the book, as an exported notebook may hold it."""

    def dot(radius: int, color: str) -> str:
        circle = f'<circle cx="50" cy="50" r="{radius}" fill="{color}"/>'
        return f'<svg xmlns="http://www.w3.org/2000/svg" width="700" height="300">{circle}</svg>'

    figure = explore.figure(
        dot,
        {"radius": [10, 20, 40], "color": ["red", "blue"]},
        alt=lambda radius, color: f"A {color} dot with the radius {radius}.",
        start={"radius": 20},
    )
    page = built_book / "dots.html"
    head = '<!doctype html><link rel="icon" href="data:,"><title>Dots</title>'
    page.write_text(f"{head}<main>{figure.html}{figure.html}</main>", encoding="utf-8")
    yield page.name
    page.unlink()


def test_movable_figure_needs_no_book_and_moves_only_when_moved(
    browser: Browser, address: str, dot_page: str
) -> None:
    context = browser.new_context(reduced_motion="reduce", viewport={"width": 360, "height": 800})
    visit = Visit(context, address)
    page = visit.open(dot_page)
    first, second = page.locator(".explore").all()
    expect(first.get_by_role("img")).to_have_attribute("alt", "A red dot with the radius 20.")
    first.get_by_label("radius").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(first.get_by_role("img")).to_have_attribute("alt", "A blue dot with the radius 40.")
    expect(first.locator("[aria-live]")).to_have_text("A blue dot with the radius 40.")
    expect(second.get_by_role("img")).to_have_attribute("alt", "A red dot with the radius 20.")
    assert 'r="40" fill="blue"' in unquote(first.get_by_role("img").get_attribute("src"))
    assert page.evaluate("document.getAnimations().length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()
    assert visit.problems == []


def test_movable_figure_is_a_picture_where_scripts_are_off(
    browser: Browser, address: str, dot_page: str
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/{dot_page}")
    figure = page.locator(".explore").first
    expect(figure.get_by_role("img")).to_have_attribute("alt", "A red dot with the radius 20.")
    expect(figure.locator("fieldset")).to_be_hidden()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_quiz_answers_to_mouse_and_keyboard(visit: Visit, scheme: str) -> None:
    page = visit.open("notebooks/02_autograd.html")
    first, second = page.locator(".quiz").all()[:2]
    wrong, right = second.locator(".quiz-wrong").first, second.locator(".quiz-right")
    expect(wrong.get_by_text("Wrong.")).to_be_hidden()
    for choice, verdict in ((wrong, "Wrong."), (right, "Right.")):
        choice.locator("summary").click()
        expect(choice.get_by_text(verdict)).to_be_visible()
    expect(wrong.get_by_text("Wrong.")).to_be_hidden()
    edge = "details => getComputedStyle(details.querySelector('summary')).borderLeftColor"
    assert wrong.evaluate(edge) != right.evaluate(edge)
    first.locator("summary").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(first.locator("[open]")).to_have_count(1)
    expect(first.locator("details").nth(1).get_by_text("Wrong.")).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.hash") == "#the-chain-rule-read-backward"
    page.keyboard.press("Enter")
    expect(page.locator("section:target > h2")).to_be_in_viewport()


def test_every_choice_of_a_quiz_answers_where_scripts_are_off(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/notebooks/02_autograd.html", wait_until="domcontentloaded")
    for question in page.locator(".quiz").all():
        for choice in question.locator("summary").all():
            choice.click()
            expect(question.locator(".sd-summary-content:visible")).to_have_text(
                re.compile(r"(Right|Wrong)\.")
            )
    context.close()


def test_dark_mode_changes_the_colors(visit: Visit) -> None:
    page = visit.open("book/intro.html")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_function(f"{background} !== '{light}'")
    color = page.evaluate("getComputedStyle(document.querySelector('.drawing text')).fill")
    assert min(int(value) for value in re.findall(r"\d+", color)[:3]) > 150  # light text in the drawing


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_glossary_link_reads_like_the_text_and_leads_to_its_entry(visit: Visit, scheme: str) -> None:
    page = visit.open(f"{CHAPTER}.html")
    link = page.locator("article p > a.glossary-term").first
    colors = link.evaluate("a => [a, a.parentElement].map(tag => getComputedStyle(tag).color)")
    assert colors[0] == colors[1]
    assert link.evaluate("a => getComputedStyle(a).textDecorationStyle") == "dotted"
    term = link.text_content()
    link.focus()
    page.keyboard.press("Enter")
    entry = page.locator("dt:target")
    expect(entry).to_be_visible()
    assert term.casefold().startswith(entry.text_content().rstrip("#").casefold())


def test_search_finds_a_word_of_the_chapter(visit: Visit) -> None:
    page = visit.open("search.html?q=CIFAR")
    expect(page.locator(f"#search-results a[href*='{CHAPTER}']").first).to_be_visible(timeout=20_000)
    page.wait_for_load_state("networkidle")  # it fetches the pages that it found
    visit.open("search.html?q=qzxwvk")
    expect(page.locator("#search-results p.search-summary")).to_contain_text("did not match", timeout=20_000)
    assert page.locator("#search-results li").count() == 0


@pytest.mark.parametrize("name", PAGES)
def test_phone_does_not_scroll_sideways_and_shows_what_is_wider(
    browser: Browser, address: str, name: str
) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = Visit(context, address).open(f"{name}.html")
    page.locator(".quiz details").evaluate_all("all => all.forEach(one => (one.name = '', one.open = true))")
    page.evaluate("document.fonts.ready.then(() => new Promise((done) => setTimeout(done, 200)))")
    width = page.evaluate("document.documentElement.scrollWidth")
    wider = page.evaluate(WIDER)
    marked = page.locator("article .goes-on").evaluate_all(
        "all => all.filter((e) => e.checkVisibility() && e.clientWidth > 40).length"
    )
    tables = page.locator("article table.table td:visible").evaluate_all(
        "all => all.filter(cell => cell.getBoundingClientRect().right > innerWidth).length"
    )
    context.close()
    assert width <= 390
    assert [what for what in wider if what[0] == "cut"] == []
    assert marked == len(wider)
    assert tables == 0


def test_what_is_wider_scrolls_by_keyboard_and_fades_on_the_side_where_it_goes_on(
    browser: Browser, address: str
) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, reduced_motion="reduce")
    page = Visit(context, address).open("notebooks/07_distributed.html")
    for kind in ('mjx-container[display="true"]', "pre", "div.text_html:has(table)"):
        page.locator(f"article {kind}.goes-on-after:visible").first.evaluate("e => (e.dataset.wide = '')")
        wide = page.locator("[data-wide]")
        wide.focus()
        assert wide.evaluate("e => getComputedStyle(e).outlineStyle") != "none"
        page.keyboard.press("ArrowRight")
        expect(wide).to_have_class(re.compile("goes-on-before"))
        wide.evaluate("e => e.scrollTo(e.scrollWidth, 0)")
        expect(wide).not_to_have_class(re.compile("goes-on-after"))
        wide.evaluate("e => delete e.dataset.wide")
    context.close()


def test_a_table_is_a_stack_of_cards_on_a_phone(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = Visit(context, address).open(f"{CHAPTER}.html")
    cell = page.locator("article table.table td").nth(3)
    assert cell.evaluate("e => getComputedStyle(e, '::before').content") == '"what it does"'
    assert page.locator("article table.table thead").first.evaluate("e => e.clientHeight") <= 1
    page.set_viewport_size({"width": 1280, "height": 844})
    assert cell.evaluate("e => getComputedStyle(e, '::before').content") == "none"
    context.close()


def test_a_figure_opens_larger_by_keyboard_and_by_a_tap(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = Visit(context, address).open("notebooks/09_evaluation.html")
    figure, dialog = page.locator("article .cell_output img").last, page.locator("dialog#enlarged")
    width, alt = figure.bounding_box()["width"], figure.get_attribute("alt")
    figure.locator("..").focus()
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("img")).to_have_attribute("alt", alt)
    assert dialog.get_by_role("img").bounding_box()["width"] > 2 * width
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert figure.locator("..").evaluate("button => button === document.activeElement")
    figure.tap()
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Close").tap()
    expect(dialog).to_be_hidden()
    context.close()


def corner_and_ink(picture: Locator) -> tuple[int, int]:
    """Return the brightness of the upper left corner of a picture on the screen, and the level farthest from it."""
    shot = Image.open(io.BytesIO(picture.screenshot(animations="disabled"))).convert("L")
    corner = shot.getpixel((12, 12))
    return corner, max(shot.getextrema(), key=lambda level: abs(level - corner))


def test_drawings_turn_dark_with_the_page_and_photos_keep_their_colors(visit: Visit) -> None:
    page = visit.open(f"{CHAPTER}.html")
    drawing, photos = page.locator("article .cell_output .explore img"), page.locator(".tag_pixels img").first
    corner, ink = corner_and_ink(drawing)
    assert corner == 255
    assert ink < 60
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    level = int(re.findall(r"\d+", ground)[0])
    corner, ink = corner_and_ink(drawing)
    assert abs(corner - level) < 6
    assert ink > 200
    assert photos.evaluate("e => getComputedStyle(e).filter") == "brightness(0.95)"
    plate = "e => getComputedStyle(e.closest('.text_html')).backgroundColor"
    assert drawing.evaluate(plate) == "rgba(0, 0, 0, 0)"
    for picture, filters in ((drawing, "invert"), (photos, "brightness")):
        picture.click()
        expect(page.locator("#enlarged img")).to_have_css("filter", re.compile(filters))
        page.keyboard.press("Escape")


def test_fonts_come_from_the_site_itself(visit: Visit) -> None:
    loaded = []
    visit.page.on("response", lambda response: loaded.append(response.url))
    page = visit.open(f"{CHAPTER}.html")
    page.evaluate("document.fonts.ready.then(() => true)")
    fonts = sorted(
        url.rpartition("/")[2] for url in loaded if url.startswith(f"{visit.address}/_static/fonts")
    )
    assert {"inter.woff2", "jetbrains-mono.woff2"} <= set(fonts)
    assert len(fonts) == len(set(fonts)), "a font was fetched twice: preload and stylesheet differ"
    assert page.evaluate("document.fonts.check('16px Inter') && document.fonts.check('13px JetBrains Mono')")
    for kind, name in (("p", "Inter"), ("pre", "JetBrains Mono")):
        family = page.locator(f"article {kind}").first.evaluate("e => getComputedStyle(e).fontFamily")
        assert family.strip('"').startswith(name)
    shipped = list((ROOT / "book" / "static" / "fonts").glob("*.woff2"))
    assert sum(font.stat().st_size for font in shipped) < 120_000
    assert "SIL OPEN FONT LICENSE" in (shipped[0].parent / "OFL.txt").read_text(encoding="utf-8")


def test_a_term_shows_its_definition_to_mouse_keyboard_and_finger(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = Visit(context, address).open(f"{CHAPTER}.html")
    link, other = page.locator("article a.glossary-term").nth(1), page.locator("article h1")
    tip = page.get_by_role("tooltip")
    link.hover()
    expect(tip).to_be_visible()
    tip.hover()
    expect(tip).to_be_visible()
    other.hover()
    expect(tip).to_be_hidden()
    link.focus()
    expect(tip).to_have_text(re.compile("^[A-Z].{20,}[.)]$"))
    assert link.get_attribute("aria-describedby") == tip.get_attribute("id")
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    link.blur()
    link.tap()
    expect(tip).to_be_visible()
    assert page.url.endswith(f"{CHAPTER}.html")
    link.tap()
    page.wait_for_url("**/glossary.html#*")
    context.close()
