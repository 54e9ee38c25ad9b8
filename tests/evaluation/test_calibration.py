"""Calibration: bins and error against another way to compute them, temperature against a grid."""

import math

import pytest
import torch
import torch.nn.functional as F

from bigmodel_helpers.evaluation import expected_calibration_error, fit_temperature, reliability


def calibrated(n, seed, temperature=1.0):
    """Draw logits and labels of a model whose probabilities are right after division by `temperature`."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits * temperature, labels


def test_bins_hold_what_a_loop_finds():
    logits, labels = calibrated(500, 0)
    confidences, accuracies, counts = reliability(logits, labels, bins=7)
    probability, answer = logits.softmax(1).max(1)
    for b in range(7):
        inside = (probability >= b / 7) & (probability < (b + 1) / 7)
        assert counts[b] == inside.sum()
        if inside.any():
            assert confidences[b] == pytest.approx(probability[inside].mean().item())
            assert accuracies[b] == pytest.approx((answer == labels)[inside].double().mean().item())
        else:
            assert confidences[b].isnan()


def test_a_confidence_of_one_lies_in_the_last_bin():
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    confidences, accuracies, counts = reliability(logits, torch.tensor([0, 0]), bins=4)
    assert counts.tolist() == [0, 0, 0, 2]
    assert (confidences[3].item(), accuracies[3].item()) == (1.0, 0.5)
    assert expected_calibration_error(logits, torch.tensor([0, 0]), bins=4) == 0.5


def test_error_of_a_calibrated_model_shrinks_with_examples_and_that_of_another_does_not():
    errors = [expected_calibration_error(*calibrated(n, 1)) for n in (200, 2000, 50_000)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01 < 0.1 < expected_calibration_error(*calibrated(50_000, 1, temperature=4))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_found_again(temperature):
    logits, labels = calibrated(20_000, 2, temperature)
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(temperature, rel=0.05)
    best = F.cross_entropy(logits / fitted, labels)
    for factor in (0.98, 1.02):
        assert F.cross_entropy(logits / (fitted * factor), labels) > best


def test_temperature_takes_float32_and_leaves_the_logits_alone():
    logits, labels = calibrated(1000, 3)
    single = logits.float().requires_grad_()
    before = single.detach().clone()
    assert fit_temperature(single, labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-4)
    assert torch.equal(single, before)
    assert single.grad is None


@pytest.mark.parametrize("logits", [20 * torch.eye(4), 3 * torch.eye(4), -torch.eye(4), torch.ones(4, 4)])
def test_temperature_without_a_best_value_is_refused(logits):
    with pytest.raises(ValueError, match="no temperature is best"):
        fit_temperature(logits, torch.arange(4))


@pytest.mark.parametrize(
    ("logits", "labels", "bins"),
    [
        (torch.ones(3), torch.zeros(3), 5),
        (torch.ones(3, 2), torch.zeros(2), 5),
        (torch.ones(3, 2), torch.zeros(3), 0),
    ],
)
def test_shapes_that_do_not_fit_are_refused(logits, labels, bins):
    with pytest.raises(ValueError, match="at least 1 bin"):
        reliability(logits, labels, bins)
    assert math.isfinite(expected_calibration_error(torch.ones(1, 2), torch.tensor([0])))
