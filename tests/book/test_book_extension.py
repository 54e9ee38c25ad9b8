"""What the local Sphinx extension does, function by function."""

import importlib.util
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import bigmodel_book
import bigmodel_cards
import bigmodel_goals
import bigmodel_links
import bigmodel_page
import bigmodel_records
import bigmodel_status
import bigmodel_text
import pytest
from docutils import nodes
from docutils.utils import new_document
from made_up import STAMP, made_up_record
from rooms import ROOT
from sphinx.errors import ExtensionError

# ------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.2 s"),
        (9.4, "9.4 s"),
        (30, "30 s"),
        (59.97, "1 min"),
        (245, "4 min 05 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert bigmodel_text.duration(seconds).replace("\u00a0", " ") == text


def test_table_escapes_bars_and_line_breaks() -> None:
    assert bigmodel_text.table(["a"], [["x|y\nz"]]) == "| a |\n| --- |\n| x\\|y z |"


# ----------------------------------------------------------------------------------- status and records


def test_status_row_tells_the_stamp() -> None:
    row = " ".join(bigmodel_status.status_row("notebooks/07_sample", STAMP))
    for text in ("/notebooks/07_sample", "laptop", "a test CPU", "2.15.0", "3.13.0", "no data"):
        assert text in row
    assert "2026‑01‑02" in row  # with hyphens that do not break
    assert "6\u00a0min\u00a053\u00a0s" in row


def test_status_row_without_a_stamp_says_what_to_do() -> None:
    assert "`make execute NB=07_sample`" in bigmodel_status.status_row("notebooks/07_sample", {})[1]


def test_half_a_stamp_is_an_error() -> None:
    with pytest.raises(ExtensionError, match=r"07_sample\.ipynb: its stamp lacks device, "):
        bigmodel_status.status_row("notebooks/07_sample", {"profile": "laptop"})


def test_records_are_read_fastest_first(tmp_path: Path) -> None:
    for name, seconds in (("a", 90.0), ("b", 9.0)):
        record = made_up_record(name=name, train_seconds=seconds)
        (tmp_path / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    assert [record["name"] for record in bigmodel_records.load_records(tmp_path)] == ["b", "a"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": None}, r"bad\.json lacks device: "),
        ({"test_accuracy": 80.0}, "test_accuracy must lie in test_interval"),
        ({"test_interval": [0.9, 0.95]}, "test_accuracy must lie in test_interval"),
    ],
)
def test_impossible_record_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    record = {key: value for key, value in made_up_record(**changes).items() if value is not None}
    (tmp_path / "bad.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ExtensionError, match=message):
        bigmodel_records.load_records(tmp_path)


def test_committed_records_can_be_shown() -> None:
    records = bigmodel_records.load_records(ROOT / "book" / "records")
    names = {path.stem for path in (ROOT / "book" / "records").glob("*.json")}
    assert {record["name"] for record in records} == names
    markdown = bigmodel_records.results_markdown(records, [])
    assert all(record["title"] in markdown for record in records)


def test_a_command_that_has_moved_is_shown_with_its_present_name() -> None:
    old = "python tools/train_cifar.py --epochs 2"
    shown = bigmodel_text.as_recorded(old, f"`{old}`")
    assert shown == f"`{old}` (as recorded; today `python -m tools.records.train_cifar`)"
    assert bigmodel_text.as_recorded("make bench", "`make bench`") == "`make bench`"


def test_programs_and_names_of_today_exist() -> None:
    for now in bigmodel_text.NAMES_NOW.values():
        module = now.removeprefix("python -m ")
        assert importlib.util.find_spec(module), now


def test_every_stored_command_leads_to_what_exists() -> None:
    files = [*(ROOT / "book" / "records").glob("*.json"), ROOT / "book" / "scaling.json"]
    files += bigmodel_cards.card_paths(ROOT / "bigmodel_helpers" / "weights")
    assert len(files) >= 5
    for path in files:
        record = json.loads(path.read_text(encoding="utf-8"))
        command = record.get("command") or record["recipe"]
        shown = bigmodel_text.as_recorded(command, command)
        old = [name for name in bigmodel_text.NAMES_NOW if name in command]
        for program in re.findall(r"tools[/.][\w./]+", shown):
            place = program if "/" in program else program.replace(".", "/") + ".py"
            assert (ROOT / place).is_file() or program in old, f"{path.name}: {program} is gone"


def test_results_without_records_say_so() -> None:
    assert bigmodel_records.results_markdown([], []) == "No run is recorded yet.\n"


def test_results_show_each_record() -> None:
    slow = made_up_record(title="Slow", chapter="07_sample", train_cpu_seconds=240, test_mirror=0.81)
    text = bigmodel_records.results_markdown(
        [made_up_record(note="A caveat."), slow], ["notebooks/07_sample"]
    )
    text = text.replace("\u00a0", " ")
    assert text.count("## Chapter 7\n") == 1
    assert "{doc}`/notebooks/07_sample`" in text
    for part in (
        "80.00 % (79.2–80.8)",
        "1,234,567 parameters",
        "A caveat.",
        "### Slow",
        "81.00 %",
        "| 4 | 2 min |",
    ):
        assert part in text
    assert text.count("With a mirrored view") == 1


def test_curve_leaves_out_what_a_log_axis_cannot_show() -> None:
    history = [
        {"epoch": 0, "seconds": 0.0, "test_accuracy": 0.1},
        {"epoch": 1, "seconds": 1.0, "test_accuracy": None},
        {"epoch": 2, "seconds": 2.0, "test_accuracy": 0.5},
    ]
    assert bigmodel_records.curve({"history": history}) == [(2.0, 0.5)]


def test_curves_are_well_formed_and_inside_the_frame() -> None:
    svg = bigmodel_records.curve_svg([made_up_record(), made_up_record(title="Second")])
    root = ET.fromstring(svg)
    _, _, width, height = map(float, root.get("viewBox").split())
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter("circle")]
    assert len(circles) == 8
    assert all(0 < x < width and 0 < y < height for x, y in circles)
    assert [y for _, y in circles[:4]] == sorted((y for _, y in circles[:4]), reverse=True)  # accuracy rises
    texts = [text.text for text in root.iter("text")]
    assert "A run <fast> | small, made-up" in texts
    assert "training time" in texts


# -------------------------------------------------------------------------------------- extension


def test_no_repository_means_no_buttons(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BOOK_REPOSITORY_URL", "GITHUB_SERVER_URL", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    config = SimpleNamespace(html_theme_options={"repository_url": ""})
    bigmodel_book.add_repository_links(None, config)
    assert config.html_theme_options == {"repository_url": "", "launch_buttons": {}}


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "a/b"}, "https://github.com/a/b"),
        ({"BOOK_REPOSITORY_URL": "https://gitlab.com/a/b/"}, "https://gitlab.com/a/b"),
    ],
)
def test_repository_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str
) -> None:
    for name in ("BOOK_REPOSITORY_URL", "GITHUB_SERVER_URL", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = SimpleNamespace(html_theme_options={})
    bigmodel_book.add_repository_links(None, config)
    assert config.html_theme_options["repository_url"] == url
    assert bool(config.html_theme_options["launch_buttons"]["colab_url"]) == ("github" in url)


def test_foreign_stylesheet_is_dropped_and_the_rest_kept() -> None:
    document = new_document("test")
    link = '<link rel="stylesheet" href="https://maxcdn.bootstrapcdn.com/font-awesome/4.4.0/css/x.css">'
    document += nodes.raw("", f"{link}\n<div>frames</div>", format="html")
    bigmodel_book.drop_foreign_stylesheets(None, document, "page")
    assert document[0].astext() == "\n<div>frames</div>"
    assert document[0]["format"] == "html"


def test_words_before_a_colon_stay_in_a_property() -> None:
    lines = ["seconds per call.", "", ":type: The values"]
    bigmodel_book.keep_colons(None, "property", "", None, None, lines)
    assert lines == ["The values: seconds per call.", ""]


@pytest.mark.parametrize("package", ["mathjax", "requirejs", "html-manager"])
def test_browser_files_bring_their_licenses(package: str) -> None:
    (license_file,) = (ROOT / "book" / "vendor").rglob(f"LICENSE-{package}.txt")
    assert "opyright" in license_file.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------ goals


def made_up_figure(**changes: object) -> dict[str, object]:
    figure = {"what": "speed", "unit": "x", "median": 5.0, "low": 4.5, "high": 5.5, "runs": 5}
    return figure | {"floor": 4, "goal": 6.5, "less_is_better": False, "date": "2026-01-02"} | changes


@pytest.mark.parametrize(
    ("changes", "reached"),
    [
        ({"median": 6.5, "low": 6.5, "high": 6.9}, "goal"),
        ({"median": 6.6, "low": 6.4, "high": 6.9}, "goal, by the median"),
        ({"median": 4.0, "low": 4.0}, "floor"),
        ({"median": 4.1, "low": 3.9}, "floor, by the median"),
        ({"median": 3.9}, "not reached"),
        ({"floor": 8, "goal": 5, "less_is_better": True, "median": 8.1}, "not reached"),
        ({"floor": 8, "goal": 5, "less_is_better": True, "median": 7.0}, "floor"),
        ({"floor": 8, "goal": 5, "less_is_better": True, "median": 5.0, "high": 5.0}, "goal"),
        ({"floor": 8, "goal": 5, "less_is_better": True, "median": 5.0, "high": 5.1}, "goal, by the median"),
    ],
)
def test_goals_say_what_is_reached(changes: dict[str, object], reached: str) -> None:
    row = bigmodel_goals.goal_row(made_up_figure(**changes))
    assert row[-1] == reached
    assert row[3].startswith("at most" if changes.get("less_is_better") else "at least")


def test_goals_need_all_keys_and_admit_that_none_is_recorded(tmp_path: Path) -> None:
    broken = made_up_figure()
    del broken["runs"]
    with pytest.raises(ExtensionError, match="lacks runs: run make bench"):
        bigmodel_goals.goal_row(broken)
    assert "No benchmark is recorded" in bigmodel_goals.goals_markdown(tmp_path / "goals.json")
    record = {"device": "a device", "torch": "2", "data": "some data"}
    record["figures"] = [made_up_figure(date=f"2026-01-0{n}") for n in (4, 2, 3)]
    (tmp_path / "goals.json").write_text(json.dumps(record), encoding="utf-8")
    shown = bigmodel_goals.goals_markdown(tmp_path / "goals.json")
    assert "| speed | 5 x (4.5–5.5) | 5 |" in shown
    assert "torch 2, 2026\u201101\u201102 to 2026\u201101\u201104; some data" in shown


# ------------------------------------------------------------------------------------------ cards


def test_cards_of_the_shipped_networks_are_whole() -> None:
    folder = Path(__file__).parents[2] / "bigmodel_helpers" / "weights"
    markdown = bigmodel_cards.cards_markdown(folder)
    paths = bigmodel_cards.card_paths(folder)
    assert {path.suffix for path in paths} == {".json"}
    assert {path.parent.name for path in paths} == {"weights", "base_lm"}
    for path in paths:
        card = json.loads(path.read_text(encoding="utf-8"))
        assert f"### `{card['name']}`" in markdown
        assert f"{card['parameters']:,}" in markdown
        if "bits_per_byte" in card:
            assert f"{card['bits_per_byte']:.2f} ({card['interval'][0]:.2f}–" in markdown
        else:
            tested = card["test_word_error_rate" if "letters" in card else "test_accuracy"]
            assert f"{100 * tested:.1f}" in markdown
        assert card["limits"] in markdown


def test_a_card_that_lacks_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text('{"name": "small"}', encoding="utf-8")
    with pytest.raises(ExtensionError, match=r"small\.json lacks parameters, "):
        bigmodel_cards.cards_markdown(tmp_path)
    with pytest.raises(ExtensionError, match="no card"):
        bigmodel_cards.cards_markdown(tmp_path / "none")


# ------------------------------------------------------------------------------------------ pages


def test_cells_of_a_table_say_what_they_are() -> None:
    head = '<tr><th class="head"></th><th class="head"><span class="math">\\(a\\)</span></th></tr>'
    made = bigmodel_page.card_table(
        f'<table class="table"><thead>{head}</thead><tbody><tr><td>x</td><td>1</td></tr></tbody></table>'
    )
    assert '<td data-label="">x</td><td data-label="a">1</td>' in made
    assert '<td class="head"></td><th class="head">' in made


def test_roles_of_a_page_are_those_that_browsers_know() -> None:
    context = {"body": '<div role="doc-biblioentry"></div><table class="dataframe"><th></th></table>'}
    bigmodel_page.finish_page(None, "page", "page.html", context, None)
    assert context["body"] == '<div role="listitem"></div><table class="dataframe"><td></td></table>'
    bigmodel_page.finish_page(None, "search", "search.html", context := {}, None)
    assert context == {}


@pytest.mark.parametrize(
    ("text", "kept"), [("so F, that", "F,"), ("(F). So", "(F)."), ("an F-gram is", "F-gram"), ("F is", None)]
)
def test_no_line_begins_with_the_comma_behind_a_formula(text: str, kept: str | None) -> None:
    formula = '<span class="math notranslate nohighlight">\\(n\\)</span>'
    context = {"body": f"<p>{text.replace('F', formula)}</p>"}
    bigmodel_page.finish_page(None, "page", "page.html", context, None)
    found = re.search(r'<span class="unbroken">(.*</span>.*?)</span>', context["body"])
    assert (found and found[1].replace(formula, "F")) == kept


@pytest.mark.parametrize(
    ("defined", "documented"),
    [
        ("pathlib._local.Path", "pathlib.Path"),  # Python 3.13
        ("torch._C.Generator", "torch.Generator"),
        ("bigmodel_helpers.data._paths.Path", "bigmodel_helpers.data._paths.Path"),
    ],
)
def test_links_to_other_libraries_go_where_their_pages_are(defined: str, documented: str) -> None:
    names = {"python": {"py:class": {"pathlib.Path": None}}, "torch": {"py:class": {"torch.Generator": None}}}
    node = {"reftarget": defined}
    bigmodel_links.use_documented_path(None, SimpleNamespace(intersphinx_named_inventory=names), node, None)
    assert node["reftarget"] == documented
