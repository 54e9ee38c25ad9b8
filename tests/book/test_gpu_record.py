"""The tables of one graphics card, and what the results page says of them."""

import copy
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from bigmodel_gpu import images_markdown, load_gpu, share, steps_markdown
from rooms import ROOT
from sphinx.errors import ExtensionError

from bigmodel_helpers.measure import budgets
from tools.records import gpu

RECORD = ROOT / "book" / "gpu.json"


@pytest.fixture
def record() -> dict[str, Any]:
    return load_gpu(RECORD)


def seconds(record: dict[str, Any], number: int) -> float:
    return statistics.median(record["steps"][number]["seconds"])


def test_it_has_the_rows_of_the_program(record: dict[str, Any]) -> None:
    assert [(step["rows"], step["compiled"]) for step in record["steps"]] == [*gpu.STEPS]
    rows = [(run["recipe"], run["batch_size"], run["compiled"]) for run in record["images"]]
    assert rows == [*gpu.IMAGES]
    assert record["flops_per_token"] == budgets.training_flops(gpu.GPT2, 1024)


def test_the_floor_of_the_peak_holds(record: dict[str, Any]) -> None:
    assert share(record, record["steps"][-1]) > 0.45


def test_what_the_page_says_of_the_compiled_loss(record: dict[str, Any]) -> None:
    plain, network, loss, _ = (seconds(record, number) for number in range(4))
    assert (network - loss) / (plain - network) == pytest.approx(1, abs=0.2)
    memory = [step["peak_bytes"] for step in record["steps"]]
    assert memory[2] / memory[1] == pytest.approx(0.5, abs=0.02)
    assert 32 * 1024 / loss > 475_700


def test_what_the_page_says_of_launches(record: dict[str, Any]) -> None:
    plain, compiled, graphs, larger = (
        statistics.median(run["images_per_second"]) for run in record["images"][2:]
    )
    assert compiled < 1.05 * plain < graphs < larger


def test_tables_show_each_row(record: dict[str, Any]) -> None:
    steps, images = steps_markdown(record), images_markdown(record)
    assert steps.count("network and loss") == 2
    assert "45.9\u00a0%" in steps
    assert images.count("`train_resnet`") == 4
    assert all("NVIDIA H200" in text and "torch 2.11" in text for text in (steps, images))


def test_a_share_above_one_is_refused(record: dict[str, Any], tmp_path: Path) -> None:
    wrong = copy.deepcopy(record)
    wrong["steps"][0]["seconds"] = [0.001]
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(wrong), encoding="utf-8")
    with pytest.raises(ExtensionError, match="nothing: a share of the peak outside"):
        load_gpu(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ExtensionError, match="lacks command, device"):
        load_gpu(path)
