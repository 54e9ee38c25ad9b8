import json
import subprocess
import sys
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


@pytest.mark.parametrize("name", ["train", "mistakes", "few_labels"])
def test_what_needs_the_real_images_says_so(name, capsys):
    class StandIn:
        source = "stand-in: drawn shapes"

    assert list(bench.BENCHES[name](StandIn())) == []
    assert f"{name}: needs the real images; set BIGMODEL_DATA" in capsys.readouterr().out


def run(*arguments):
    command = [sys.executable, "-m", "tools.bench.run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_command_prints_the_figure_and_records_it(tmp_path):
    result = run("imports", "--record", str(tmp_path / "goals.json"))
    assert "import bigmodel_helpers beyond torch" in result.stdout, result.stderr
    record = json.loads((tmp_path / "goals.json").read_text(encoding="utf-8"))
    (figure,) = record["figures"]
    assert result.returncode == (0 if figure["median"] <= figure["floor"] else 1)
    assert figure["runs"] == 7


def test_an_unknown_benchmark_is_refused_by_name():
    result = run("speed")
    assert result.returncode == 2
    assert "no benchmark is called speed" in result.stderr
