"""The two limits of a device: counted right, and put together right."""

import pytest
import torch

from bigmodel_helpers import measure
from bigmodel_helpers.measure import roofline


def test_peak_flops_counts_two_per_multiply_add(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(torch, "mm", lambda a, b: calls.append((tuple(a.shape), a.dtype, b.dtype)))
    rate = measure.peak_flops("cpu", torch.bfloat16, size=500, repeats=2)
    assert rate.unit == "FLOP"
    assert len(rate.values) == 2
    assert calls == [((500, 500), torch.bfloat16, torch.bfloat16)] * (3 * 16)


def test_items_are_divided_by_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    def record(fn: object, items: int, **options: object) -> measure.Rate:
        counted.append((items, options["unit"]))
        return measure.Rate((1.0,), str(options["unit"]))

    monkeypatch.setattr(roofline, "throughput", record)
    measure.bandwidth("cpu", megabytes=3)
    measure.peak_flops("cpu", size=1000)
    assert counted == [(6_000_000, "byte"), (4_000_000_000, "FLOP")]


def test_measured_limits_are_plausible() -> None:
    assert 1e8 < measure.peak_flops("cpu", size=256, repeats=1).median < 1e16
    assert 1e8 < measure.bandwidth("cpu", megabytes=16, repeats=1).median < 1e14


def test_roof_rises_to_the_ridge_and_stays() -> None:
    roof = measure.Roofline(peak=200.0, bandwidth=20.0)
    assert roof.ridge == 10
    assert [roof.attainable(x) for x in (0.5, 10, 1000)] == [10, 200, 200]
