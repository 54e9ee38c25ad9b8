"""A run of `training.fit` that is broken off and goes on: bit for bit, or told why it cannot."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_run import (
    StopError,
    TokenModel,
    assert_same,
    images,
    network,
    sgd,
    timeless,
    train,
    weights,
)
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from bigmodel_helpers.data import Augment, Batches, text
from bigmodel_helpers.training import WeightAverage, checkpoint, cross_entropy, fit, optim


def loaders():
    whole = images()
    x, y = next(iter(Batches(whole, len(whole))))
    generator = torch.Generator().manual_seed(5)
    augmented = Batches(whole, 10, shuffle=True, augment=Augment(flip=True, shift=1, cutout=2), seed=3)
    sampler, other = (RandomSampler(x, generator=torch.Generator().manual_seed(seed)) for seed in (6, 7))
    return {
        "batches": augmented,
        "batches, fused": augmented,
        "loader with a sampler": DataLoader(TensorDataset(x, y), 10, sampler=sampler),
        "loader": DataLoader(TensorDataset(x, y), 10, shuffle=True),
        "loader with two generators": DataLoader(TensorDataset(x, y), 10, sampler=other, generator=generator),
        "loader with a batch sampler": DataLoader(
            TensorDataset(x, y), batch_sampler=BatchSampler(other, 10, drop_last=False)
        ),
        "loader with a generator": DataLoader(TensorDataset(x, y), 10, shuffle=True, generator=generator),
    }


def full_run(kind, folder, stop_at=None):
    """Train with two optimizers, an average and a schedule; return the run and the average."""
    model = network(dropout=0.3).to(memory_format=torch.channels_last)
    optimizers = [optim.Muon([model[0].weight]), sgd(model[6])]
    if kind == "batches, fused":
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)]
    average = WeightAverage(model, 0.9)

    class Stop:
        def after_step(self, run):
            if run.step - 1 == stop_at:
                raise StopError

    run = train(
        model,
        steps=15,
        every=1,
        batches=loaders()[kind],
        optimizers=optimizers,
        schedule=optim.triangle(),
        callbacks=[average, Stop()],
        checkpoints=folder,
    )
    return run, average


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return what gives the whole run of a kind, which is trained once."""
    return functools.cache(lambda kind: full_run(kind, tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("kind", [*loaders()])
@pytest.mark.parametrize("stop_at", [1, 5, 7, 14])
def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(tmp_path, undisturbed, kind, stop_at):
    whole, whole_average = undisturbed(kind)
    with pytest.raises(StopError):
        full_run(kind, tmp_path, stop_at)
    resumed, average = full_run(kind, tmp_path)
    assert_same(weights(whole.model), weights(resumed.model))
    assert_same(whole_average.weights, average.weights)
    assert timeless(whole.history) == timeless(resumed.history)
    assert resumed.history[-1]["seconds"] >= resumed.history[0]["seconds"]


def test_windows_of_text_go_on_where_they_were(tmp_path):
    def run(folder, stop_at=None):
        def stop(run):
            if run.step == stop_at:
                raise StopError

        model = TokenModel()
        windows = text.Windows(torch.arange(300) % 7, 8, 4, seed=1)
        options = {"every": 2, "accumulate": 2, "unit": "tokens", "checkpoints": folder, "progress": False}
        fit(model, windows, sgd(model), steps=6, callbacks=[stop], **options)
        return weights(model)

    with pytest.raises(StopError):
        run(tmp_path / "broken", 4)
    assert_same(run(tmp_path / "broken"), run(tmp_path / "whole"))


@pytest.mark.parametrize("every", [2, 4])
@pytest.mark.parametrize("fail_at", [1, 2])
def test_an_evaluation_may_read_the_batches_of_the_training(tmp_path, every, fail_at):
    def run(folder, fail=()):
        batches, asked = loaders()["batches"], []

        def evaluate(model):
            asked.append(1)
            if len(asked) in fail:
                raise StopError
            return {"images": sum(len(y) for _, y in batches)}

        def stop(run):
            if fail and len(asked) == 3:
                raise StopError

        options = {"evaluate": evaluate, "callbacks": [stop], "every": every, "steps": 14}
        return train(batches=batches, checkpoints=folder, **options)

    for fail in ([fail_at], [2], [3]):
        with contextlib.suppress(StopError):
            run(tmp_path, fail)
    resumed, whole = run(tmp_path), run(None)
    assert_same(weights(whole.model), weights(resumed.model))
    assert timeless(whole.history) == timeless(resumed.history)
    assert {row["images"] for row in resumed.history} == {48}


def test_an_evaluation_may_read_the_windows_of_the_training():
    def run(look):
        model = TokenModel()
        windows = text.Windows(torch.arange(300) % 7, 8, 4, seed=1)

        def evaluate(model):
            return {"loss": cross_entropy(model, next(iter(windows))).item()}

        options = {"evaluate": evaluate if look else None, "every": 1, "progress": False}
        fit(model, windows, sgd(model), steps=4, **options)
        return weights(model)

    assert_same(run(look=True), run(look=False))


def test_the_scale_of_gradients_goes_on(tmp_path):
    class Grow:
        def before_step(self, run):
            run.scaler.set_growth_interval(2)  # instead of 2000

    def run(folder):
        return train(dtype=torch.float16, every=1, callbacks=[Grow(), stop_at_4], checkpoints=folder)

    with pytest.raises(StopError):
        run(tmp_path)
    assert train(dtype=torch.float16, checkpoints=tmp_path).scaler.get_scale() == 2.0**19


def test_a_finished_run_is_only_loaded_and_says_so(tmp_path, capsys):
    first = train(checkpoints=tmp_path, every=1, keep=2)
    assert len(checkpoint.list_steps(tmp_path)) == 2
    again = train(checkpoints=tmp_path)
    assert again.history == first.history
    assert_same(weights(first.model), weights(again.model))
    out = capsys.readouterr().out
    assert out.startswith("nothing to do: the run ended at step 6 of 6, loaded from ")
    assert "; to train on, start a new run in another folder, from the weights checkpoint.load(" in out
    assert out.count("\n") == 1


# ----------------------------------------------------------------------------------- other settings


def adam(model):
    return torch.optim.AdamW(model.parameters())


OTHERS = {
    "steps 6, this run has 9": {"steps": 9},
    "accumulate 1, this run has 2": {"accumulate": 2},
    "clip_norm None, this run has 1.0": {"clip_norm": 1.0},
    "dtype None, this run has torch.bfloat16": {"dtype": torch.bfloat16},
    "unit images, this run has tokens": {"unit": "tokens"},
    r"loss cross_entropy, this run has cross_entropy\(label_smoothing=0.1\)": {
        "loss": functools.partial(cross_entropy, label_smoothing=0.1)
    },
    "schedule at 1/9 of the run 1.0, this run has 0.6": {"schedule": lambda t: 1.0 if t == 0 else 0.6},
    "optimizer 0 class SGD, this run has AdamW": {"optimizers": adam},
    "optimizer 0 group 0 lr 0.1, this run has 0.5": {"optimizers": functools.partial(sgd, lr=0.5)},
    "length of the batches 3, this run has 6": {"batches": Batches(images(), 8, shuffle=True, seed=3)},
    "seed of the batches 3, this run has 4": {"batches": Batches(images(), 16, shuffle=True, seed=4)},
}


@pytest.mark.parametrize("message", OTHERS)
def test_other_settings_are_told_in_one_line(tmp_path, message):
    with pytest.raises(StopError):
        train(checkpoints=tmp_path, every=2, callbacks=[stop_at_4])
    before = sorted(tmp_path.iterdir())
    model, options = network(), dict(OTHERS[message])
    if callable(options.get("optimizers")):
        options["optimizers"] = options["optimizers"](model)
    cure = r": use the same, or start a new run in another folder, from the weights checkpoint\.load\("
    with pytest.raises(
        ValueError, match=rf"^\S*step-00000004.safetensors was saved with {message}{cure}"
    ) as caught:
        train(model, checkpoints=tmp_path, **options)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
    assert_same(weights(train(checkpoints=tmp_path).model), weights(train().model))


def stop_at_4(run):
    if run.step == 4:
        raise StopError


def test_another_network_or_other_images_are_told_too(tmp_path):
    train(checkpoints=tmp_path)
    model = network()
    model[6] = nn.Linear(4, 5)
    with pytest.raises(ValueError, match=r"shape of 6.weight \(3, 4\), this run has \(5, 4\)"):
        train(model, checkpoints=tmp_path, optimizers=sgd(model))
    batches = Batches(images(), 16, shuffle=True, seed=3)
    state = batches.state_dict() | {"images": 47}
    with pytest.raises(ValueError, match="the saved batches have images=47, these 48: make them alike"):
        batches.load_state_dict(state)


def test_a_checkpoint_of_the_first_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 1)
    checkpoint.save(checkpoint.step_path(tmp_path, 3), {"model": network().state_dict(), "step": 3})
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"older version of fit.*: start a new run in another folder"):
        train(checkpoints=tmp_path)


# ----------------------------------------------------------------------------------- the folder


def test_a_broken_newest_checkpoint_is_set_aside(tmp_path):
    whole = train(steps=9, checkpoints=tmp_path, keep=9)
    newest, *_ = checkpoint.list_steps(tmp_path)
    newest.write_bytes(newest.read_bytes()[:50])
    (tmp_path / "step-00000009.safetensors.1.partial").write_bytes(b"half")  # left by a kill
    resumed = train(steps=9, checkpoints=tmp_path, keep=1)
    assert_same(weights(resumed.model), weights(whole.model))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        newest.with_suffix(".broken").name,
        newest.name,
    ]


def test_a_place_that_cannot_be_a_folder_is_told_before_training(tmp_path):
    (tmp_path / "taken").write_text("by a file")

    def loss(model, batch):
        raise AssertionError("training has begun")

    for place, kind in {"taken": FileExistsError, "taken/below": NotADirectoryError}.items():
        with pytest.raises(kind, match=r"^checkpoints='.*taken.*' cannot be a folder .*: name another one"):
            train(checkpoints=tmp_path / place, loss=loss)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    def other(run):
        if run.step == 3:
            train(checkpoints=tmp_path, steps=5)

    with pytest.raises(
        checkpoint.CheckpointError, match=r"another run writes into .*: give each run a folder"
    ):
        train(checkpoints=tmp_path, callbacks=[other])


WORKER = """
import sys, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from test_resume import long_run
long_run(sys.argv[2])
"""


def long_run(folder):
    model, batches = network(dropout=0.3), loaders()["batches"]
    return train(model, steps=100, batches=batches, schedule=optim.cosine(), checkpoints=folder, every=1)


def test_a_run_killed_at_a_random_step_ends_with_the_identical_weights(tmp_path):
    aim = int.from_bytes(os.urandom(1)) % 35 + 5  # of 100 steps
    victim = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(Path(__file__).parent), str(tmp_path / "killed")]
    )
    while victim.poll() is None and not any(
        int(path.stem[5:]) >= aim for path in checkpoint.list_steps(tmp_path / "killed")
    ):
        time.sleep(0.002)
    victim.kill()  # SIGKILL; TerminateProcess on Windows
    assert victim.wait(60) != 0, "the worker ended before it could be killed"
    assert checkpoint.load(checkpoint.latest(tmp_path / "killed"))["step"] < 100
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed, whole = long_run(tmp_path / "killed"), long_run(None)
    finally:
        torch.set_num_threads(threads)
    assert_same(weights(resumed.model), weights(whole.model))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a thread of this process")
def test_ctrl_c_leaves_a_usable_checkpoint_between_rows(tmp_path, capsys):
    handler = signal.getsignal(signal.SIGINT)

    class Interrupt:
        def before_step(self, run):
            if run.step == 4:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(checkpoints=tmp_path, callbacks=[Interrupt()])
    assert checkpoint.latest(tmp_path).name == "step-00000005.safetensors"
    assert "stopping after this step" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is handler
    resumed, whole = train(checkpoints=tmp_path), train()
    assert_same(weights(resumed.model), weights(whole.model))
    assert timeless(resumed.history) == timeless(whole.history)
