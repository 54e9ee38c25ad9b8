"""The recorder: what it refuses, what a page holds, and that Chromium records, judges and saves with it."""

import io
import json
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydata_sphinx_theme
import pytest
import soundfile
from bs4 import BeautifulSoup
from chromium import running_chromium
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect
from rooms import ROOT

from bigmodel_helpers.figures.recording import Recorder, recorder
from tools.chromium import FLAGS, find_chromium

# ---------------------------------------------------------------------------------------- the package


def test_page_holds_words_numbers_and_what_to_do_where_no_script_runs() -> None:
    made = recorder(["zero", "it's & one", "zwölf"], seconds=2, rate=8_000)
    element = BeautifulSoup(made.html, "html.parser").find(class_="recorder")
    assert json.loads(element["data-words"]) == ["zero", "it's & one", "zwölf"]
    assert (element["data-seconds"], element["data-rate"]) == ("2", "8000")
    assert element.get_text() == (
        "The recorder does not run here: record with the recorder of your computer or phone, "
        "one WAV file per word (zero.wav, it's & one.wav, ...)."
    )
    assert made.html == recorder(list(made.words), seconds=2, rate=8_000).html


def test_notebook_gets_the_page_and_a_line_of_text() -> None:
    made = recorder(("zero", "one", "two", "three"))
    assert isinstance(made, Recorder)
    assert (made.words, made.seconds, made.rate) == (("zero", "one", "two", "three"), 1.5, 16_000)
    assert made._repr_html_() == made.html
    assert repr(made) == "A recorder of 4 words: zero, one, two, ..."
    assert repr(recorder(["zero"])) == "A recorder of 1 word: zero"
    assert "into the WAV file zero.wav." in BeautifulSoup(recorder(["zero"]).html, "html.parser").text


def test_page_asks_for_nothing_from_elsewhere() -> None:
    html = recorder(["zero"]).html
    for piece in ("http://", "https://", "fetch(", "XMLHttpRequest", "import(", "onclick=", " id="):
        assert piece not in html
    assert len(html) < 30_000


@pytest.mark.parametrize(
    ("words", "options", "complaint"),
    [
        ([], {}, "there is no word to record"),
        ("zero", {}, "is the text 'zero': give a list"),
        (["zero", ""], {}, "'' can be no name of a file"),
        (["a/b"], {}, "'a/b' can be no name"),
        (["why?"], {}, "can be no name"),
        (["two\nlines"], {}, "can be no name"),
        ([".."], {}, "can be no name"),
        (["end "], {}, "can be no name"),
        (["Con"], {}, "can be no name"),
        (["nul.x"], {}, "can be no name"),
        (["x" * 101], {}, "can be no name"),
        ([0, 1], {}, "0 can be no name"),
        (["Zero", "zero"], {}, "'zero' comes twice"),
        (["\u00fc", "u\u0308"], {}, "comes twice"),
        ([str(i) for i in range(101)], {}, "there are 101 words: a recorder takes at most 100"),
        (["zero"], {"seconds": 0.2}, "cannot take 0.2 seconds: choose 0.3 to 10"),
        (["zero"], {"seconds": 10.1}, "choose 0.3 to 10"),
        (["zero"], {"seconds": float("nan")}, "choose 0.3 to 10"),
        (["zero"], {"rate": 7_999}, "choose 8,000 to 48,000"),
        (["zero"], {"rate": 96_000}, "rate 96000 is out of range"),
    ],
)
def test_recorder_refuses_what_does_not_fit_in_one_line(words: object, options: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as error:
        recorder(words, **options)
    assert "\n" not in str(error.value)


def test_recorder_takes_words_and_numbers_at_the_limits() -> None:
    made = recorder([str(i) for i in range(100)], seconds=0.3, rate=48_000)
    assert len(made.words) == 100
    assert recorder(["console", "com10", "Jean-Luc", "x" * 100], seconds=10, rate=8_000).seconds == 10


# -------------------------------------------------------------------------------------- a microphone

ADDRESS = "https://book.test/page.html"  # answered by the test itself: no host is asked
HEAD = '<!doctype html><html lang="en" data-theme="{theme}"><link rel="icon" href="data:,"><title>Recorder</title>'
BODY = (
    '<div class="recorder" hidden><div>What JupyterLab leaves of one in a notebook that it does not trust</div></div>'
    '<article class="bd-article bd-content"><h1>Recorder</h1><div class="cell_output">'
    '<div class="output text_html">{html}</div></div></article>'
)
AXE = """() => axe.run({ include: ["article"] }, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"], resultTypes: ["violations"],
}).then((found) => found.violations.flatMap((rule) => rule.nodes.map((one) => [rule.id, one.html.slice(0, 120)])))"""
SECONDS, TONE, HISS = 0.4, 440, 10_000  # the hiss is above what 16,000 samples per second can hold
KEEP_STREAMS = """
window.streams = [];
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wanted) => {
    window.wanted = wanted;
    streams.push(await ask(wanted));
    return streams.at(-1);
};"""
STATES = "streams.map((stream) => stream.getTracks()[0].readyState)"
REST = """(e) => new Promise((done) => {
    const look = () => (e.dataset.phase === "rest" ? done() : requestAnimationFrame(look));
    look();
})"""
OSCILLATOR = """
window.loud = { gain: {} };
navigator.mediaDevices.getUserMedia = async () => {
    const context = new AudioContext(), tone = context.createOscillator(), { value } = loud.gain;
    const out = context.createMediaStreamDestination();
    window.loud = context.createGain();
    loud.gain.value = value;
    tone.connect(loud).connect(out);
    tone.start();
    return out.stream;
};"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Start Chromium with a microphone that hears half a period of tone and hiss, then half of almost nothing."""
    period = np.arange(round(48_000 * SECONDS)) / 48_000
    heard = 0.4 * np.sin(2 * np.pi * TONE * period) + 0.2 * np.sin(2 * np.pi * HISS * period)
    heard = np.where(period < SECONDS / 2, heard, 1e-3 * np.sin(2 * np.pi * TONE * period))
    file = tmp_path_factory.mktemp("microphone") / "heard.wav"
    soundfile.write(file, heard, 48_000, subtype="PCM_16")
    flags = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={file}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chromium.FLAGS", [*FLAGS, *flags])
        with running_chromium() as browser:
            yield browser


class Visit:
    """A window with a page of recorders; it writes down each request and each error."""

    def __init__(self, context: BrowserContext) -> None:
        self.context, self.asked, self.problems, self.html = context, [], [], ""
        context.set_default_timeout(10_000)
        context.route("**/*", self.answer)
        self.page: Page = context.new_page()
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on(
            "console", lambda message: message.type == "error" and self.problems.append(message.text)
        )
        self.page.on("request", lambda request: self.asked.append(request.url))

    def answer(self, route: Route) -> None:
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            route.fulfill(body=self.html, content_type="text/html; charset=utf-8")

    def open(
        self, *recorders: Recorder, address: str = ADDRESS, theme: str = "light", style: str = ""
    ) -> Locator:
        """Show the recorders on a page, and return the first one."""
        body = BODY.format(html="".join(made.html for made in recorders))
        self.html = f"{HEAD.format(theme=theme)}<style>{style}</style>{body}"
        self.page.goto(address)
        return self.page.locator(".recorder[data-words]").first


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Open a window with permission to use the microphone; nothing may go wrong in it, or leave it."""
    context = browser.new_context(permissions=["microphone"])
    visit = Visit(context)
    yield visit
    context.close()
    assert visit.problems == []
    assert [url for url in visit.asked if not url.startswith((visit.page.url, "blob:", "data:"))] == []


def say(figure: Locator) -> None:
    """Record the word that is shown."""
    figure.get_by_role("button", name=re.compile("^Record( again)?: ")).click()
    figure.evaluate(REST)  # `expect` looks once in a second


def state(figure: Locator) -> Locator:
    return figure.get_by_role("status")


def saved(figure: Locator) -> zipfile.ZipFile:
    """Save, and return the ZIP file."""
    with figure.page.expect_download() as download:
        figure.get_by_role("button", name="Save").click()
    assert download.value.suggested_filename == "recordings.zip"
    files = zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert files.testzip() is None
    return files


def spectrum(samples: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies in Hz, and how strong each is."""
    padded = 8 * len(samples)
    strengths = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), padded))
    return np.fft.rfftfreq(padded, 1 / rate), strengths


def test_browser_records_two_words_and_saves_wav_files_with_what_was_heard(visit: Visit) -> None:
    visit.page.add_init_script(KEEP_STREAMS)
    figure = visit.open(recorder(["zero", "one"], seconds=SECONDS))
    expect(figure.get_by_role("button", name="Save")).to_be_disabled()
    say(figure)
    expect(state(figure)).to_have_text("This word is recorded.")
    assert visit.page.evaluate(STATES) == ["live"]
    figure.get_by_role("button", name="Next: one").click()
    say(figure)
    expect(state(figure)).to_have_text("All words are recorded. Save them.")
    assert visit.page.evaluate(STATES) == ["ended"], "the microphone is off when the last word is there"
    off = {"channelCount": 1, "echoCancellation": False, "noiseSuppression": False, "autoGainControl": False}
    assert visit.page.evaluate("wanted.audio") == off
    files = saved(figure)
    expect(state(figure)).to_have_text("Saved recordings.zip with 2 WAV files.")
    assert files.namelist() == ["zero.wav", "one.wav"]
    for info in files.infolist():
        assert info.compress_type == zipfile.ZIP_STORED
        assert abs(time.time() - time.mktime((*info.date_time, 0, 0, -1))) < 60
        content = files.read(info)
        about = soundfile.info(io.BytesIO(content))
        assert (about.samplerate, about.channels, about.subtype) == (16_000, 1, "PCM_16")
        assert about.frames == round(SECONDS * 16_000)
        samples, rate = soundfile.read(io.BytesIO(content))
        frequencies, strengths = spectrum(samples, rate)
        assert frequencies[strengths.argmax()] == pytest.approx(TONE, abs=4)
        assert np.quantile(np.abs(samples), 0.98) == pytest.approx(0.4, abs=0.02), "as loud as it was"
        folded = strengths[np.abs(frequencies - (rate - HISS)) < 100]
        assert folded.max() < strengths.max() / 300, "what the rate cannot hold is gone"


def test_browser_records_with_the_keyboard_alone_on_a_page_opened_as_a_file(
    visit: Visit, tmp_path: Path
) -> None:
    file, made = tmp_path / "page.html", recorder(["zero", "one"], seconds=0.3)
    file.write_text(f"<!doctype html><title>Recorder</title>{made.html}", encoding="utf-8")
    figure, keys = visit.open(made, address=file.as_uri()), visit.page.keyboard
    figure.evaluate("""e => {
        window.seen = [];
        const watch = () => seen.push([e.dataset.phase, e.querySelector('[data-part="cue"]').textContent]);
        new MutationObserver(watch).observe(e, { attributes: true });
    }""")
    keys.press("Tab")
    expect(figure.get_by_role("button", name="Record: zero")).to_be_focused()
    keys.press("Space")
    keys.press("Space")  # too early: nothing happens
    figure.evaluate(REST)
    expect(figure.get_by_role("button", name="Next: one")).to_be_focused()
    assert visit.page.evaluate("seen") == [["wait", "Get ready"], ["record", "Speak now"], ["rest", ""]]
    keys.press("Enter")
    expect(figure.locator('[data-part="word"]')).to_have_text("one")
    expect(figure.get_by_role("button", name="Record: one")).to_be_focused()
    keys.press("Enter")
    figure.evaluate(REST)
    expect(figure.get_by_role("button", name="Save")).to_be_focused()
    with visit.page.expect_download():
        keys.press("Enter")
    expect(figure.get_by_role("button", name="zero, recorded")).to_be_visible()
    keys.press("Shift+Tab")
    keys.press("Shift+Tab")
    keys.press("Space")
    expect(figure.locator('[data-part="count"]')).to_have_text("Word 1 of 2")
    expect(figure.get_by_role("button", name="Record again: zero")).to_be_enabled()


def test_browser_plays_what_it_saves_and_keeps_two_recorders_apart(visit: Visit) -> None:
    visit.page.add_init_script("""
        const play = HTMLMediaElement.prototype.play;
        HTMLMediaElement.prototype.play = async function () {
            window.played = [...new Uint8Array(await (await fetch(this.src)).arrayBuffer())];
            window.sound = this;
            return play.call(this);
        };""")
    first = visit.open(recorder(["zero", "one"], seconds=0.3), recorder(["yes"], seconds=0.3, rate=44_100))
    second = visit.page.locator(".recorder[data-words]").nth(1)
    play = first.get_by_role("button", name="Play")
    expect(play).to_be_disabled()
    assert first.locator("path").get_attribute("d").count("M") == 1
    say(first)
    assert first.locator("path").get_attribute("d").count("M") == 400
    play.click()
    visit.page.wait_for_function("window.sound?.ended && sound.duration === 0.3")
    expect(second.locator('[data-part="kept"]')).to_contain_text("0 of 1 recorded")
    say(second)
    about = soundfile.info(io.BytesIO(saved(second).read("yes.wav")))
    assert (about.samplerate, about.frames) == (44_100, 13_230)
    files = saved(first)
    assert files.namelist() == ["zero.wav"]
    assert files.read("zero.wav") == bytes(visit.page.evaluate("played"))


def test_browser_says_that_a_recording_is_silent_or_clipped_and_records_it_again(visit: Visit) -> None:
    visit.page.add_init_script(OSCILLATOR)
    figure = visit.open(recorder(["zero", "one"], seconds=0.3))
    for gain, words in ((0.001, "Nothing was heard"), (3, "That was too loud")):
        visit.page.evaluate("gain => (loud.gain.value = gain)", gain)
        say(figure)
        expect(state(figure)).to_contain_text(words)
        expect(figure.get_by_role("button", name="Record again: zero")).to_be_focused()
        expect(figure.get_by_role("button", name="zero, to record again")).to_be_visible()
        samples, _ = soundfile.read(io.BytesIO(saved(figure).read("zero.wav")))
        assert np.abs(samples).max() == pytest.approx(min(gain, 1), rel=0.1)
        expect(state(figure)).to_have_text("Saved recordings.zip with 1 WAV file. Better record again: zero.")
    visit.page.evaluate("loud.gain.value = 0.5")
    say(figure)
    expect(state(figure)).to_have_text("This word is recorded.")
    expect(figure.get_by_role("button", name="Next: one")).to_be_focused()
    expect(figure.get_by_role("button", name="zero, recorded")).to_be_visible()


def test_browser_closes_the_microphone_when_nothing_is_recorded_for_a_while(visit: Visit) -> None:
    visit.page.clock.install()
    visit.page.add_init_script(KEEP_STREAMS)
    figure = visit.open(recorder(["zero", "one"], seconds=0.3))
    say(figure)
    assert visit.page.evaluate(STATES) == ["live"]
    visit.page.clock.fast_forward(11_000)
    assert visit.page.evaluate(STATES) == ["ended"]


# ------------------------------------------------------------------------------------ no microphone

INSTEAD = "record with the recorder of your computer or phone, one WAV file per word (zero.wav, one.wav)."


def test_browser_without_permission_says_what_to_do(browser: Browser) -> None:
    visit = Visit(browser.new_context(permissions=[]))
    figure = visit.open(recorder(["zero", "one"], seconds=0.3))
    say(figure)
    expect(state(figure)).to_have_text(
        f"This page may not use the microphone: allow it in the settings of the browser and try again, or {INSTEAD}"
    )
    visit.context.grant_permissions(["microphone"])
    say(figure)
    expect(state(figure)).to_have_text("This word is recorded.")
    visit.context.close()
    assert visit.problems == []


def test_browser_without_microphone_says_what_to_do(browser: Browser) -> None:
    bare = browser.browser_type.launch(executable_path=find_chromium(), args=FLAGS)
    visit = Visit(bare.new_context(permissions=["microphone"]))
    figure = visit.open(recorder(["zero", "one"], seconds=0.3))
    say(figure)
    expect(state(figure)).to_have_text(f"No microphone was found: connect one and try again, or {INSTEAD}")
    bare.close()
    assert visit.problems == []


@pytest.mark.parametrize(
    ("address", "script", "why"),
    [
        ("http://book.test/page.html", "", "A page without https cannot record"),
        (ADDRESS, "window.AudioWorkletNode = undefined", "This browser cannot record"),
        (ADDRESS, "Object.defineProperty(navigator, 'mediaDevices', {})", "This browser cannot record"),
    ],
)
def test_browser_that_cannot_record_shows_one_sentence(
    visit: Visit, address: str, script: str, why: str
) -> None:
    visit.page.add_init_script(script)
    figure = visit.open(recorder(["zero", "one"]), address=address)
    expect(figure).to_have_text(f"{why}: {INSTEAD}")
    expect(figure.locator("div")).to_be_visible()
    assert figure.get_by_role("button").count() == 0


def test_browser_without_scripts_and_paper_show_one_sentence(browser: Browser, visit: Visit) -> None:
    plain = Visit(browser.new_context(java_script_enabled=False))
    figure = plain.open(recorder(["zero", "one"]))
    expect(figure).to_have_text(f"The recorder does not run here: {INSTEAD}")
    plain.context.close()
    figure = visit.open(recorder(["zero", "one"]))
    expect(figure.get_by_text(INSTEAD)).to_be_hidden()
    visit.page.emulate_media(media="print")
    expect(figure.get_by_text(INSTEAD)).to_be_visible()
    expect(figure.get_by_role("button")).to_have_count(0)


# --------------------------------------------------------------------------------------------- look

THEME = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static" / "styles"


def test_browser_on_a_phone_reads_every_state_in_the_colors_of_the_book(visit: Visit) -> None:
    style = (THEME / "pydata-sphinx-theme.css").read_text(encoding="utf-8")
    style = re.sub(r"""url\(("[^"]*"|'[^']*'|[^)]*)\)""", "none", style)  # its fonts are not asked for
    style += "* { transition: none !important }"
    visit.page.set_viewport_size({"width": 390, "height": 844})
    words = ["zero", "a word that is far too long to stand in one line", "x" * 60]
    figure = visit.open(recorder(words, seconds=0.3), style=style)
    visit.page.add_script_tag(path=ROOT / "tests" / "book" / "axe" / "axe.min.js")
    say(figure)
    plate = "e => getComputedStyle(e.closest('.text_html')).backgroundColor"
    for theme, levels in (("light", range(100)), ("dark", range(180, 256))):
        visit.page.evaluate("theme => (document.documentElement.dataset.theme = theme)", theme)
        assert figure.evaluate(plate) == "rgba(0, 0, 0, 0)"
        red, green, blue = re.findall(r"\d+", figure.evaluate("e => getComputedStyle(e).color"))
        assert {int(red), int(green), int(blue)} <= {*levels}
        for pick in figure.get_by_role("listitem").get_by_role("button").all():
            pick.click()
            assert visit.page.evaluate(AXE) == []
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
            assert figure.evaluate("e => e.scrollWidth <= e.clientWidth")
    assert visit.page.evaluate("document.getAnimations().length") == 0
