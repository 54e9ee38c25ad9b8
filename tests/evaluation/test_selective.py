"""ROC, precision and recall, risk and coverage: against scikit-learn, by hand, and intervals by simulation."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from bigmodel_helpers.evaluation import (
    average_precision,
    precision_recall_curve,
    risk_coverage,
    risk_coverage_area,
    roc_auc,
    roc_curve,
)


def draw(n, seed, ties=False, share=0.3):
    """Return scores and truth, positives one unit higher on average; with `ties` only a few different scores."""
    generator = torch.Generator().manual_seed(seed)
    positive = torch.rand(n, generator=generator) < share
    scores = torch.randn(n, generator=generator) + positive
    return (scores.mul(2).round() if ties else scores), positive


@pytest.mark.parametrize("ties", [False, True])
def test_roc_is_that_of_scikit_learn(ties):
    scores, positive = draw(300, 0, ties)
    ours = roc_curve(scores, positive)
    theirs = metrics.roc_curve(positive, scores, drop_intermediate=False)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert roc_auc(scores, positive, draws=2).value == pytest.approx(metrics.roc_auc_score(positive, scores))


@pytest.mark.parametrize("ties", [False, True])
def test_precision_and_recall_are_those_of_scikit_learn(ties):
    scores, positive = draw(300, 1, ties)
    ours = precision_recall_curve(scores, positive)
    theirs = metrics.precision_recall_curve(positive, scores)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.flip(0), b[: len(a)], rtol=1e-6)
    expected = metrics.average_precision_score(positive, scores)
    assert average_precision(scores, positive, draws=2).value == pytest.approx(expected)


def test_area_is_the_chance_that_a_positive_is_higher():
    scores, positive = torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([True, True, False, False])
    assert roc_auc(scores, positive, draws=20).value == 3.5 / 4
    assert roc_auc(-scores, positive, draws=20).value == 0.5 / 4


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


def auc_of_two_normals():
    return stats.norm.cdf(1 / 2**0.5)


def ap_of_two_normals():
    scores, positive = draw(400_000, 99)
    return metrics.average_precision_score(positive, scores)


def aurc_of_fair_confidence():
    return 0.25  # confidence uniform in (0, 1): the surest share c errs with c / 2


@pytest.mark.parametrize(
    ("metric", "truth"),
    [
        (roc_auc, auc_of_two_normals),
        (average_precision, ap_of_two_normals),
        (risk_coverage_area, aurc_of_fair_confidence),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(metric, truth):
    value, trials, held = truth(), 150, 0
    for trial in range(trials):
        scores, flags = draw(200, trial)
        if metric is risk_coverage_area:
            generator = torch.Generator().manual_seed(trial)
            scores = torch.rand(200, generator=generator)
            flags = torch.rand(200, generator=generator) < scores
        found = metric(scores, flags, draws=200, seed=trial)
        held += found.low <= value <= found.high
    low, high = stats.binom.interval(0.999, trials, 0.93)  # percentile intervals are a little short
    assert low <= held <= high


GOOD = torch.tensor([0.1, 0.9])
YES_NO = torch.tensor([True, False])


@pytest.mark.parametrize(
    "function",
    [roc_curve, precision_recall_curve, roc_auc, average_precision, risk_coverage, risk_coverage_area],
)
@pytest.mark.parametrize(
    ("scores", "flags", "message"),
    [
        (GOOD, YES_NO[:1], "do not fit"),
        (GOOD, torch.tensor([1, 0]), "do not fit"),
        (GOOD[:, None], YES_NO[:, None], "do not fit"),
        (torch.tensor([0.1, torch.nan]), YES_NO, "are NaN"),
        (torch.ones(0), torch.ones(0, dtype=torch.bool), "there are no scores"),
    ],
)
def test_wrong_input_is_refused(function, scores, flags, message):
    with pytest.raises(ValueError, match=message):
        function(scores, flags)


@pytest.mark.parametrize("function", [roc_curve, precision_recall_curve, roc_auc, average_precision])
@pytest.mark.parametrize("flag", [True, False])
def test_one_kind_of_examples_has_no_curve(function, flag):
    with pytest.raises(ValueError, match="of one kind"):
        function(GOOD, torch.tensor([flag, flag]))
