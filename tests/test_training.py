import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from bigmodel_helpers import checkpoint, optim
from bigmodel_helpers.data import Augment, Batches, ImageSet
from bigmodel_helpers.runtime import seed_everything
from bigmodel_helpers.training import fit

CLASSES = ("a", "b", "c")


class StopError(Exception):
    pass


def images(count=48):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % len(CLASSES)
    pixels = torch.randint(0, 120, (count, 3, 8, 8), generator=generator)
    pixels[torch.arange(count), labels] += 100  # the class is the brightest channel
    return ImageSet(pixels.to(torch.uint8), labels, CLASSES, "made by this test")


def network(dropout=0.0, norm=True):
    seed_everything(0)
    layers = [
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, len(CLASSES)))


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], rtol=tolerance.get("rtol", 0), atol=tolerance.get("atol", 0)
        )


def train(model=None, epochs=2, batch_size=16, **options):
    model = model or network()
    batches = options.pop("batches", None) or Batches(images(), batch_size, shuffle=True, seed=3)
    optimizer = options.pop("optimizer", None) or sgd(model)
    return fit(model, batches, optimizer, epochs=epochs, progress=False, **options)


def test_fit_equals_the_steps_written_bare():
    run = train(schedule=optim.cosine(warmup=0.25), label_smoothing=0.1, clip_norm=0.5)
    model = network()
    optimizer = sgd(model)
    batches = Batches(images(), 16, shuffle=True, seed=3)
    step = 0
    for _ in range(2):
        for x, y in batches:
            optimizer.param_groups[0]["lr"] = 0.1 * optim.cosine(warmup=0.25)(step / 6)
            F.cross_entropy(model(x), y, label_smoothing=0.1).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    assert_same(weights(run.model), weights(model))


def test_it_learns_and_keeps_a_table():
    seen = []
    run = train(
        epochs=8,
        evaluate=lambda model: {"answer": 42.0},
        callbacks=[lambda run: seen.append(run.history[-1]["epoch"])],
    )
    assert seen == list(range(1, 9))
    assert run.history[-1]["train_loss"] < 0.6 * run.history[0]["train_loss"]
    assert run.history[-1].keys() >= {"step", "seconds", "images_per_second", "learning_rate", "answer"}
    assert run.history[-1]["step"] == run.step == run.total_steps == 24


def test_the_loss_of_an_epoch_is_the_mean_over_images_even_with_an_uneven_last_batch():
    model = network(norm=False)
    optimizer = sgd(model, lr=1e-30)
    run = train(model, epochs=1, batch_size=20, optimizer=optimizer)
    whole = images()
    x, y = next(iter(Batches(whole, len(whole))))
    assert run.history[0]["train_loss"] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-6)


@pytest.mark.parametrize("micro", [8, 7])
def test_accumulation_equals_the_large_batch(micro):
    set_of_images = images()
    large = train(network(norm=False), batches=Batches(set_of_images, micro * 2))
    small = train(network(norm=False), batches=Batches(set_of_images, micro), accumulate=2)
    assert small.step == large.step
    assert_same(weights(large.model), weights(small.model), rtol=1e-4, atol=1e-6)


def test_clipping_limits_the_step():
    model = network()
    before = weights(model)
    train(
        model, epochs=1, batch_size=48, clip_norm=1e-3, optimizer=torch.optim.SGD(model.parameters(), lr=1.0)
    )
    moved = sum((p - before[name]).square().sum() for name, p in model.named_parameters()).sqrt()
    assert moved <= 1.01e-3


def test_weight_average_is_the_formula():
    trail = []
    model = network()
    optimizer = sgd(model)
    optimizer.register_step_post_hook(lambda *_: trail.append(weights(model)))
    run = train(model, optimizer=optimizer, average_decay=0.7)
    average = trail[0]
    for point in trail[1:]:
        average = {name: average[name] * 0.7 + value * 0.3 for name, value in point.items()}
    averaged = weights(run.eval_model)
    parameters = {name for name, _ in model.named_parameters()}
    assert parameters
    for name in parameters | {"1.running_mean", "1.running_var"}:
        torch.testing.assert_close(averaged[name], average[name])
    assert not torch.equal(averaged["0.weight"], model.state_dict()["0.weight"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_trains_close_to_float32_and_keeps_float32_weights(dtype):
    formats = set()
    model = network()
    model[0].register_forward_hook(lambda module, args, out: formats.add(out.dtype))
    run = train(model, dtype=dtype)
    assert formats == {dtype}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert run.scaler.is_enabled() == (dtype is torch.float16)
    assert run.history[-1]["train_loss"] == pytest.approx(train().history[-1]["train_loss"], rel=0.03)


@pytest.mark.parametrize("bad_step", [1, 5])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path, bad_step):
    steps = []

    def loss(logits, labels):
        steps.append(1)
        return F.cross_entropy(logits, labels) * (float("nan") if len(steps) == bad_step else 1)

    with pytest.raises(FloatingPointError, match=rf"nan at step {bad_step} of 6 .*lower the learning rate"):
        train(loss=loss, checkpoints=tmp_path, checkpoint_every=1)
    for path in checkpoint.list_steps(tmp_path):
        assert all(value.isfinite().all() for value in checkpoint.load(path)["model"].values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    optimizer = sgd(model := network())
    optimizer.register_step_post_hook(lambda *_: model[6].bias.data.fill_(float("inf")))
    with pytest.raises(FloatingPointError, match="step 1 of 6 made weights that are not finite"):
        train(model, optimizer=optimizer, checkpoints=tmp_path, checkpoint_every=1)
    assert checkpoint.list_steps(tmp_path) == []


def test_gradients_from_before_do_not_count():
    fresh, used = network(), network()
    for parameter in used.parameters():
        parameter.grad = torch.full_like(parameter, 9.0)
    assert_same(weights(train(fresh).model), weights(train(used).model))


def test_clipping_counts_only_what_the_optimizer_trains():
    head_only = network()
    head_only[0].weight.register_hook(lambda gradient: gradient * 1e6)
    frozen = network()
    frozen[0].requires_grad_(False)
    frozen[1].requires_grad_(False)
    for model in (head_only, frozen):
        train(model, optimizer=torch.optim.SGD(model[6].parameters(), lr=0.1), clip_norm=0.01)
    assert_same(weights(head_only), weights(frozen))


def test_a_failing_evaluation_or_callback_does_not_lose_the_epoch(tmp_path):
    def fail(_):
        raise StopError

    for name, options in {"evaluate": {"evaluate": fail}, "callback": {"callbacks": [fail]}}.items():
        with pytest.raises(StopError):
            train(checkpoints=tmp_path / name, **options)
        assert checkpoint.load_latest(tmp_path / name)[1]["step"] == 3
        assert_same(weights(train(checkpoints=tmp_path / name).model), weights(train().model))


def test_integer_buffers_are_copied_not_averaged():
    model = network()
    model.register_buffer("table", torch.arange(20))
    run = train(model, average_decay=0.9)
    assert torch.equal(run.eval_model.table, torch.arange(20))


def test_a_broken_newest_checkpoint_is_set_aside(tmp_path):
    whole = train(epochs=3, checkpoints=tmp_path, keep=9)
    newest, *_ = checkpoint.list_steps(tmp_path)
    newest.write_bytes(newest.read_bytes()[:50])
    resumed = train(epochs=3, checkpoints=tmp_path, keep=1)
    assert_same(weights(resumed.model), weights(whole.model))
    assert newest.with_suffix(".broken").exists()
    assert checkpoint.list_steps(tmp_path) == [newest]


def test_prepare_sees_the_images_and_the_progress():
    seen = []

    def shrink(x, progress):
        seen.append((progress, x.shape[-1]))
        return x[..., :6, :6]

    train(prepare=shrink)
    assert seen == [(step / 6, 8) for step in range(6)]


def test_compile_gives_the_same_losses_and_clean_names(monkeypatch):
    compiled_models = []

    def without_a_compiler(model):  # the whole way through torch.compile, but no C++ compiler needed
        compiled_models.append(model)
        return torch_compile(model, backend="aot_eager")

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", without_a_compiler)
    plain = train(epochs=1)
    assert compiled_models == []
    compiled = train(epochs=1, compile=True)
    assert compiled_models == [compiled.model]
    assert compiled.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"], rel=1e-4)
    assert not any(name.startswith("_orig_mod") for name in compiled.model.state_dict())


# ---------------------------------------------------------------------------------------------- resume


def loaders():
    whole = images()
    x, y = next(iter(Batches(whole, len(whole))))
    generator = torch.Generator().manual_seed(5)
    augmented = Batches(whole, 10, shuffle=True, augment=Augment(flip=True, shift=1, cutout=2), seed=3)
    sampler = RandomSampler(range(len(whole)), generator=torch.Generator().manual_seed(6))
    return {
        "batches": augmented,
        "batches, fused": augmented,
        "loader with a sampler": DataLoader(TensorDataset(x, y), 10, sampler=sampler),
        "loader": DataLoader(TensorDataset(x, y), 10, shuffle=True),
        "loader with a generator": DataLoader(TensorDataset(x, y), 10, shuffle=True, generator=generator),
    }


def muon(model):
    return optim.Muon([{"params": [model[0].weight]}, {"params": [model[6].weight], "lr": 0.02}])


@pytest.mark.parametrize("kind", [*loaders()])
@pytest.mark.parametrize("stop_at", [1, 5, 7, 14])
def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(tmp_path, kind, stop_at):
    def run(folder, stop_at=None):
        model = network(dropout=0.3).to(memory_format=torch.channels_last)
        optimizer = muon(model)
        if kind == "batches, fused":
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
        calls = []

        def loss(logits, labels):
            calls.append(1)
            if stop_at is not None and len(calls) > stop_at:
                raise StopError
            return F.cross_entropy(logits, labels)

        return train(
            model,
            epochs=3,
            batches=loaders()[kind],
            optimizer=optimizer,
            loss=loss,
            schedule=optim.triangle(),
            average_decay=0.9,
            checkpoints=folder,
            checkpoint_every=1,
        )

    whole = run(tmp_path / "whole")
    with pytest.raises(StopError):
        run(tmp_path / "broken", stop_at)
    resumed = run(tmp_path / "broken")
    assert_same(weights(whole.model), weights(resumed.model))
    assert_same(weights(whole.average), weights(resumed.average))
    timeless = [{k: v for k, v in row.items() if "second" not in k} for row in whole.history]
    assert timeless == [{k: v for k, v in row.items() if "second" not in k} for row in resumed.history]
    assert resumed.history[-1]["seconds"] >= resumed.history[0]["seconds"]


def test_a_finished_run_is_only_loaded_and_the_folder_stays_small(tmp_path):
    first = train(checkpoints=tmp_path, checkpoint_every=1, keep=2)
    assert len(checkpoint.list_steps(tmp_path)) == 2
    again = train(checkpoints=tmp_path)
    assert again.history == first.history
    assert_same(weights(first.model), weights(again.model))


def test_another_average_is_refused(tmp_path):
    train(checkpoints=tmp_path, epochs=1)
    with pytest.raises(ValueError, match="average_decay"):
        train(checkpoints=tmp_path, average_decay=0.9)


WORKER = """
import sys, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from test_training import fit, network, sgd, loaders, optim
model = network(dropout=0.3)
run = fit(model, loaders()["batches"], sgd(model), epochs=20, schedule=optim.cosine(), average_decay=0.9,
          checkpoints=sys.argv[2], checkpoint_every=1, progress=False)
torch.save(run.model.state_dict(), sys.argv[3])
"""


def start_worker(folder, result):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(Path(__file__).parent), str(folder), str(result)]
    )


def test_a_run_killed_at_a_random_step_ends_with_the_identical_weights(tmp_path):
    assert start_worker(tmp_path / "whole", tmp_path / "whole.pt").wait(120) == 0
    victim = start_worker(tmp_path / "killed", tmp_path / "killed.pt")
    aim = int.from_bytes(os.urandom(1)) % 35 + 5  # of 100 steps
    while victim.poll() is None and not any(
        int(path.stem[5:]) >= aim for path in checkpoint.list_steps(tmp_path / "killed")
    ):
        time.sleep(0.002)
    victim.kill()  # SIGKILL; TerminateProcess on Windows
    assert victim.wait(60) != 0, "the worker ended before it could be killed"
    assert not (tmp_path / "killed.pt").exists()
    assert start_worker(tmp_path / "killed", tmp_path / "killed.pt").wait(120) == 0
    a, b = (torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "killed.pt"))
    assert_same(a, b)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a thread of this process")
def test_ctrl_c_leaves_a_usable_checkpoint(tmp_path, capsys):
    handler = signal.getsignal(signal.SIGINT)

    def loss(logits, labels):
        if len(checkpoint.list_steps(tmp_path)) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return F.cross_entropy(logits, labels)

    with pytest.raises(KeyboardInterrupt):
        train(epochs=9, loss=loss, checkpoints=tmp_path, checkpoint_every=1)
    path, state = checkpoint.load_latest(tmp_path)
    assert path.name == "step-00000003.safetensors"
    assert state["step"] == 3
    assert "stopping after this step" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is handler


def test_fit_works_in_a_thread():
    result = []
    thread = threading.Thread(target=lambda: result.append(train(epochs=1).step))
    thread.start()
    thread.join()
    assert result == [3]


def test_progress_is_plain_lines_when_not_on_a_terminal(capsys):
    model = network()
    fit(model, Batches(images(), 16), sgd(model), epochs=2, evaluate=lambda m: {"accuracy": 0.5})
    out = capsys.readouterr()
    assert out.out.count("\n") == 2
    assert "epoch 2/2" in out.out
    assert "images/s" in out.out
    assert "accuracy 0.5" in out.out
    assert out.err == ""


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    model = network()
    fit(model, Batches(images(), 16), sgd(model), epochs=2)
    assert "images/s" in capsys.readouterr().err
