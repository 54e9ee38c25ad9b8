"""The page of the model that one command makes says what its record holds."""

import importlib
import json
import sys
from dataclasses import asdict
from typing import Any

import pytest
from rooms import ROOT

LAUNCH = ROOT / "book" / "launch"


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads((ROOT / "book" / "model.json").read_text(encoding="utf-8"))


def test_it_is_a_run_of_the_program_as_it_stands(
    record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(LAUNCH)])
    sizes = importlib.import_module("model_sizes").PROFILES["laptop"]
    assert record["options"] == json.loads(json.dumps(asdict(sizes)))


def test_half_an_hour_was_enough(record: dict[str, Any]) -> None:
    costs = record["cost"].values()
    assert all(one["attempts"] == 1 for one in costs)
    assert sum(one["seconds"] for one in costs) < 30 * 60


def test_the_control_had_about_the_time_of_the_reward(record: dict[str, Any]) -> None:
    ratio = record["cost"]["control"]["seconds"] / record["cost"]["reinforce"]["seconds"]
    assert 0.8 < ratio < 1.1


def test_what_the_page_says_of_control_and_reward(record: dict[str, Any]) -> None:
    differences = record["differences"]
    value, low, high = differences["reinforced minus instructed for longer, greedy"]
    assert low < value < high < 0
    value, low, high = differences["reinforced minus instructed, drawn"]
    assert 0 < low < value < high


def test_no_model_has_learned_to_add(record: dict[str, Any]) -> None:
    assert max(row["by_task"]["addition"] for row in record["board"].values()) < 0.05
    assert record["options"]["solved"] / 7 == 1500
