"""Intervals, tests and sample sizes: against SciPy where it has them, and by simulation."""

import math

import pytest
import torch
from scipy import stats

from bigmodel_helpers.evaluation import (
    Estimate,
    McNemar,
    VarianceSplit,
    bootstrap,
    examples_needed,
    holm,
    mcnemar,
    power,
    variance_split,
)


def answers(generator, n, accuracy_a, accuracy_b, disagreement):
    """Draw whether two models are right, with these accuracies and this share of examples with one right."""
    only_b = (disagreement + accuracy_b - accuracy_a) / 2
    only_a = disagreement - only_b
    kind = torch.rand(n, generator=generator)
    both = kind >= disagreement
    right = torch.rand(n, generator=generator) < (accuracy_a - only_a) / (1 - disagreement)
    return torch.where(both, right, kind < only_a), torch.where(both, right, kind >= only_a)


def test_bootstrap_agrees_with_scipy():
    sample = torch.randn(80, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = bootstrap(torch.mean, sample, draws=4000)
    theirs = stats.bootstrap(
        (sample.numpy(),), lambda x, axis: x.mean(axis), n_resamples=4000, method="percentile", rng=0
    ).confidence_interval
    assert ours.value == pytest.approx(sample.mean().item())
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.02)


def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say():
    generator, held = torch.Generator().manual_seed(2), 0
    trials = 300
    for trial in range(trials):
        sample = torch.rand(60, generator=generator) < 0.7
        estimate = bootstrap(lambda x: x.float().mean(), sample, draws=300, seed=trial)
        held += estimate.low <= 0.7 <= estimate.high
    low, high = stats.binom.interval(0.999, trials, 0.93)  # percentile intervals are a little short
    assert low <= held <= high


def test_bootstrap_keeps_pairs_together():
    a = torch.arange(50.0)
    estimate = bootstrap(lambda x, y: (y - x).mean(), a, a + 1)
    assert (estimate.value, estimate.low, estimate.high) == (1, 1, 1)


def test_bootstrap_is_reproducible_and_leaves_the_global_generator_alone():
    sample = torch.randn(30)
    state = torch.get_rng_state()
    assert bootstrap(torch.median, sample, seed=3) == bootstrap(torch.median, sample, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_bootstrap_leaves_out_draws_without_a_value():
    sample = torch.tensor([1.0] * 9 + [0.0])
    estimate = bootstrap(lambda x: x[x == 0].float().mean() + 1, sample)
    assert (estimate.low, estimate.high) == (1, 1)
    with pytest.raises(ValueError, match="draws have no value"):
        bootstrap(lambda _: math.nan, sample)


@pytest.mark.parametrize("samples", [(), (torch.ones(1),), (torch.ones(3), torch.ones(4))])
def test_bootstrap_refuses_samples_that_do_not_fit(samples):
    with pytest.raises(ValueError, match="one common length"):
        bootstrap(torch.mean, *samples)


def test_estimate_is_printed_with_its_interval():
    assert str(Estimate(0.0341, 0.012, 0.0569)) == "0.034 (0.012 to 0.057)"


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (3, 9), (25, 25), (40, 70), (900, 1100)])
def test_mcnemar_equals_the_exact_binomial_test(only_a, only_b):
    right_a = torch.tensor([True] * only_a + [False] * only_b + [True] * 5 + [False] * 4)
    right_b = torch.tensor([False] * only_a + [True] * only_b + [True] * 5 + [False] * 4)
    result = mcnemar(right_a, right_b)
    assert (result.only_a, result.only_b) == (only_a, only_b)
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert result.p_value == pytest.approx(expected)


def test_mcnemar_seldom_calls_a_difference_where_there_is_none():
    generator = torch.Generator().manual_seed(4)
    trials = 2000
    false_calls = sum(mcnemar(*answers(generator, 400, 0.9, 0.9, 0.1)).p_value < 0.05 for _ in range(trials))
    assert false_calls <= stats.binom.isf(0.001, trials, 0.05)


def test_mcnemar_refuses_what_is_not_paired():
    with pytest.raises(ValueError, match="two bool tensors"):
        mcnemar(torch.ones(3, dtype=torch.bool), torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="two bool tensors"):
        mcnemar(torch.ones(3), torch.ones(3))
    assert str(McNemar(3, 9, 0.1459)) == "only A right 3, only B right 9, p = 0.146"


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.2])


def test_holm_keeps_the_chance_of_any_false_call():
    generator = torch.Generator().manual_seed(5)
    trials = 2000
    p_values = torch.rand(trials, 10, generator=generator).tolist()
    any_call = sum(min(p) < 0.05 for p in p_values)
    after = sum(min(holm(p)) < 0.05 for p in p_values)
    assert any_call > 0.3 * trials
    assert after <= stats.binom.isf(0.001, trials, 0.05)


@pytest.mark.parametrize(("n", "difference", "disagreement"), [(500, 0.03, 0.1), (2000, 0.02, 0.08)])
def test_power_is_the_share_of_simulated_tests_that_find_the_difference(n, difference, disagreement):
    generator = torch.Generator().manual_seed(6)
    trials = 1000
    found = sum(
        mcnemar(*answers(generator, n, 0.85, 0.85 + difference, disagreement)).p_value < 0.05
        for _ in range(trials)
    )
    assert found / trials == pytest.approx(power(n, difference, disagreement), abs=0.06)


def test_power_grows_with_examples_and_is_alpha_without_a_difference():
    chances = [power(n, 0.01, 0.05) for n in (100, 1000, 10_000, 100_000)]
    assert chances == sorted(chances)
    assert chances[-1] > 0.999
    assert power(1000, 0.0, 0.05) == pytest.approx(0.05)
    with pytest.raises(ValueError, match=r"a disagreement from \|difference\| to 1"):
        power(100, 0.1, 0.05)


def test_examples_needed_is_the_smallest_number_with_that_power():
    n = examples_needed(0.01, 0.05)
    assert power(n, 0.01, 0.05) >= 0.8 > power(n - 1, 0.01, 0.05)
    assert examples_needed(-0.01, 0.05) == n
    with pytest.raises(ValueError, match="no number of examples"):
        examples_needed(0.0, 0.05)


def trainings(seed, count, n, between, hard):
    """Draw answers of trainings whose true accuracies differ by `between`, on examples as hard as `hard` says."""
    generator = torch.Generator().manual_seed(seed)
    effect = between * torch.randn(count, 1, generator=generator)
    example = hard * (2 * (torch.rand(1, n, generator=generator) < 0.5) - 1)
    return torch.rand(count, n, generator=generator) < 0.7 + effect + example


@pytest.mark.parametrize(("between", "off"), [(0.0, 0.01), (0.03, 0.003)])
def test_variance_split_finds_both_parts(between, off):
    found = [variance_split(trainings(seed, 8, 500, between, 0.2)) for seed in range(200)]
    training = torch.tensor([one.training for one in found]).square().mean().sqrt().item()
    assert training == pytest.approx(between, abs=off)  # where it is none, chance adds a little
    expected = math.sqrt(0.7 * 0.3 / 500)  # the examples make the accuracy of one training binomial
    assert torch.tensor([one.test for one in found]).mean() == pytest.approx(expected, rel=0.05)
    means = torch.tensor([one.accuracy for one in found])
    of_mean = torch.tensor([one.of_mean for one in found]).square().mean().sqrt().item()
    assert means.std().item() == pytest.approx(of_mean, rel=0.2)


def test_trainings_that_agree_leave_only_the_test_examples():
    one = torch.rand(1, 300, generator=torch.Generator().manual_seed(3)) < 0.8
    found = variance_split(one.expand(4, 300))
    p = one.double().mean().item()
    assert found == VarianceSplit(
        p, 0.0, pytest.approx(math.sqrt(p * (1 - p) / 299)), pytest.approx(found.test)
    )


@pytest.mark.parametrize("shape", [(300,), (1, 300), (5, 1)])
def test_variance_of_one_training_cannot_be_split(shape):
    with pytest.raises(ValueError, match="2 or more trainings"):
        variance_split(torch.ones(shape))
