"""Chapter 1: each measured operation stands under the roof of its own number format."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from chapter_code import chapter_namespace
from torch import nn

from bigmodel_helpers import measure, runtime

STEM = "01_concepts"
PEAKS = {torch.float32: 100.0, torch.bfloat16: 1600.0}


def run_cells(monkeypatch: pytest.MonkeyPatch, device: str) -> dict[str, object]:
    """Run the cells on the CPU, which passes for `device`; every call takes one second, copies 10 bytes in it."""
    conv = torch.backends.cudnn.conv
    used = []

    def one_second(fn: object, **_: object) -> measure.Timing:
        fn()
        used.append(conv.fp32_precision)
        return measure.Timing((1.0,))

    def rate(value: float) -> measure.Rate:
        return measure.Rate((value,))

    monkeypatch.setattr(measure, "time_call", one_second)
    monkeypatch.setattr(measure, "bandwidth", lambda *_: rate(10.0))
    monkeypatch.setattr(measure, "peak_flops", lambda device, dtype, size: rate(PEAKS[dtype]))
    monkeypatch.setattr(runtime, "autocast_dtype", lambda device: torch.bfloat16)
    names = {
        "torch": torch,
        "nn": nn,
        "F": F,
        "pd": pd,
        "measure": measure,
        "runtime": runtime,
        "profile": SimpleNamespace(name="smoke"),
        "device": torch.device("cpu"),
        "side": 64,
        "megabytes": 1,
        "matrix": torch.randn(64, 64),
        "flat": torch.ones(8192),
        "target": torch.empty(8192),
    }
    if device == "cuda":
        as_card = SimpleNamespace(type="cuda")
        names |= chapter_namespace(STEM, ["limits-package"], **(names | {"device": as_card}))
        names |= {"device": torch.device("cpu")}
    else:
        names |= chapter_namespace(STEM, ["limits-package"], **names)
    cells = ["dots", "dots-memory", "dots-arithmetic", "dots-table"]
    return chapter_namespace(STEM, cells, **names) | {"used": used}


def test_the_cpu_has_one_roof(monkeypatch: pytest.MonkeyPatch) -> None:
    made = run_cells(monkeypatch, "cpu")
    assert [*made["roofs"]] == [torch.float32]
    assert [row["format"] for row in made["dots"]] == ["float32"] * 7
    intensity = {row["name"]: row["intensity"] for row in made["dots"]}
    assert intensity["add"] == pytest.approx(1 / 12)
    assert intensity["matrix 64"] == pytest.approx(64 / 6)
    assert intensity["matrix x vector"] == pytest.approx(0.5, rel=0.05)


def test_a_card_has_the_peak_of_its_16_bits_for_what_computes_in_16_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = run_cells(monkeypatch, "cuda")
    full, half = made["dots"][:7], made["dots"][7:]
    assert [row["name"] for row in full] == [row["name"] for row in half]
    for one, other in zip(full, half, strict=True):
        assert (one["roof"].peak, other["roof"].peak) == (100, 1600)
        assert other["intensity"] == pytest.approx(2 * one["intensity"])
        assert one["roof"].bandwidth == other["roof"].bandwidth == 10
    table = made["table"]
    product = full[-2]["rate"]
    assert table.loc[("float32", "matrix 64"), "of the roof"] == f"{product:.0f} %"
    limit = min(1600, 10 * half[-2]["intensity"])
    assert table.loc[("bfloat16", "matrix 64"), "of the roof"] == f"{100 * product / limit:.0f} %"


def test_a_convolution_in_fp32_is_no_convolution_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.backends.cudnn.conv.fp32_precision
    made = run_cells(monkeypatch, "cuda")
    assert [made["used"][index] for index in (6, 13)] == ["ieee", "ieee"]
    assert torch.backends.cudnn.conv.fp32_precision == before
    assert torch.backends.cudnn.allow_tf32 in (True, False)  # raises where old and new settings disagree
