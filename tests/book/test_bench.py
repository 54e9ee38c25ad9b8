import json
import re
import runpy
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tools.bench import run as bench
from tools.bench.figure import figure as make_figure

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("less", "median", "holds"),
    [(False, 4.0, True), (False, 3.99, False), (True, 4.0, True), (True, 4.01, False)],
)
def test_a_figure_holds_when_its_median_reaches_the_floor(less, median, holds):
    values = [median - 1, median, median + 3]
    figure = make_figure("speed", "speed of a test", "x", values, floor=4, goal=6, less=less)
    assert figure.holds is holds
    assert ("BELOW THE FLOOR" in str(figure)) is not holds
    assert (figure.low, figure.high, figure.runs) == (median - 1, median + 3, 3)
    assert "repeats: 3" in str(figure)  # of one run


def test_every_chapter_that_claims_a_ratio_has_one_here():
    chapters = {
        int(number)
        for run in bench.BENCHES.values()
        for number in re.findall(r"[Cc]hapter (\d+)", run.__doc__)
    }
    assert chapters == {
        1,
        2,
        3,
        4,
        5,
        6,
        8,
        9,
        11,
        15,
    }  # chapter 7: several processes on one machine are no faster


def test_the_book_shows_a_figure_of_each_of_those_chapters():
    recorded = json.loads((ROOT / "book" / "goals.json").read_text(encoding="utf-8"))["figures"]
    names = [figure["name"] for figure in recorded]
    assert len({*names}) == len(names)
    wanted = {"fused", "training_memory", "checkpoint_memory", "checkpoint_time", "convolution_as_product"}
    wanted |= {
        "convolution_conv2d",
        "moved_pixels",
        "bytes",
        "bits_lost",
        "half_channels",
        "pairing",
        "twins",
    }
    assert wanted <= {*names}


@pytest.mark.parametrize("name", ["train", "mistakes", "few_labels", "smaller", "pairing", "twins"])
def test_what_needs_the_real_images_says_so(name, capsys):
    class StandIn:
        source = "stand-in: drawn shapes"

    assert list(bench.BENCHES[name](StandIn())) == []
    assert f"{name}: needs the real images; set BIGMODEL_DATA" in capsys.readouterr().out


def test_the_command_prints_the_figure_and_records_it(tmp_path, monkeypatch, capsys):
    done, run = [], subprocess.run

    def once(*arguments, **options):
        """Import torch in one more process only; the other repeats get the same answer."""
        if not done:
            done.append(run(*arguments, **options))
        return done[0]

    monkeypatch.setattr(subprocess, "run", once)
    monkeypatch.setattr("sys.argv", ["run.py", "imports", "--record", str(tmp_path / "goals.json")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "tools" / "bench" / "run.py"), run_name="__main__")
    assert "import bigmodel_helpers beyond torch" in capsys.readouterr().out
    record = json.loads((tmp_path / "goals.json").read_text(encoding="utf-8"))
    (figure,) = record["figures"]
    assert stop.value.code == (0 if figure["median"] <= figure["floor"] else 1)
    assert figure["runs"] == 7


def test_a_record_keeps_what_was_measured_on_the_same_machine(tmp_path):
    path = tmp_path / "goals.json"
    one = make_figure("one", "a thing", "x", [1.0], floor=1, goal=2)
    facts = {"device": "a", "torch": "2", "date": "2026-01-02"}
    bench.record(path, facts, [one, replace(one, name="two")])
    bench.record(path, facts | {"date": "2026-01-03"}, [replace(one, median=3.0)])
    found = {each["name"]: each for each in json.loads(path.read_text(encoding="utf-8"))["figures"]}
    assert found["one"]["median"] == 3.0
    assert [found[name]["date"] for name in ("one", "two")] == ["2026-01-03", "2026-01-02"]
    with pytest.raises(ValueError, match=r"goals.json holds figures of other facts .*'a'.*: name a new file"):
        bench.record(path, facts | {"device": "b"}, [one])
    bench.record(path, facts | {"device": "b"}, [one, replace(one, name="two")])


def test_an_unknown_benchmark_is_refused_by_name(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", "speed"])
    with pytest.raises(SystemExit) as stop:
        bench.main()
    assert stop.value.code == 2
    assert "no benchmark is called speed" in capsys.readouterr().err


def test_what_needs_a_text_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    assert list(bench.BENCHES["nanogpt"](None)) == []
    assert "needs tinyshakespeare.txt" in capsys.readouterr().out
    monkeypatch.delenv("BIGMODEL_DATA")
    assert list(bench.BENCHES["nanogpt"](None)) == []
