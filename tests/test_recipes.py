import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bigmodel_helpers import data, evaluation, pretrained, recipes, synthetic
from bigmodel_helpers.models.resnet import ResNet
from bigmodel_helpers.models.speednet import SpeedNet

ROOT = Path(__file__).parents[1]


def small_set(count=240):
    return data.ImageSet(*synthetic.shapes(count, seed=3), synthetic.CLASSES, "shapes for a test")


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        (SpeedNet((8, 8, 16)), recipes.speednet_optimizer),
        (ResNet((1, 1), (8, 16)), recipes.resnet_optimizer),
    ],
    ids=["speednet", "resnet"],
)
def test_every_trained_parameter_is_in_one_group_and_only_kernels_are_orthogonalized(model, optimizer):
    groups = optimizer(model, 100).param_groups
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert [{p.ndim for p in group["params"]} for group in groups] == [{4}, {1}, {2}]
    assert ["nesterov" in group for group in groups] == [
        False,
        True,
        True,
    ]  # Muon's groups have no such option


def test_images_grow():
    prepare = recipes.grow(24, until=0.5)
    images = torch.randn(2, 3, 32, 32)
    assert prepare(images, 0.49).shape == (2, 3, 24, 24)
    assert prepare(images, 0.5) is images


@pytest.mark.parametrize(
    ("train", "options"),
    [
        (recipes.train_speednet, {"widths": (16, 16, 32)}),
        (recipes.train_resnet, {"blocks": (1, 1, 1), "widths": (16, 16, 32)}),
    ],
    ids=["speednet", "resnet"],
)
def test_the_recipe_learns_and_repeats_itself_exactly(train, options):
    images = small_set()
    runs = [
        train(images, epochs=8, batch_size=40, device="cpu", seed=5, progress=False, **options)
        for _ in range(2)
    ]
    first, second = (run.model.state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = [row["train_loss"] for row in runs[0].history]
    assert losses[-1] < losses[0] - 0.2
    accuracy = evaluation.accuracy(*evaluation.predict(runs[0].model, data.Batches(images, 80)))
    assert accuracy.value > 0.3  # guessing gets 0.1


@pytest.fixture
def environment(tmp_path):
    """An image tree with four pictures of each class, for a script that runs as its own process."""
    root = tmp_path / "data" / "cifar10"
    images, labels = synthetic.shapes(40, seed=0)
    for split in ("train", "test"):
        for index, (image, label) in enumerate(zip(images, labels.sort().values, strict=True)):
            path = root / split / data.CLASSES[int(label)] / f"{index:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    places = {"BIGMODEL_DATA": str(tmp_path / "data"), "BIGMODEL_CACHE": str(tmp_path / "cache")}
    return {**os.environ, **places}


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_training_script_writes_a_record(tmp_path, environment, interrupted):
    command = [
        sys.executable,
        "tools/train_cifar.py",
        "--epochs",
        "2",
        "--batch-size",
        "10",
        "--widths",
        "4",
        "4",
        "8",
    ]
    folders = ["--checkpoints", str(tmp_path / "run"), "--record", str(tmp_path / "record.json")]
    for _ in range(1 + interrupted):  # the second call finds a finished run and only writes the record again
        result = subprocess.run(
            command + folders,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record["epochs"] == len(record["history"]) == 2
    assert record["data"].startswith("CIFAR-10")
    assert record["test_interval"][0] <= record["test_accuracy"] <= record["test_interval"][1]
    assert str(tmp_path) not in json.dumps(record)
    other = subprocess.run(
        [*command, *folders, "--seed", "1"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert other.returncode == 2
    assert "holds a run with other settings" in other.stderr


def test_the_script_of_the_shipped_networks_writes_weights_and_card(tmp_path, environment):
    command = [sys.executable, "tools/train_resnet.py", "cifar6_resnet", "--epochs", "1"]
    command += ["--checkpoints", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    made = json.loads((tmp_path / "out" / "cifar6_resnet.json").read_text(encoding="utf-8"))
    assert made.keys() == pretrained.card("cifar6_resnet").keys()
    assert made["train_images"] == made["test_images"] == 24
    file = tmp_path / "out" / "cifar6_resnet.safetensors"
    assert made["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    shipped = load_file(Path(pretrained.__file__).parent / "weights" / "cifar6_resnet.safetensors")
    assert {name: (v.shape, v.dtype) for name, v in load_file(file).items()} == {
        name: (v.shape, v.dtype) for name, v in shipped.items()
    }
