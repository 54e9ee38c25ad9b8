"""Chapter 6: its hand-written code against the package's, in settings that it does not show."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from chapter_code import ROOT, chapter_namespace
from PIL import Image
from scipy import stats
from torch import nn
from torch.nn.utils import parametrize
from torchvision.models import ResNet18_Weights, resnet18

from bigmodel_helpers import data, evaluation, inference, runtime, training
from bigmodel_helpers.models import pretrained
from bigmodel_helpers.training import transfer

STEM = "06_fine_tuning"
CELLS = [
    "features-by-hand",
    "probe-by-hand",
    "keep-by-hand",
    "groups",
    "thaw",
    "adapter",
    "interval",
    "ex-06-balance-solution",
    "ex-06-rank-solution",
    "ex-06-penalty-solution",
    "ex-06-between-solution",
]
CHECKS = {f"check_{name}": lambda: None for name in ("balance", "rank", "penalty", "between")}
NAMES = {
    "torch": torch,
    "nn": nn,
    "F": F,
    "np": np,
    "pd": pd,
    "stats": stats,
    "data": data,
    "transfer": transfer,
    "evaluation": evaluation,
    "pretrained": pretrained,
    "parametrize": parametrize,
    "replace": replace,
    "runs": pd.DataFrame({"way": ["a"] * 3, "labels": [5] * 3, "new task": [50.0, 60.0, 70.0]}),
}


def tiny_pictures() -> data.ImageSet:
    pixels, labels = data.synthetic.shapes(40, seed=0)
    return data.ImageSet(pixels, labels, data.synthetic.CLASSES, "drawn")


LATER = {
    "start": lambda way: six(),
    "train_way": lambda *_: six(),
    "score": lambda *_: "measured",
    "old_score": lambda *_: "measured",
    "bodies": {"trained on others": pretrained.load("cifar6_resnet").model},
    "device": torch.device("cpu"),
    "twenty": tiny_pictures(),
    "valid": tiny_pictures(),
    "test_new": None,
    "real": False,
}


def six() -> nn.Module:
    return pretrained.load("cifar6_resnet").model


CHAPTER = chapter_namespace(STEM, CELLS, **NAMES, **CHECKS, **LATER)


def photos(count: int = 12) -> data.ImageSet:
    torch.manual_seed(0)
    pictures = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    return data.ImageSet(pictures, torch.arange(count) % 3, ("a", "b", "c"), "noise for a test")


def test_features_equal_the_package() -> None:
    some = photos()
    packaged, labels = transfer.features(six(), data.Batches(some, 5))
    torch.testing.assert_close(CHAPTER["features"](six(), some), packaged, rtol=1e-4, atol=1e-4)
    assert torch.equal(labels, some.labels)


@pytest.mark.parametrize("penalty", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("count", [30, 90])
def test_probe_equals_the_package(penalty: float, count: int) -> None:
    torch.manual_seed(1)
    labels = torch.arange(count) % 4
    x = torch.randn(count, 9) + F.one_hot(labels, 9)
    ours = CHAPTER["probe"](x, labels, 4, penalty)(x).softmax(1)
    packaged = transfer.linear_probe(x, labels, 4, penalty=penalty)(x).softmax(1)
    torch.testing.assert_close(ours, packaged, rtol=0.02, atol=0.005)


@pytest.mark.parametrize("keeper", ["by hand", "package"])
def test_kept_statistics_do_not_move(keeper: str) -> None:
    model = six()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.train()
    {"by hand": CHAPTER["Keep"], "package": training.KeepStatistics}[keeper]().before_step(
        SimpleNamespace(model=model)
    )
    model(torch.randn(4, 3, 32, 32))
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())
    moved = six().train()
    moved(torch.randn(4, 3, 32, 32))
    assert not torch.equal(dict(moved.named_buffers())["stem.1.running_mean"], before["stem.1.running_mean"])


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_rates_by_depth_equal_the_package(decay: float) -> None:
    model = six()
    ours = CHAPTER["rates_by_depth"](model, 0.1, decay)
    packaged = transfer.layer_rates(model, CHAPTER["GROUPS"], 0.1, decay)
    assert [group["lr"] for group in ours] == [group["lr"] for group in packaged]
    for mine, theirs in zip(ours, packaged, strict=True):
        assert [id(p) for p in mine["params"]] == [id(p) for p in theirs["params"]]
    assert sum(len(group["params"]) for group in ours) == len(list(model.parameters()))


def test_groups_thaw_one_after_the_other_from_the_head_on() -> None:
    model = transfer.train_only(six(), "head")
    counts = []
    for step in range(0, 101, 5):
        CHAPTER["thaw"](SimpleNamespace(model=model, step=step, steps=100))
        counts.append(sum(p.requires_grad for p in model.parameters()))
    assert counts[0] == 2
    assert counts == sorted(counts)
    assert len(set(counts)) == len(CHAPTER["GROUPS"])
    assert counts[-1] == len(list(model.parameters()))


@pytest.mark.parametrize("layer", [nn.Linear(9, 7), nn.Conv2d(4, 8, 3), nn.Conv2d(6, 5, 1)])
def test_adapter_equals_the_package(layer: nn.Module) -> None:
    ours, packaged = CHAPTER["Adapter"](layer.weight, 3), training.LowRank(layer.weight, 3, alpha=3)
    with torch.no_grad():
        packaged.a.copy_(ours.a)
        packaged.b.copy_(ours.b.normal_())
    assert torch.equal(ours(layer.weight), packaged(layer.weight))
    assert not torch.equal(ours(layer.weight), layer.weight)
    assert CHAPTER["adapter_numbers"](layer, 3) == sum(p.numel() for p in ours.parameters())


def test_interval_of_a_mean_is_that_of_student() -> None:
    values = np.array([61.0, 66.0, 62.5, 70.0])
    mean, low, high = CHAPTER["mean_interval"](values)
    expected = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    assert mean == pytest.approx(values.mean())
    assert CHAPTER["mean_interval"](np.array([99.0, 90.0]))[2] == 100


def test_balance_equals_the_package() -> None:
    labels = torch.tensor([2, 2, 2, 0, 1, 1, 2])
    assert torch.allclose(CHAPTER["balance"](labels, 3), data.class_weights(labels, 3))


def test_the_best_penalty_is_the_one_that_is_best() -> None:
    torch.manual_seed(0)
    y = torch.arange(40) % 2
    x = torch.randn(40, 30)
    x[:, 0] += 2 * y
    x_valid, y_valid = x + 0.3 * torch.randn_like(x), y
    chosen = CHAPTER["best_penalty"](x, y, x_valid, y_valid, (0.01, 1.0, 1e9))
    scores = {}
    for penalty in (0.01, 1.0, 1e9):
        layer = transfer.linear_probe(x, y, 2, penalty=penalty)
        scores[penalty] = int((layer(x_valid).argmax(1) == y_valid).sum())
    assert scores[chosen] == max(scores.values())


def test_the_ends_of_the_line_are_the_two_networks() -> None:
    old, new = six().state_dict(), pretrained.load("cifar6_resnet").model.train()
    new(torch.randn(4, 3, 32, 32))
    new = new.state_dict()
    for share, end in ((0.0, old), (1.0, new)):
        made = CHAPTER["between"](old, new, share)
        floats = [name for name, value in made.items() if value.is_floating_point()]
        assert all(torch.allclose(made[name], end[name]) for name in floats)


def source_lines(cell_id: str) -> list[str]:
    cells = nbformat.read(ROOT / "notebooks" / f"{STEM}.ipynb", as_version=4).cells
    return next(cell.source for cell in cells if cell.id == cell_id).splitlines()


def holiday(folder: Path, count: int = 14) -> Path:
    """A folder that no test has seen: warm and cold noise, in all shapes and formats, some of it broken."""
    mix = np.random.default_rng(7)
    for name, color in (("fire", (210, 90, 30)), ("sea", (20, 90, 190))):
        (folder / name / "deeper").mkdir(parents=True)
        for index in range(count):
            size = (int(mix.integers(20, 300)), int(mix.integers(20, 300)), 3)
            pixels = np.clip(mix.normal(color, 40, size), 0, 255).astype(np.uint8)
            kind = ("jpg", "png", "webp", "bmp", "tiff")[index % 5]
            place = folder / name / "deeper" if index % 4 == 0 else folder / name
            Image.fromarray(pixels).save(place / f"{index} Foto.{kind}")
    (folder / "sea" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (folder / "sea" / "notes.txt").write_text("not looked at", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["laptop", "gpu"])
@pytest.mark.parametrize("per_class", [5, 30, 200, 500])
def test_a_fresh_network_is_trained_several_times_as_long_as_the_others(name: str, per_class: int) -> None:
    made = chapter_namespace(STEM, ["from-scratch", "learn"], profile=runtime.get_profile(name))
    few = data.ImageSet(
        torch.zeros(4 * per_class, 3, 1, 1, dtype=torch.uint8),
        torch.arange(4 * per_class) % 4,
        tuple("abcd"),
        "black",
    )
    assert made["passes"](few) >= 15
    assert made["passes"](few) * len(few) > 2 * made["steps_for"](few) * min(32, len(few))


def test_the_fifteen_lines_are_whole_and_work_on_a_folder_never_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = chapter_namespace(STEM, ["own-lines"], photos=holiday(tmp_path))
    assert made["found"].images.classes == ("fire", "sea")
    assert len(made["found"].skipped) == 1
    accuracy, baseline = capsys.readouterr().out.splitlines()
    assert accuracy.startswith("accuracy: 100.0 %")
    assert baseline == "always the largest class: 50.0 %"
    assert sum(map(bool, source_lines("own-lines"))) == 15
    mine = made["mine"]
    answers = inference.classify([tmp_path / "sea" / "1 Foto.png", tmp_path / "fire" / "2 Foto.webp"], mine)
    assert [answer.labels[0] for answer in answers] == ["sea", "fire"]


def test_the_lines_follow_a_network_of_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    theirs = pretrained.Pretrained(
        resnet18().eval(), ResNet18_Weights.DEFAULT.transforms(), ("none",) * 1000, "random weights"
    )
    monkeypatch.setattr(pretrained, "load", lambda name: theirs)
    made = chapter_namespace(STEM, ["own-lines"], photos=holiday(tmp_path))
    assert made["model"].fc.weight.shape == (2, 512)
    assert float(capsys.readouterr().out.split()[1]) >= 80
    (answer,) = inference.classify(tmp_path / "sea" / "1 Foto.png", made["mine"])
    assert answer.labels[0] == "sea"
    with pytest.raises(ValueError, match="new head"):
        inference.classify(tmp_path / "sea" / "1 Foto.png", made["network"])
