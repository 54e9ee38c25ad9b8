"""The scaling experiment: its fits, its program, its record, and the numbers of the outlook."""

import json
import re
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import bigmodel_scaling
import numpy as np
import pytest
from rooms import ROOT
from sphinx.errors import ExtensionError

from tools.records import scaling, scaling_fit
from tools.records.scaling_fit import Joint, Sum, bootstrap, fit_joint, fit_sum, interval

RECORD = ROOT / "book" / "scaling.json"
PAGE = (ROOT / "book" / "outlook.md").read_text(encoding="utf-8")
N, D = (
    x.ravel()
    for x in np.meshgrid([1.6e4, 4.4e4, 1.1e5, 1.9e5, 5e5, 8.7e5], 2.0 ** np.array([18, 19, 20, 21]))
)
TRUE = {
    fit_sum: Sum(E=0.9, A=12, B=90, a=0.3, b=0.35),
    fit_joint: Joint(log_nc=14, log_dc=16, a=0.17, b=0.22),
}


@pytest.fixture(scope="module")
def record() -> dict:
    return bigmodel_scaling.load_scaling(RECORD)


# ---------------------------------------------------------------------------------------------- fits


@pytest.mark.parametrize("fit", TRUE)
def test_fit_finds_the_law_behind_exact_losses(fit) -> None:
    found, true = fit(N, D, TRUE[fit](N, D)), TRUE[fit]
    assert found.a == pytest.approx(true.a, rel=1e-3)
    assert found.b == pytest.approx(true.b, rel=1e-3)
    assert found.share == pytest.approx(true.b / (true.a + true.b), rel=1e-3)
    np.testing.assert_allclose(found(10 * N, 10 * D), true(10 * N, 10 * D), rtol=1e-3)


@pytest.mark.parametrize("fit", TRUE)
def test_intervals_cover_the_truth(fit) -> None:
    """Of intervals at 95 %, some more than four in five must hold the truth in so few trials."""
    true, trials, hits = TRUE[fit], 20, {"a": 0, "b": 0, "share": 0, "forecast": 0}
    for trial in range(trials):
        noise = np.random.default_rng(trial).normal(0, 0.005, len(N))
        points = N, D, true(N, D) * np.exp(noise)
        laws = bootstrap(fit, points, fit(*points), 60, seed=trial)
        values = {name: [getattr(law, name) for law in laws] for name in ("a", "b", "share")}
        truth = {name: getattr(true, name) for name in values} | {"forecast": true(2e6, 2**22)}
        for name, drawn in (values | {"forecast": [law(2e6, 2**22) for law in laws]}).items():
            low, high = interval(drawn)
            hits[name] += low <= truth[name] <= high
            assert high - low < 0.9 * max(truth[name], 0.5)
    assert min(hits.values()) >= 0.75 * trials, hits


@pytest.mark.parametrize("law", TRUE.values(), ids=["sum", "joint"])
def test_share_is_the_exponent_of_the_best_size(law) -> None:
    if isinstance(law, Sum):
        law = Sum(0.0, law.A, law.B, law.a, law.b)
    sizes = np.exp(np.linspace(np.log(1e2), np.log(1e12), 200_001))
    best = [sizes[np.argmin(law(sizes, compute / (6 * sizes)))] for compute in (1e12, 1e16)]
    assert np.log(best[1] / best[0]) / np.log(1e4) == pytest.approx(law.share, abs=1e-3)
    if isinstance(law, Sum):
        assert scaling_fit.best_size(law, 1e12) == pytest.approx(best[0], rel=1e-3)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="train 3 sizes on 3 amounts"):
        fit_sum(N[:6], D[:6], np.ones(6))


def test_cells_are_means_over_seeds_and_the_noise_is_within_them() -> None:
    runs = [
        {"width": width, "parameters": width, "bytes": 8, "loss": loss}
        for width, loss in ((1, 2.0), (1, 2.2), (2, 1.0), (2, 1.4), (3, 5.0))
    ]
    n, d, loss = scaling_fit.cells(runs, "parameters")
    assert [*n, *d] == [1, 2, 3, 8, 8, 8]
    np.testing.assert_allclose(loss, [2.1, 1.2, 5.0])
    assert scaling_fit.seed_noise(runs) == pytest.approx(np.sqrt((np.log(1.1) ** 2 + np.log(1.4) ** 2) / 4))
    with pytest.raises(ValueError, match="with two seeds"):
        scaling_fit.seed_noise(runs[-1:])


# ------------------------------------------------------------------------------------------- program


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the experiment take seconds."""
    monkeypatch.setattr(scaling, "SIZES", {16: 1, 32: 1, 48: 1, 64: 1})
    monkeypatch.setattr(scaling, "HELD_OUT", 64)
    monkeypatch.setattr(
        scaling, "GRID", [(2048, 1, [16, 32, 48, 64]), (4096, 2, [16, 32, 48, 64]), (8192, 1, [16, 32, 48])]
    )
    for name, value in {"BYTES": 2048, "WIDTHS": [16, 48], "RATES": [5e-4, 1e-3, 2e-3]}.items():
        monkeypatch.setattr(scaling, f"SWEEP_{name}", value)
    monkeypatch.setattr(scaling, "validation_loss", partial(scaling.validation_loss, windows=8))
    monkeypatch.setattr(scaling, "summarize", partial(scaling.summarize, repeats=3))


def test_program_writes_a_record_and_goes_on_where_it_stopped(small: None, tmp_path: Path) -> None:
    runs, file = tmp_path / "runs" / "all.jsonl", tmp_path / "record.json"
    command = ["--runs", str(runs), "--record", str(file)]
    scaling.main(command)
    record = bigmodel_scaling.load_scaling(file)
    assert len(record["runs"]) == 6 + 4 + 8 + 3
    assert list(scaling.plan(record["runs"])) == []
    lines = runs.read_text(encoding="utf-8").splitlines()
    runs.write_text("\n".join(lines[:-2]) + "\n", encoding="utf-8")
    scaling.main(command)
    again = [json.loads(line) for line in runs.read_text(encoding="utf-8").splitlines()]
    same = [{key: run[key] for key in ("width", "bytes", "seed", "kind", "rate", "loss")} for run in again]
    assert same == [{key: run[key] for key in same[0]} for run in record["runs"]]


def test_learning_rate_is_a_line_through_the_best_of_each_width() -> None:
    runs = [
        {"kind": "sweep", "width": width, "rate": rate, "loss": 2 + np.log(rate * width / 0.32) ** 2}
        for width in scaling.SWEEP_WIDTHS
        for rate in scaling.SWEEP_RATES
    ]
    for width in (16, 64, 128):
        assert scaling.learning_rate(width, runs) == pytest.approx(0.32 / width)


# ------------------------------------------------------------------------------------ record and page


def test_record_is_complete_and_of_this_program(record: dict) -> None:
    assert list(scaling.plan(record["runs"])) == [], "run tools.records.scaling"
    assert record["held_out_width"] == scaling.HELD_OUT
    for run in record["runs"]:
        assert run["layers"] == scaling.SIZES[run["width"]]
        if run["kind"] == "grid":
            assert run["rate"] == pytest.approx(scaling.learning_rate(run["width"], record["runs"]))
    seconds = sum(run["seconds"] for run in record["runs"])
    assert record["train_seconds"] == pytest.approx(seconds)


def test_fit_in_the_record_is_that_of_its_runs(record: dict) -> None:
    again = scaling_fit.summarize(record["runs"], record["held_out_width"], repeats=2)
    for law in ("sum", "joint"):
        for count in ("parameters", "block_parameters"):
            ours, theirs = again[law][count], record["fit"][law][count]
            for name in ("a", "b", "share"):
                middle, low, high = theirs[name]
                assert ours[name][0] == pytest.approx(middle, rel=0.02)
                assert low <= middle <= high
            for one, other in zip(ours["predictions"], theirs["predictions"], strict=True):
                assert one["predicted"] == pytest.approx(other["predicted"], rel=1e-3)
    assert record["fit"]["repeats"] >= 1000


def test_every_number_of_the_page_comes_from_the_record(record: dict) -> None:
    numbers = bigmodel_scaling.scaling_numbers(record)
    used = set(re.findall(r"\{scaling\}`(\w+)`", PAGE))
    assert used == set(numbers), "a number that the page does not know, or does not use"
    experiment = PAGE.split("## Compute gets cheaper")[0]
    typed = re.findall(r"\d+\.\d+", re.sub(r"\$.*?\$", "", experiment, flags=re.DOTALL))
    assert typed == []


def test_what_the_page_says_in_words_holds_in_the_record(record: dict) -> None:
    numbers = bigmodel_scaling.scaling_numbers(record)
    laws = {name: record["fit"][name]["parameters"] for name in ("sum", "joint")}
    assert laws["joint"]["rms_log_error"] < laws["sum"]["rms_log_error"], "the joint law fits better"
    assert record["fit"]["seed_noise"] < laws["joint"]["rms_log_error"]
    assert numbers["joint_inside"] <= numbers["sum_inside"], "and did not foretell better"
    for rows in zip(*(laws[name]["predictions"] for name in ("sum", "joint")), strict=True):
        wide, narrow = (row["interval"][1] - row["interval"][0] for row in rows)
        assert wide > narrow, "the intervals of the sum are wide"
    assert float(numbers["gain_most"]) > float(numbers["gain_least"]), (
        "size helps more where there is more text"
    )
    low, high = laws["sum"]["E"][1:]
    assert high - low > 0.5, "the fit can hardly see E"


def test_numbers_follow_the_record(record: dict) -> None:
    changed = json.loads(json.dumps(record))
    changed["fit"]["sum"]["parameters"]["share"] = [0.5, 0.25, 0.75]
    changed["fit"]["sum"]["parameters"]["predictions"][0] |= {"measured": 9.0}
    numbers = bigmodel_scaling.scaling_numbers(changed)
    spread = "0.50 (0.25\u2060–\u20600.75)"  # without a break at the dash
    assert numbers["sum_share"] == spread
    assert ", missed" in bigmodel_scaling.predictions_markdown(changed)
    assert spread in bigmodel_scaling.laws_markdown(changed)


def test_laws_drawn_are_the_laws_fitted(record: dict) -> None:
    for name, law in (("sum", Sum), ("joint", Joint)):
        fitted = record["fit"][name]["parameters"]
        numbers = {field: fitted[field][0] for field in law.__dataclass_fields__}
        assert bigmodel_scaling.loss_by(name, fitted, 3e5, 1e6) == pytest.approx(law(**numbers)(3e5, 1e6))


def test_figure_is_well_formed_inside_its_frame_and_described(record: dict) -> None:
    root = ET.fromstring(bigmodel_scaling.scaling_svg(record))
    _, _, width, height = map(float, root.get("viewBox").split())
    circles = [(float(c.get("cx")), float(c.get("cy")), c.get("class")) for c in root.iter("circle")]
    assert all(0 < x < width and 0 < y < height for x, y, _ in circles)
    cells = sum(len(by_width) for by_width in bigmodel_scaling.cells(record).values())
    assert len(circles) == cells + 1  # one in the legend
    hollow = [circle for circle in circles if circle[2] == "hollow"]
    assert len(hollow) == 1 + len(record["fit"]["sum"]["parameters"]["predictions"])
    alt = bigmodel_scaling.scaling_alt(record)
    assert alt.count("MB") == len(bigmodel_scaling.cells(record))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("device"), "lacks device"),
        (lambda record: record["runs"][0].pop("seed"), "lacks seed"),
        (lambda record: record["runs"][0].update(loss=-1.0), "a loss is not positive and finite"),
    ],
)
def test_a_record_that_lacks_something_is_refused(change, message: str, record: dict, tmp_path: Path) -> None:
    broken = json.loads(json.dumps(record))
    change(broken)
    (tmp_path / "scaling.json").write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(ExtensionError, match=message):
        bigmodel_scaling.load_scaling(tmp_path / "scaling.json")


def test_runs_are_told_with_what_repeats_them(record: dict) -> None:
    text = bigmodel_scaling.runs_markdown(record)
    for part in (record["command"], record["device"], record["torch"], record["data"]):
        assert part in text
    for run in record["runs"]:
        assert f"{run['loss']:.4f}" in text
