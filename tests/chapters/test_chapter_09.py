"""Chapter 9: its hand-written code against the package's and others', in settings that it does not show."""

import io
import math
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from chapter_code import chapter_namespace
from PIL import Image
from scipy import ndimage, stats
from sklearn import metrics
from torch import nn

from bigmodel_helpers import data, evaluation, figures, runtime

STEM = "09_evaluation"
CELLS = [
    "learn",
    "mean-interval",
    "video",
    "video-run",
    "selection",
    "finder",
    "f1-by-hand",
    "curves-by-hand",
    "topk",
    "language-models",
    "wilson",
    "coverage",
    "bootstrap",
    "variance",
    "mcnemar",
    "paired",
    "holm",
    "power",
    "power-draw",
    "power-setting",
    "power-frame",
    "ece-by-hand",
    "ece-bias",
    "temperature-by-hand",
    "selective",
    "corruptions-by-hand",
    "corruptions-more",
    "corruptions-kinds",
    "slices-test",
    "ex-09-macro-solution",
    "ex-09-groups-solution",
    "ex-09-swap-solution",
    "ex-09-promise-solution",
]


def answers(n: int = 240, classes: int = 10, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and labels of a model that is right about two times in three."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    return torch.randn(n, classes, generator=generator) + 2.5 * F.one_hot(labels, classes), labels


LOGITS, LABELS = answers()
RIGHT = LOGITS.argmax(1) == LABELS
PHOTOS = torch.randint(0, 256, (12, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
NAMES: dict[str, Any] = {
    "io": io,
    "Image": Image,
    "math": math,
    "np": np,
    "pd": pd,
    "torch": torch,
    "nn": nn,
    "F": F,
    "stats": stats,
    "metrics": metrics,
    "NormalDist": NormalDist,
    "data": data,
    "evaluation": evaluation,
    "figures": figures,
    "profile": runtime.get_profile("smoke"),
    "device": torch.device("cpu"),
    "real": False,
    "whole": False,
    "logits_a": LOGITS,
    "logits_mirrored": LOGITS + 0.3,
    "labels": LABELS,
    "right_a": RIGHT,
    "right_b": RIGHT,
    "logits_b": LOGITS,
    "world": torch.zeros(len(LABELS)),
    "T": 1.0,
    "some": SimpleNamespace(images=PHOTOS),
    "choose": torch.arange(0, 100),
    "judge": torch.arange(100, 240),
    "p_values": [[0.2, 0.01, 0.5]],
} | {f"check_{name}": lambda: None for name in ("macro", "groups", "swap", "promise")}
CHAPTER = chapter_namespace(STEM, CELLS, **NAMES)


def scores(n: int, seed: int, ties: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    positive = torch.rand(n, generator=generator) < 0.3
    found = torch.randn(n, generator=generator, dtype=torch.float64) + positive
    return (found.mul(2).round() if ties else found), positive


def test_precision_recall_and_f1_equal_the_package_and_scikit_learn() -> None:
    logits, labels = answers(500, 6, seed=1)
    matrix = CHAPTER["confusion"](logits.argmax(1), labels, 6)
    assert torch.equal(matrix, evaluation.confusion_matrix(logits, labels, 6))
    ours = torch.stack(CHAPTER["scores_by_class"](matrix))
    report = evaluation.classification_report(logits, labels, "abcdef", draws=10)
    packaged = torch.tensor([[report[c][k].value for c in "abcdef"] for k in report["a"]])
    torch.testing.assert_close(ours, packaged)
    expected = metrics.f1_score(labels, logits.argmax(1), average="macro")
    assert CHAPTER["macro_f1"](matrix) == pytest.approx(expected)
    assert report["macro"]["F1"].value == pytest.approx(expected)


@pytest.mark.parametrize("ties", [False, True])
def test_curves_and_their_areas_equal_scikit_learn(ties: bool) -> None:
    found, positive = pair = scores(250, 3, ties)
    assert CHAPTER["auc"](*pair) == pytest.approx(metrics.roc_auc_score(positive, found))
    expected = metrics.average_precision_score(positive, found)
    assert CHAPTER["average_precision"](*pair) == pytest.approx(expected)
    recall, alarm_rate, precision = CHAPTER["rates"](*pair)
    theirs = metrics.roc_curve(positive, found, drop_intermediate=False)
    np.testing.assert_allclose(alarm_rate, theirs[0][1:])  # theirs begins at (0, 0)
    np.testing.assert_allclose(recall, theirs[1][1:])
    theirs = metrics.precision_recall_curve(positive, found)
    np.testing.assert_allclose(precision.flip(0), theirs[0][:-1])  # theirs ends at (0, 1)
    np.testing.assert_allclose(recall.flip(0), theirs[1][:-1])


def test_area_is_the_chance_that_a_positive_is_higher() -> None:
    found, positive = torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([True, True, False, False])
    assert CHAPTER["auc"](found, positive) == 3.5 / 4
    assert CHAPTER["auc"](-found, positive) == 0.5 / 4


@pytest.mark.parametrize("metric", ["auc", "average_precision"])
def test_a_draw_without_positives_has_no_value_and_the_bootstrap_goes_on(metric: str) -> None:
    found, positive = scores(60, 11, ties=False)
    assert math.isnan(CHAPTER[metric](found, torch.zeros_like(positive)))
    few = positive & (positive.cumsum(0) <= 2)  # about one draw in seven misses both
    interval = evaluation.bootstrap(CHAPTER[metric], found, few, draws=200)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_equals_the_package(k: int) -> None:
    logits, labels = answers(seed=4)
    assert CHAPTER["top_k"](logits, labels, k) == evaluation.top_k(logits, labels, k)


@pytest.mark.parametrize("n", [1, 8, 300])
def test_wilson_equals_the_package(n: int) -> None:
    for k in {0, n // 3, n}:
        found = CHAPTER["wilson"](k, n, stats.norm.ppf(0.975))
        assert found == pytest.approx(evaluation.Proportion(k, n).interval(), abs=1e-7)


def test_coverage_tells_a_good_interval_from_a_bad_one() -> None:
    coverage = CHAPTER["coverage"]
    assert coverage(CHAPTER["wilson"], 0.97, 50) > 0.9 > coverage(CHAPTER["wald"], 0.97, 50) + 0.1
    assert coverage(lambda k, n: (0 * k, 0 * k + 1), 0.5, 50) == 1


def test_bootstrap_equals_the_package() -> None:
    torch.manual_seed(5)
    pair = torch.randn(70), torch.randn(70)
    ours = CHAPTER["bootstrap"](lambda x, y: (x - y).median(), *pair, draws=150, seed=3)
    packaged = evaluation.bootstrap(lambda x, y: (x - y).median(), *pair, draws=150, seed=3)
    assert ours == [packaged.low, packaged.high]


def test_variance_split_equals_the_package() -> None:
    generator = torch.Generator().manual_seed(6)
    for between in (0.0, 0.1):
        skill = 0.7 + between * torch.randn(5, 1, generator=generator)
        x = torch.rand(5, 90, generator=generator) < skill
        packaged = evaluation.variance_split(x)
        assert CHAPTER["variance_split"](x) == pytest.approx((packaged.training, packaged.test))


def test_interval_of_a_mean_is_that_of_student() -> None:
    values = np.array([61.0, 66.0, 62.5, 70.0])
    found = CHAPTER["mean_with_interval"](values)
    expected = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)


@pytest.mark.parametrize("counts", [(0, 0), (0, 5), (12, 30), (200, 150)])
def test_mcnemar_equals_the_package(counts: tuple[int, int]) -> None:
    a = torch.arange(sum(counts)) < counts[0]
    assert CHAPTER["mcnemar"](*counts) == pytest.approx(evaluation.mcnemar(a, ~a).p_value)


@pytest.mark.parametrize("p_values", [[0.04, 0.001, 0.8, 0.02], [0.5], [], [0.01] * 20])
def test_holm_equals_the_package(p_values: list[float]) -> None:
    assert CHAPTER["holm"](p_values) == evaluation.holm(p_values)


@pytest.mark.parametrize("case", [(1500, 0.02, 0.12), (5000, 0.01, 0.06)])
def test_power_equals_the_package_and_a_simulation(case: tuple[int, float, float]) -> None:
    assert CHAPTER["power"](*case) == pytest.approx(evaluation.power(*case), abs=0.001)
    assert CHAPTER["power"](*case) == pytest.approx(CHAPTER["simulated_power"](*case), abs=0.07)


def test_frames_of_the_movable_figure_say_what_the_package_says() -> None:
    values = {"test_images": 3000, "difference_in_points": 1, "disagreement_in_percent": 5}
    frame = CHAPTER["draw_power"](**values)
    assert f"{100 * evaluation.power(3000, 0.01, 0.05):.0f} %" in frame
    assert f"{evaluation.examples_needed(0.01, 0.05):,} images" in frame
    assert "nan" not in frame


def test_calibration_equals_the_package() -> None:
    logits, labels = answers(400, 4, seed=7)
    logits[0] = torch.tensor([1000.0, 0, 0, 0])  # a confidence of one
    for ours, packaged in zip(
        CHAPTER["reliability"](logits, labels), evaluation.reliability(logits, labels), strict=True
    ):
        torch.testing.assert_close(ours, packaged.double(), equal_nan=True)
    expected = evaluation.expected_calibration_error(logits, labels)
    assert CHAPTER["ece"](logits, labels) == pytest.approx(expected)
    by_grid = CHAPTER["best_temperature"](logits[1:], labels[1:])
    assert by_grid == pytest.approx(evaluation.fit_temperature(logits[1:], labels[1:]), rel=0.01)


def test_a_perfect_model_has_a_calibration_error_that_falls_with_its_images() -> None:
    errors = [
        np.mean([CHAPTER["perfect_ece"]([LOGITS], n, seed) for seed in range(8)]) for n in (50, 500, 5000)
    ]
    assert errors[0] > errors[1] > errors[2] > 0
    assert errors[2] < 0.02


def test_five_versions_of_an_image_are_no_five_images() -> None:
    alone, copies, naive = (
        [CHAPTER["perfect_ece"](versions, n, seed) for seed in range(20)]
        for versions, n in (([LOGITS], 200), ([LOGITS] * 5, 200), ([LOGITS.repeat(5, 1)], 1000))
    )
    assert copies == pytest.approx(alone)  # copies add nothing
    assert np.mean(naive) < 0.7 * np.mean(copies)


def test_risk_and_coverage_equal_the_package() -> None:
    sure, positive = scores(150, 8, ties=False)
    for ours, packaged in zip(
        CHAPTER["risk_coverage"](sure, positive), evaluation.risk_coverage(sure, positive), strict=True
    ):
        torch.testing.assert_close(ours.double(), packaged, atol=1e-6, rtol=1e-6)


CORRUPTIONS = CHAPTER["worsen"]
SEVERITIES = range(1, 6)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_grow_and_are_the_same_each_time(kind: str) -> None:
    before = PHOTOS.clone()
    made = [CORRUPTIONS[kind](PHOTOS, severity) for severity in SEVERITIES]
    assert {(one.dtype, one.shape) for one in made} == {(torch.uint8, PHOTOS.shape)}
    assert torch.equal(CORRUPTIONS[kind](PHOTOS, 3), made[2])
    assert torch.equal(PHOTOS, before)
    apart = [(one.float() - PHOTOS).abs().mean().item() for one in made]
    assert apart == sorted(apart)
    assert 0 < apart[0] < apart[-1]


def test_noise_has_the_spread_that_it_is_given() -> None:
    gray = torch.full((20, 3, 32, 32), 128, dtype=torch.uint8)
    for severity, spread in zip((1, 3), (8, 20), strict=True):  # neither is cut off at 0 or 255
        noise = CORRUPTIONS["noise"](gray, severity).double() - 128
        assert noise.std().item() == pytest.approx(spread, rel=0.03)
        assert abs(noise.mean().item()) < 0.5


@pytest.mark.parametrize(("severity", "width"), list(zip(SEVERITIES, (0.4, 0.6, 0.8, 1.1, 1.5), strict=True)))
def test_blur_equals_scipy(severity: int, width: float) -> None:
    theirs = ndimage.gaussian_filter(PHOTOS.double().numpy(), width, mode="mirror", radius=4, axes=(2, 3))
    apart = CORRUPTIONS["blur"](PHOTOS, severity).double() - torch.from_numpy(theirs)
    assert apart.abs().max() < 0.501  # rounded to whole gray levels


@pytest.mark.parametrize(("severity", "quality"), list(zip(SEVERITIES, (60, 40, 25, 15, 8), strict=True)))
def test_jpeg_is_that_of_pillow(severity: int, quality: int) -> None:
    made = CORRUPTIONS["JPEG"](PHOTOS[:3], severity)
    for photo, ours in zip(PHOTOS, made, strict=False):
        file = io.BytesIO()
        Image.fromarray(photo.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        np.testing.assert_array_equal(ours.permute(1, 2, 0), np.asarray(Image.open(file)))


def test_brightness_and_contrast_by_hand() -> None:
    photo = torch.tensor([10, 60, 200, 250]).to(torch.uint8).expand(1, 3, 2, 4)  # mean 130
    assert CORRUPTIONS["brightness"](photo, 2)[0, 0, 0].tolist() == [50, 100, 240, 255]
    assert CORRUPTIONS["contrast"](photo, 2)[0, 0, 0].tolist() == [58, 88, 172, 202]
    two = torch.cat([photo, photo // 2])
    assert torch.equal(CORRUPTIONS["contrast"](two, 4)[:1], CORRUPTIONS["contrast"](photo, 4))


def test_nearest_finds_the_planted_twin() -> None:
    thumbs = CHAPTER["thumbnails"](PHOTOS)
    similarity, where = CHAPTER["nearest"](thumbs[[7, 2]], thumbs)
    assert where.tolist() == [7, 2]
    assert similarity.tolist() == pytest.approx([1, 1], abs=1e-5)
    lighter = (PHOTOS[:1].float() * 0.8 + 20).to(torch.uint8)
    assert CHAPTER["nearest"](CHAPTER["thumbnails"](lighter), thumbs)[0] > 0.99


def test_the_leak_is_in_the_split_and_not_in_the_code() -> None:
    noise = SimpleNamespace(images=torch.randint(0, 256, (400, 3, 32, 32)).to(torch.uint8))
    torch.manual_seed(0)
    made = chapter_namespace(
        STEM, ["learn", "video", "video-run", "selection"], **NAMES, train=_Noise(noise.images)
    )
    made["films"] = 60
    assert made["video_experiment"](0, True) > 20  # labels of pure noise can only be learned by heart
    assert abs(np.mean([made["video_experiment"](seed, False) for seed in range(4)])) < 12
    assert made["selection_experiment"](0, True) > 15
    assert abs(np.mean([made["selection_experiment"](seed, False) for seed in range(20)])) < 6


class _Noise:
    """Noise with labels that mean nothing, in place of the training images."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images, self.labels = images, torch.randint(0, 2, (len(images),))

    def __len__(self) -> int:
        return len(self.images)


def test_language_models_are_the_entropy_of_their_counts() -> None:
    text = torch.tensor(list(b"abababab" * 40))
    cut = CHAPTER["after_a_byte"]
    table = CHAPTER["fit"]([text], cut, 256, 256, smoothing=1e-9)
    assert CHAPTER["losses"](table, [text], cut)[0][1:].max() < 0.02  # the next byte is sure
    alone = CHAPTER["fit"]([text], CHAPTER["as_bytes"], 1, 256, smoothing=1e-9)
    assert CHAPTER["losses"](alone, [text], CHAPTER["as_bytes"])[0].mean() == pytest.approx(math.log(2))
    context, pairs = CHAPTER["as_pairs"](text)
    assert pairs.unique().tolist() == [256 * ord("a") + ord("b")]
    assert len(context) == len(pairs) == len(text) // 2


def test_slices_are_tested_against_the_rest() -> None:
    flags = torch.arange(200) % 10 != 0
    inside = torch.arange(200) < 50
    flags[:30] = False
    table = CHAPTER["against_the_rest"]({"bad": inside, "any": torch.arange(200) % 2 == 0}, flags)
    assert table.slice.tolist()[0] == "bad"
    parts = [[int((flags & m).sum()), int((~flags & m).sum())] for m in (inside, ~inside)]
    assert table.p.iloc[0] == pytest.approx(stats.fisher_exact(parts).pvalue)
    assert table.holm.tolist() == pytest.approx(evaluation.holm(table.p.tolist()))


def test_group_split_keeps_groups_together() -> None:
    groups = torch.tensor([3, 1, 1, 2, 3, 4, 5, 5])
    for seed in range(10):
        in_test = CHAPTER["group_split"](groups, 0.4, seed)
        assert not set(groups[in_test].tolist()) & set(groups[~in_test].tolist())
        assert len(groups[in_test].unique()) == 2


def test_swap_test_is_fair_and_finds_a_difference() -> None:
    generator = torch.Generator().manual_seed(9)
    swap = CHAPTER["swap_test"]
    found = [swap(torch.randn(30, generator=generator), draws=99, seed=s) for s in range(200)]
    assert sum(p <= 0.05 for p in found) <= stats.binom.isf(0.001, 200, 0.05)
    assert swap(torch.randn(100, generator=generator) + 1, draws=500) < 0.01


def test_threshold_keeps_its_promise_where_it_was_chosen() -> None:
    generator = torch.Generator().manual_seed(10)
    sure = torch.rand(500, generator=generator)
    hit = torch.rand(500, generator=generator) < sure
    limit = CHAPTER["threshold_for"](sure, hit, 0.1)
    assert (~hit[sure >= limit]).double().mean() <= 0.1
    lower = sure[sure < limit].max()
    later = sure.sort().values
    for other in later[later < lower]:
        assert (~hit[sure >= other]).double().mean() > 0.1
