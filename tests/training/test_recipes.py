import hashlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from bigmodel_helpers import data, evaluation
from bigmodel_helpers.data import synthetic
from bigmodel_helpers.models import ResNet, SpeedNet, pretrained
from bigmodel_helpers.training import optim, recipes
from tools.records import train_cifar

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def freed_memory_is_returned():
    """Leave the process as it is: what is measured in it later would need more memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "keep_freed_memory", lambda: False)
        yield


def small_set(count=240):
    return data.ImageSet(*synthetic.shapes(count, seed=3), synthetic.CLASSES, "shapes for a test")


@pytest.mark.parametrize(
    ("model", "optimizers", "rates"),
    [
        (SpeedNet((8, 8, 16)), recipes.speednet_optimizers, [0.24 * 0.05**0.5, 5.3, 67]),
        (ResNet((1, 1), (8, 16)), recipes.resnet_optimizers, [0.24 * 0.05**0.5, 0.1, 0.1]),
    ],
    ids=["speednet", "resnet"],
)
def test_kernels_go_to_muon_and_all_else_to_sgd(model, optimizers, rates):
    muon, sgd = optimizers(model, 100)
    assert (type(muon), type(sgd)) == (optim.Muon, torch.optim.SGD)
    groups = [*muon.param_groups, *sgd.param_groups]
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert [{p.ndim for p in group["params"]} for group in groups] == [{4}, {1}, {2}]
    assert [group["lr"] for group in groups] == pytest.approx(rates)


def test_weight_decay_is_as_strong_as_a_decay_beside_the_momentum():
    """Without gradients, a weight shrinks by rate times decay a step, once the momentum has built up."""
    weight = nn.Parameter(torch.ones(1))
    rate, momentum, decay = 0.1, 0.85, 1e-3
    sgd = torch.optim.SGD(
        [weight], lr=rate, momentum=momentum, nesterov=True, weight_decay=decay * (1 - momentum)
    )
    for step in range(200):
        if step == 100:
            before = weight.item()
        weight.grad = torch.zeros(1)
        sgd.step()
    assert before - weight.item() == pytest.approx(100 * rate * decay, rel=0.05)


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


def test_the_training_script_writes_a_record(tmp_path, environment, monkeypatch, capsys):
    command = ["--epochs", "2", "--batch-size", "10", "--widths", "4", "4", "8"]
    command += ["--checkpoints", str(tmp_path / "run"), "--record", str(tmp_path / "record.json")]
    script = [sys.executable, "-m", "tools.records.train_cifar", *command]
    result = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    for name in ("BIGMODEL_DATA", "BIGMODEL_CACHE"):
        monkeypatch.setenv(name, environment[name])
    train_cifar.main(command)  # finds a finished run and only writes the record again
    assert "nothing to do: the run ended at step 8 of 8" in capsys.readouterr().out
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8")) == record
    assert record["epochs"] == len(record["history"]) == 2
    assert record["data"].startswith("CIFAR-10")
    assert record["test_interval"][0] <= record["test_accuracy"] <= record["test_interval"][1]
    assert str(tmp_path) not in json.dumps(record)
    with pytest.raises(
        ValueError, match="was saved with seed of the batches 0, this run has 1: use the same"
    ):
        train_cifar.main([*command, "--seed", "1"])


def test_the_script_of_the_shipped_networks_writes_weights_and_card(tmp_path, environment, monkeypatch):
    options = ["--epochs", "1", "--checkpoints", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    for name in ("BIGMODEL_DATA", "BIGMODEL_CACHE"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setattr(sys, "argv", ["train_resnet.py", "cifar6_resnet", *options])
    runpy.run_path(str(ROOT / "tools" / "records" / "train_resnet.py"), run_name="__main__")
    made = json.loads((tmp_path / "out" / "cifar6_resnet.json").read_text(encoding="utf-8"))
    assert made.keys() == pretrained.card("cifar6_resnet").keys()
    assert made["train_images"] == made["test_images"] == 24
    file = tmp_path / "out" / "cifar6_resnet.safetensors"
    assert made["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    shipped = load_file(ROOT / "bigmodel_helpers" / "weights" / "cifar6_resnet.safetensors")
    assert {name: (v.shape, v.dtype) for name, v in load_file(file).items()} == {
        name: (v.shape, v.dtype) for name, v in shipped.items()
    }
