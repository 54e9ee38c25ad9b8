"""Risk and coverage: by hand, and the interval of the area by simulation."""

import pytest
import torch
from scipy import stats

from bigmodel_helpers.evaluation import risk_coverage, risk_coverage_area


def test_risk_by_hand():
    confidence, right = torch.tensor([0.9, 0.2, 0.7, 0.5]), torch.tensor([True, False, False, True])
    coverage, risk = risk_coverage(confidence, right)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert risk_coverage_area(confidence, right).value == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_risk_of_equal_confidences_does_not_depend_on_their_order():
    right = torch.tensor([True, True, False, False])
    for order in (right, right.flip(0)):
        assert risk_coverage(torch.ones(4), order)[1].tolist() == [0.5] * 4


def test_risk_falls_with_coverage_where_confidence_means_something():
    generator = torch.Generator().manual_seed(2)
    confidence = torch.rand(4000, generator=generator)
    right = torch.rand(4000, generator=generator) < confidence
    coverage, risk = risk_coverage(confidence, right)
    assert risk[-1] == pytest.approx((~right).double().mean().item())
    assert risk[400] < risk[2000] < risk[-1]
    good, bad = (risk_coverage_area(c, right, draws=200) for c in (confidence, 1 - confidence))
    assert good.high < risk[-1] < bad.low
    assert good.low < risk.mean() < good.high
    assert coverage[-1] == 1


def test_intervals_hold_the_truth_as_often_as_they_say():
    truth, trials, held = 0.25, 150, 0  # confidence uniform in (0, 1): the surest share c errs with c / 2
    for trial in range(trials):
        generator = torch.Generator().manual_seed(trial)
        confidence = torch.rand(200, generator=generator)
        right = torch.rand(200, generator=generator) < confidence
        found = risk_coverage_area(confidence, right, draws=200, seed=trial)
        held += found.low <= truth <= found.high
    low, high = stats.binom.interval(0.999, trials, 0.93)  # percentile intervals are a little short
    assert low <= held <= high


SURE = torch.tensor([0.1, 0.9])
YES_NO = torch.tensor([True, False])


@pytest.mark.parametrize("function", [risk_coverage, risk_coverage_area])
@pytest.mark.parametrize(
    ("confidence", "right", "message"),
    [
        (SURE, YES_NO[:1], "do not fit"),
        (SURE, torch.tensor([1, 0]), "do not fit"),
        (SURE[:, None], YES_NO[:, None], "do not fit"),
        (torch.tensor([0.1, torch.nan]), YES_NO, "is NaN"),
        (torch.ones(0), torch.ones(0, dtype=torch.bool), "there are no examples"),
    ],
)
def test_wrong_input_is_refused(function, confidence, right, message):
    with pytest.raises(ValueError, match=message):
        function(confidence, right)
