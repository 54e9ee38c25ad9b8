"""The page for chats, in Chromium."""

import re

import pytest
import serving
from chromium import running_chromium
from playwright.sync_api import expect
from serving import saying, until

start = serving.start
STREAMS = re.compile("Model: .{13}")


@pytest.fixture(scope="module")
def browser():
    expect.set_options(timeout=20_000)
    with running_chromium() as browser:
        yield browser
    expect.set_options(timeout=5_000)


@pytest.fixture
def page(browser):
    page, problems = browser.new_page(viewport={"width": 390, "height": 700}), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url))
    page.set_default_timeout(20_000)
    yield page
    page.close()
    assert [one for one in problems if not one.startswith(("http://127.0.0.1:", "data:"))] == []


def ask(page, text):
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def test_streams_and_escapes_on_a_narrow_screen(start, page):
    grin = "\U0001f600".encode()
    server, _ = start(
        saying(b"<img src=x onerror=alert(1)> ", b"**so** ", grin[:2], grin[2:], b" " + b"long" * 60)
    )
    page.goto(server.url)
    expect(page.get_by_label("Model")).to_have_value("m")
    ask(page, "<b>hi</b>")
    said = "Model: <img src=x onerror=alert(1)> **so** \U0001f600 " + "long" * 60
    expect(page.locator(".assistant")).to_have_text(said)
    expect(page.locator(".user")).to_have_text("You: <b>hi</b>")
    assert page.locator("#log img, #log b").count() == 0
    for box in ("html", "#log", "header", "form"):  # nothing hangs out
        wide, place = page.locator(box).evaluate("box => [box.scrollWidth, box.clientWidth]")
        assert wide <= place <= 390, box
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    expect(page.get_by_label("Message", exact=True)).to_be_focused()


@pytest.mark.parametrize("how", ["button", "escape", "new", "leave"])
def test_stop_frees_the_place(start, page, how):
    server, engine = start(rate=30)
    page.goto(server.url)
    ask(page, "tell me")
    expect(page.locator(".assistant")).to_have_text(STREAMS)
    assert len(engine.tickets) == 1
    if how == "button":
        page.get_by_role("button", name="Stop").click()
    elif how == "escape":
        page.keyboard.press("Escape")
    elif how == "new":
        page.get_by_role("button", name="New chat").click()
        expect(page.locator(".message")).to_have_count(0)
    else:
        page.goto("about:blank")
    assert until(lambda: not engine.tickets)
    if how in ("button", "escape"):
        expect(page.locator(".assistant")).to_contain_text("(stopped)")
    if how != "leave":
        expect(page.get_by_role("button", name="Stop")).to_be_disabled()


def test_remembers_the_chat(start, page):
    server, _ = start(lambda prompt, parameters: [str(len(prompt)).encode()])
    page.goto(server.url)
    for number, answer in ((1, "Model: 1"), (2, "Model: 3")):
        ask(page, "go on")
        expect(page.locator(".assistant")).to_have_count(number)
        expect(page.locator(".assistant").last).to_have_text(answer)


def test_the_model_that_is_chosen_answers(page):
    engines = {name: serving.FakeEngine(saying(name.encode())) for name in ("base", "pirate")}
    with serving.serve(engines) as server:
        page.goto(server.url)
        page.get_by_label("Model").select_option("pirate")
        ask(page, "who is there?")
        expect(page.locator(".assistant")).to_have_text("Model: pirate")


def test_the_temperature_is_sent(start, page):
    server, _ = start(lambda prompt, parameters: [str(parameters.temperature).encode()])
    page.goto(server.url)
    page.get_by_label("Temperature").fill("0.3")
    ask(page, "how warm?")
    expect(page.locator(".assistant")).to_have_text("Model: 0.3")


def test_who_is_quicker_than_the_list_of_models_waits_for_it(start, page):
    server, _ = start(saying(b"yes"))
    held = []
    page.route("**/v1/models", lambda route: held.append(route))
    page.goto(server.url)
    ask(page, "hello")
    expect(page.locator(".user")).to_have_text("You: hello")
    assert page.get_by_label("Model").input_value() == ""
    held[0].continue_()
    expect(page.locator(".assistant")).to_have_text("Model: yes")
    expect(page.locator("#problem")).to_have_text("")


def test_errors_are_shown(start, page):
    server, _ = start(places=0)
    page.goto(server.url)
    ask(page, "hello")
    expect(page.get_by_role("alert")).to_have_text("all places are taken: try again in 1 s")
    expect(page.get_by_label("Message", exact=True)).to_have_value("hello")
    expect(page.locator(".message")).to_have_count(0)
    server.stop()
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")


def test_stop_of_the_server_is_shown(start, page):
    server, _ = start(rate=30)
    page.goto(server.url)
    ask(page, "hello")
    expect(page.locator(".assistant")).to_have_text(STREAMS)
    server.stop()
    expect(page.get_by_role("alert")).to_have_text("the server stops: ask another one")


def test_key_is_asked_for(start, page):
    server, _ = start(saying(b"yes"), key="sesame")
    page.goto(server.url)
    expect(page.get_by_role("alert")).to_contain_text("the key is missing or wrong")
    page.get_by_label("Key").fill("sesame")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Model")).to_have_value("m")
    ask(page, "hello")
    expect(page.locator(".assistant")).to_have_text("Model: yes")


def test_keyboard_alone_and_dark(start, page):
    server, _ = start(saying(b"yes"))
    page.emulate_media(color_scheme="dark")
    page.goto(server.url)
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("a")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("b")
    expect(page.get_by_label("Message", exact=True)).to_have_value("a\nb")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator(".assistant")).to_have_text("Model: yes")
    dark = page.evaluate("getComputedStyle(document.querySelector('.user')).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.querySelector('.user')).backgroundColor") != dark
