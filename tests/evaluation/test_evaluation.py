"""Predictions, proportions with intervals, confusion matrix; scikit-learn and SciPy are the judges."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest
from sklearn import metrics
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bigmodel_helpers.evaluation import (
    Proportion,
    accuracy,
    bits_per_byte,
    classification_report,
    confusion_matrix,
    most_confident_mistakes,
    per_class_accuracy,
    perplexity,
    predict,
    top_k,
)

CLASSES = tuple("abcde")
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def make_model(device="cpu"):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 5)
    model = nn.Sequential(*layers).to(device)
    model[1].running_mean += 0.3
    return model


def make_batches(n=10, size=4):
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(n, 3, 8, 8), torch.arange(n) % 5), batch_size=size)


@pytest.fixture
def answers():
    """Logits and labels of 400 examples, about half of them right."""
    torch.manual_seed(2)
    labels = torch.randint(0, 5, (400,))
    return torch.randn(400, 5) + 1.5 * nn.functional.one_hot(labels, 5), labels


@pytest.mark.parametrize("device", DEVICES)
def test_predict_equals_a_plain_forward_pass_in_evaluation_mode(device):
    model, batches = make_model(device), make_batches()
    logits, labels = predict(model, batches)
    images, expected_labels = batches.dataset.tensors
    with torch.no_grad():
        expected = model.eval()(images.to(device)).cpu()
    torch.testing.assert_close(logits, expected)
    assert torch.equal(labels, expected_labels)
    assert (logits.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert not logits.requires_grad
    assert logits.device.type == labels.device.type == "cpu"


def test_predict_leaves_each_module_in_its_mode_and_the_statistics_alone():
    model = make_model().train()
    model[1].eval()  # frozen statistics, as in fine-tuning
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predict(model, make_batches())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_predict_restores_the_modes_after_an_error():
    model = make_model().train()
    with pytest.raises(RuntimeError):
        predict(model, [(torch.zeros(1, 7, 8, 8), torch.zeros(1))])
    assert all(module.training for module in model.modules())


def test_predict_mirror_averages_both_views():
    model, batches = make_model(), make_batches()
    logits, _ = predict(model, batches, mirror=True)
    images = batches.dataset.tensors[0]
    with torch.no_grad():
        expected = (model.eval()(images) + model(torch.flip(images, [3]))) / 2
    torch.testing.assert_close(logits, expected)
    mirrored = [(x.flip(3), y) for x, y in batches]
    torch.testing.assert_close(predict(model, mirrored, mirror=True)[0], logits)
    assert not torch.allclose(predict(model, mirrored)[0], predict(model, batches)[0])


def test_predict_computes_in_the_asked_format_and_returns_float32():
    model, seen = make_model(), []
    model[4].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    logits, _ = predict(model, make_batches(), dtype=torch.bfloat16)
    full, _ = predict(model, make_batches())
    assert seen == [torch.bfloat16] * 3 + [torch.float32] * 3
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, full)
    torch.testing.assert_close(logits, full, atol=0.05, rtol=0.05)


def test_predict_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="no batch"):
        predict(make_model(), [])
    with pytest.raises(ValueError, match="no parameters"):
        predict(nn.Flatten(), make_batches())


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "total"), [(0, 1), (1, 1), (0, 30), (30, 30), (7, 20), (8810, 10000)])
def test_interval_is_that_of_scipy(successes, total, level):
    expected = binomtest(successes, total).proportion_ci(level, method="wilson")
    assert Proportion(successes, total).interval(level) == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize("true_proportion", [0.3, 0.88, 0.97])
def test_95_percent_of_the_intervals_hold_the_true_proportion(true_proportion):
    draws = np.random.default_rng(0).binomial(500, true_proportion, size=4000)
    intervals = [Proportion(int(successes), 500).interval() for successes in draws]
    coverage = np.mean([low <= true_proportion <= high for low, high in intervals])
    assert coverage == pytest.approx(0.95, abs=0.015)


def test_proportion_value_and_text():
    assert Proportion(881, 1000).value == 0.881
    assert str(Proportion(8810, 10000)) == "88.1 % (87.5-88.7)"
    assert str(Proportion(10, 10)) == "100.0 % (72.2-100.0)"


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_proportions_are_refused(successes, total):
    with pytest.raises(ValueError, match="no proportion"):
        Proportion(successes, total)


def test_accuracy_and_top_k_agree_with_scikit_learn(answers):
    logits, labels = answers
    expected = metrics.accuracy_score(labels, logits.argmax(1), normalize=False)
    assert accuracy(logits, labels) == Proportion(int(expected), 400)
    for k in (1, 2, 3):
        expected = metrics.top_k_accuracy_score(labels, logits, k=k, normalize=False)
        assert top_k(logits, labels, k) == Proportion(int(expected), 400)
    assert top_k(logits, labels, 5) == Proportion(400, 400)


def test_confusion_matrix_agrees_with_scikit_learn(answers):
    logits, labels = answers
    matrix = confusion_matrix(logits, labels, 5)
    assert np.array_equal(matrix, metrics.confusion_matrix(labels, logits.argmax(1)))
    assert matrix.dtype == torch.int64
    assert torch.equal(confusion_matrix(logits.argmax(1), labels, 5), matrix)
    one = confusion_matrix(torch.tensor([2]), torch.tensor([1]), 4)
    assert one.shape == (4, 4)
    assert one[1, 2] == one.sum() == 1


def test_per_class_accuracy_is_the_recall_of_each_class(answers):
    logits, labels = answers
    proportions = per_class_accuracy(logits, labels, CLASSES)
    assert tuple(proportions) == CLASSES
    expected = metrics.recall_score(labels, logits.argmax(1), average=None)
    assert [p.value for p in proportions.values()] == pytest.approx(expected)
    assert [p.total for p in proportions.values()] == labels.bincount().tolist()


def test_most_confident_mistakes_are_wrong_and_sorted():
    #                       right       wrong .73   wrong .95   right       wrong .99995
    logits = torch.tensor([[9.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 1.0], [10.0, 0.0]])
    labels = torch.tensor([0, 1, 0, 1, 1])
    assert most_confident_mistakes(logits, labels, 2).tolist() == [4, 2]
    assert most_confident_mistakes(logits, labels, 10).tolist() == [4, 2, 1]
    # the confidence counts, not the size of the logits
    shifted = logits + torch.tensor([0.0, 100.0, 0.0, 0.0, -100.0])[:, None]
    assert most_confident_mistakes(shifted, labels, 10).tolist() == [4, 2, 1]
    # both are 1.0 in float32
    close = most_confident_mistakes(torch.tensor([[20.0, 0.0], [22.0, 0.0]]), torch.tensor([1, 1]), 2)
    assert close.tolist() == [1, 0]


def test_report_is_that_of_scikit_learn(answers):
    logits, labels = answers
    report = classification_report(logits, labels, CLASSES, draws=50)
    predictions = logits.argmax(1)
    each = metrics.precision_recall_fscore_support(labels, predictions, average=None)
    for column, kind in enumerate(("precision", "recall", "F1")):
        assert [report[name][kind].value for name in CLASSES] == pytest.approx(each[column])
    for average in ("macro", "micro"):
        expected = metrics.precision_recall_fscore_support(labels, predictions, average=average)[:3]
        assert [found.value for found in report[average].values()] == pytest.approx(expected)
    assert report["micro"]["F1"].value == accuracy(logits, labels).value
    assert all(found.low < found.value < found.high for row in report.values() for found in row.values())
    assert classification_report(predictions, labels, CLASSES, draws=50) == report


def test_report_of_a_class_that_never_occurs_is_left_out_of_the_mean():
    labels, predictions = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    report = classification_report(predictions, labels, "abc", draws=20)
    assert all(math.isnan(found.value) for found in report["c"].values())
    assert report["macro"]["recall"].value == pytest.approx((1 / 2 + 1) / 2)
    assert report["macro"]["F1"].value == pytest.approx(
        metrics.f1_score(labels, predictions, average="macro")
    )


def test_report_intervals_hold_the_truth_as_often_as_they_say():
    joint = torch.tensor([[0.35, 0.1, 0.05], [0.1, 0.2, 0.0], [0.05, 0.05, 0.1]], dtype=torch.float64)
    given, true, hits = joint.sum(0), joint.sum(1), joint.diagonal()
    truth = {"precision": hits / given, "recall": hits / true, "F1": 2 * hits / (given + true)}
    generator, trials, held = torch.Generator().manual_seed(0), 200, dict.fromkeys(truth, 0)
    for trial in range(trials):
        cells = torch.multinomial(joint.flatten(), 200, replacement=True, generator=generator)
        found = classification_report(cells % 3, cells // 3, "xyz", draws=200, seed=trial)["macro"]
        for kind, values in truth.items():
            held[kind] += found[kind].low <= values.mean() <= found[kind].high
    low, high = binom.interval(0.999, trials, 0.93)
    assert all(low <= count <= high for count in held.values()), held


def test_micro_interval_is_about_that_of_wilson(answers):
    logits, labels = answers
    found = classification_report(logits, labels, CLASSES, draws=2000)["micro"]["F1"]
    assert (found.low, found.high) == pytest.approx(accuracy(logits, labels).interval(), abs=0.008)
    wider = classification_report(logits, labels, CLASSES, draws=500, level=0.99)["micro"]["F1"]
    assert wider.high - wider.low > found.high - found.low


def test_perplexity_and_bits_per_byte_tell_the_same():
    losses, tokens, sizes = torch.tensor([60.0, 30.0]), torch.tensor([20, 30]), torch.tensor([80, 100])
    assert perplexity(losses, tokens).value == pytest.approx(math.exp(90 / 50))
    bits = bits_per_byte(losses, sizes)
    assert bits.value == pytest.approx(90 / math.log(2) / 180)
    assert bits.low == pytest.approx(30 / math.log(2) / 100)
    assert perplexity(losses, tokens).value ** (50 / 180) == pytest.approx(2**bits.value)


def test_bits_per_byte_intervals_hold_the_truth_as_often_as_they_say():
    generator, trials, held = torch.Generator().manual_seed(1), 200, 0
    for trial in range(trials):
        sizes = torch.randint(500, 1500, (60,), generator=generator)
        rate = 2 + 0.3 * torch.randn(
            60, generator=generator
        )  # bits per byte differ from document to document
        found = bits_per_byte(sizes * rate * math.log(2), sizes, draws=200, seed=trial)
        held += found.low <= 2 <= found.high
    low, high = binom.interval(0.999, trials, 0.93)
    assert low <= held <= high


NAN = torch.full((2, 3), float("nan"))
GOOD, TWO = torch.zeros(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy(NAN, TWO), "hold NaN"),
        (lambda: confusion_matrix(NAN, TWO, 3), "hold NaN"),
        (lambda: most_confident_mistakes(NAN, TWO, 1), "hold NaN"),
        (lambda: accuracy(GOOD, TWO[:1]), r"\(2, 3\) and \(1,\)"),
        (lambda: accuracy(GOOD[0], TWO), r"\(3,\) and \(2,\)"),
        (lambda: top_k(GOOD, TWO, 4), "top 4 of 3"),
        (lambda: top_k(GOOD, TWO, 0), "top 0 of 3"),
        (lambda: confusion_matrix(TWO, TWO[:1], 3), r"\(2,\) and \(1,\)"),
        (lambda: confusion_matrix(TWO, TWO, 1), "go from 0 to 1, n_classes is 1"),
        (lambda: confusion_matrix(TWO, TWO - 1, 3), "go from -1 to 1"),
        (lambda: per_class_accuracy(GOOD, TWO, "xyz"), "class 'z' has no example"),
        (lambda: classification_report(NAN, TWO, "xyz"), "hold NaN"),
        (lambda: classification_report(TWO, TWO, "x"), "n_classes is 1"),
        (lambda: classification_report(TWO, TWO, ["x", "macro"]), "no class called macro"),
        (lambda: classification_report(TWO[:0], TWO[:0], "xy"), "0 examples of 2 classes"),
        (lambda: perplexity(torch.ones(2), torch.ones(3)), r"\(2,\) and \(3,\)"),
        (lambda: bits_per_byte(torch.ones(2), torch.tensor([3, 0])), "sizes above 0"),
        (lambda: bits_per_byte(torch.ones(1), torch.ones(1)), "at least 2"),
    ],
)
def test_wrong_input_is_refused_with_the_cause(call, message):
    with pytest.raises(ValueError, match=message):
        call()
