"""`training.fit` on one device: the step, its mean, the stream of batches, rows, faults that it names."""

import sys
import threading
from collections import namedtuple
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_run import (
    TokenModel,
    assert_same,
    images,
    network,
    sgd,
    token_batches,
    train,
    weights,
)
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from bigmodel_helpers.data import Batches
from bigmodel_helpers.training import Run, checkpoint, count_targets, cross_entropy, fit, optim


def test_fit_equals_the_steps_written_bare():
    run = train(
        schedule=optim.cosine(warmup=0.25), loss=partial(cross_entropy, label_smoothing=0.1), clip_norm=0.5
    )
    model = network()
    optimizer = sgd(model)
    batches = Batches(images(), 16, shuffle=True, seed=3)
    for step in range(6):
        if step % 3 == 0:
            pass_of_batches = iter(batches)
        x, y = next(pass_of_batches)
        if step % 3 == 2:
            next(pass_of_batches, None)  # to the end of the pass
        optimizer.param_groups[0]["lr"] = 0.1 * optim.cosine(warmup=0.25)(step / 6)
        F.cross_entropy(model(x), y, label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    assert_same(weights(run.model), weights(model), atol=1e-7)


def test_it_learns_and_keeps_a_table():
    seen = []
    run = train(
        steps=24,
        evaluate=lambda model: {"answer": 42.0},
        callbacks=[lambda run: seen.append(run.history[-1]["epoch"])],
    )
    assert isinstance(run, Run)
    assert seen == list(range(1, 9))
    assert run.history[-1]["train_loss"] < 0.6 * run.history[0]["train_loss"]
    names = ["step", "epoch", "seconds", "images_per_second", "learning_rate", "train_loss", "answer"]
    assert list(run.history[-1]) == names
    assert run.history[-1]["step"] == run.step == run.steps == 24
    assert (run.epoch, run.progress, run.device) == (8, 1.0, torch.device("cpu"))


# ------------------------------------------------------------------------------------- mean over targets


def test_the_loss_of_a_row_is_the_mean_over_images_even_with_an_uneven_last_batch():
    model = network(norm=False)
    run = train(model, steps=3, batch_size=20, optimizers=sgd(model, lr=1e-30))
    whole = images()
    x, y = next(iter(Batches(whole, len(whole))))
    assert run.history[0]["train_loss"] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-6)


@pytest.mark.parametrize("micro", [8, 7])
def test_accumulation_equals_the_large_batch(micro):
    large = train(network(norm=False), batches=Batches(images(), micro * 2))
    small = train(network(norm=False), batches=Batches(images(), micro), accumulate=2)
    if micro == 8:
        assert small.epoch == large.epoch == 2
        assert_same(weights(large.model), weights(small.model), rtol=1e-4, atol=1e-6)
    else:  # a step may take its batches from two passes
        assert small.epoch == 12 / 7


def masked(accumulate, **options):
    model, batches = TokenModel(), token_batches(6)
    return fit(
        model,
        batches if accumulate > 1 else [joined(batches[i : i + 3]) for i in (0, 3)],
        torch.optim.SGD(model.parameters(), lr=1.0),
        steps=2,
        accumulate=accumulate,
        unit="tokens",
        progress=False,
        **options,
    )


def joined(batches):
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def test_masked_targets_count_the_same_in_small_batches_as_in_one():
    small, large = masked(3), masked(1)
    assert_same(weights(small.model), weights(large.model), rtol=1e-5, atol=1e-6)
    assert small.history[0]["train_loss"] == pytest.approx(large.history[0]["train_loss"], rel=1e-6)
    assert "tokens_per_second" in small.history[0]


def test_a_step_without_a_target_is_an_error_that_names_it():
    tokens, targets = token_batches(2)[1]
    hidden = [(tokens, targets), (tokens, torch.full_like(targets, -100))]
    model = TokenModel()
    with pytest.raises(ValueError, match="step 2 of 4 has no target: leave out"):
        fit(model, hidden, sgd(model), steps=4, progress=False)
    run = fit(model, hidden, sgd(model), steps=4, accumulate=2, progress=False)
    assert run.step == 4


def test_class_weights_give_the_weighted_mean():
    weight = torch.tensor([0.5, 2.0, 1.0])
    model, other = network(norm=False), network(norm=False)
    given = {
        "loss": partial(cross_entropy, weight=weight, label_smoothing=0.1),
        "count": partial(count_targets, weight=weight),
    }
    run = train(model, steps=1, batch_size=20, **given)
    (x, y), *_ = Batches(images(), 20, shuffle=True, seed=3)
    value = F.cross_entropy(other(x), y, weight, label_smoothing=0.1)
    value.backward()
    sgd(other).step()
    assert run.history[0]["train_loss"] == pytest.approx(value.item(), rel=1e-6)
    assert_same(weights(model), weights(other), atol=1e-6)


# ----------------------------------------------------------------------------------------- the batches


class Reused:
    """A loader that puts every batch into the same memory."""

    def __iter__(self):
        x, y = torch.empty(8, 3, 8, 8), torch.empty(8, dtype=torch.int64)
        for new_x, new_y in Batches(images(), 8):
            x.copy_(new_x)
            y.copy_(new_y)
            yield x, y


def test_a_loader_may_use_its_memory_again():
    plain = train(network(norm=False), batches=list(Batches(images(), 8)), accumulate=3)
    reused = train(network(norm=False), batches=Reused(), accumulate=3)
    assert_same(weights(plain.model), weights(reused.model))
    assert [row["step"] for row in reused.history] == [6]  # no length: one row, at the end
    assert reused.epoch is None
    assert "epoch" not in reused.history[0]


def test_each_pass_is_announced_to_a_sampler():
    x, y = next(iter(Batches(images(), 48)))

    class Sampler(DistributedSampler):
        def set_epoch(self, epoch):
            announced.append(epoch)
            super().set_epoch(epoch)

    announced = []
    sampler = Sampler(range(48), num_replicas=2, rank=0)
    train(batches=DataLoader(TensorDataset(x, y), 8, sampler=sampler), steps=8)
    assert dict.fromkeys(announced) == dict.fromkeys([0, 1, 2])

    class Own(list):
        def set_epoch(self, epoch):
            announced.append(epoch)

    announced = []
    train(batches=Own(Batches(images(), 16)), steps=5)
    assert announced == [0, 1]


def test_rows_come_at_the_ends_of_passes_or_every_so_many_steps():
    def steps(**options):
        return [(row["step"], row.get("epoch")) for row in train(**options).history]

    assert steps(steps=7) == [(3, 1), (6, 2), (7, pytest.approx(7 / 3))]
    assert steps(steps=4, accumulate=2) == [(2, pytest.approx(4 / 3)), (3, 2), (4, pytest.approx(8 / 3))]
    assert [step for step, _ in steps(steps=5, every=2)] == [2, 4, 5]

    class Endless(IterableDataset):
        def __iter__(self):
            return iter(TensorDataset(*next(iter(Batches(images(), 48)))))

    assert steps(batches=DataLoader(Endless(), 20), steps=4) == [(4, None)]


def test_batches_that_run_out_are_an_error():
    with pytest.raises(ValueError, match=r"step 1 of 6, pass 1 of the batches has none"):
        train(batches=iter([]))
    with pytest.raises(
        ValueError, match=r"step 4 of 6, pass 2 of the batches has none: give batches that can"
    ):
        train(batches=iter(Batches(images(), 16)))
    assert train(batches=iter(Batches(images(), 16)), steps=3).step == 3


@pytest.mark.parametrize("name", ["steps", "accumulate", "every"])
@pytest.mark.parametrize("number", [-1, 0, 7.5])  # a fractional number of steps was never reached
def test_numbers_that_count_nothing_are_refused(name, number):
    with pytest.raises(ValueError, match=f"{name} is {number}: use at least 1"):
        train(**{name: number})


@pytest.mark.parametrize("norm", [0, -1.0])
def test_a_norm_that_stops_or_turns_the_step_is_refused(norm):
    with pytest.raises(ValueError, match=f"clip_norm is {norm}: use None to leave"):
        train(clip_norm=norm)


def test_rates_may_be_numbers_of_numpy_and_torch(tmp_path):
    model = network()
    optimizer = sgd(model, lr=np.logspace(-1, 0, 3)[0])
    shape = {"schedule": lambda t: np.interp(t, [0, 0.2, 1], [0, 1, 0])}
    rows = train(model, optimizers=optimizer, checkpoints=tmp_path, **shape).history
    rows += train(schedule=lambda t: torch.tensor(1 - t)).history
    assert {type(row["learning_rate"]) for row in rows} == {float}
    assert_same(checkpoint.load(checkpoint.latest(tmp_path))["model"], weights(model))
    assert train(checkpoints=tmp_path, **shape).step == 6


def test_nested_batches_reach_the_loss_as_they_are():
    pair = namedtuple("Pair", ["chosen", "rejected"])
    batch = {"both": pair(torch.ones(2, 3), [torch.zeros(2, 3), "text"]), "number": 2}
    seen = []

    def loss(model, batch):
        seen.append(batch)
        return model(batch["both"].chosen).sum()

    model = nn.Linear(3, 1)
    fit(
        model,
        [batch],
        sgd(model),
        steps=1,
        accumulate=2,
        loss=loss,
        count=lambda b: b["number"],
        progress=False,
    )
    assert type(seen[0]["both"]) is pair
    assert seen[0]["both"].rejected[1] == "text"
    assert seen[0]["both"].chosen is not batch["both"].chosen


# ------------------------------------------------------------------------------------------- the step


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_several_optimizers_equal_one_with_groups(dtype):
    one, two = network(), network()
    groups = [{"params": one[0].parameters(), "lr": 0.1}, {"params": one[6].parameters(), "lr": 0.02}]
    options = {"dtype": dtype, "clip_norm": 0.3, "schedule": optim.triangle()}
    train(one, optimizers=torch.optim.SGD(groups, momentum=0.9), **options)
    several = [torch.optim.SGD(two[i].parameters(), lr=lr, momentum=0.9) for i, lr in ((0, 0.1), (6, 0.02))]
    train(two, optimizers=several, **options)
    assert_same(weights(one), weights(two))


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_clipping_limits_the_step(dtype):
    model = network()
    before = weights(model)
    plain = torch.optim.SGD(model.parameters(), lr=1.0)
    train(model, steps=1, batch_size=48, clip_norm=1e-3, optimizers=plain, dtype=dtype)
    moved = sum((p - before[name]).square().sum() for name, p in model.named_parameters()).sqrt()
    assert moved.item() == pytest.approx(1e-3, rel=0.01)


def test_clipping_counts_only_what_the_optimizer_trains():
    head_only = network()
    head_only[0].weight.register_hook(lambda gradient: gradient * 1e6)
    frozen = network()
    frozen[0].requires_grad_(False)
    frozen[1].requires_grad_(False)
    for model in (head_only, frozen):
        train(model, optimizers=torch.optim.SGD(model[6].parameters(), lr=0.1), clip_norm=0.01)
    assert_same(weights(head_only), weights(frozen))


def test_gradients_from_before_do_not_count():
    fresh, used = network(), network()
    for parameter in used.parameters():
        parameter.grad = torch.full_like(parameter, 9.0)
    assert_same(weights(train(fresh).model), weights(train(used).model))


def test_a_schedule_is_asked_from_0_to_below_1():
    asked = []
    train(schedule=lambda progress: asked.append(progress) or 1.0, checkpoints=None)
    assert asked == [step / 6 for step in range(6)]


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


@pytest.mark.parametrize("how", ["in place", "wrapped"])
def test_a_compiled_model_gives_the_same_losses_and_plain_names(tmp_path, how):
    model = network()
    if how == "in place":
        model.compile(backend="aot_eager")  # the whole way, but no C++ compiler needed
        compiled = train(model, checkpoints=tmp_path)
    else:
        compiled = train(torch.compile(model, backend="aot_eager"), checkpoints=tmp_path)
    plain = train()
    assert compiled.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"], rel=1e-4)
    saved = checkpoint.load(checkpoint.latest(tmp_path))["model"]
    assert_same(saved, weights(model))
    assert train(checkpoints=tmp_path).step == 6  # a plain model goes on from it


# -------------------------------------------------------------------------------- faults that are named


@pytest.mark.parametrize("bad_step", [1, 5])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path, bad_step):
    steps = []

    def loss(model, batch):
        steps.append(1)
        return cross_entropy(model, batch) * (float("nan") if len(steps) == bad_step else 1)

    with pytest.raises(FloatingPointError, match=rf"nan at step {bad_step} of 6: lower the learning rate"):
        train(loss=loss, checkpoints=tmp_path, every=1)
    for path in checkpoint.list_steps(tmp_path):
        assert all(value.isfinite().all() for value in checkpoint.load(path)["model"].values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    optimizer = sgd(model := network())
    optimizer.register_step_post_hook(lambda *_: model[6].bias.data.fill_(float("inf")))
    with pytest.raises(FloatingPointError, match="weights are not finite after step 1 of 6"):
        train(model, optimizers=optimizer, checkpoints=tmp_path, every=1)
    assert checkpoint.list_steps(tmp_path) == []


# --------------------------------------------------------------------------------------------- progress


def test_fit_works_in_a_thread():
    result = []
    thread = threading.Thread(target=lambda: result.append(train(steps=3).step))
    thread.start()
    thread.join()
    assert result == [3]


def test_progress_is_a_line_per_row_when_not_on_a_terminal(capsys):
    train(evaluate=lambda m: {"accuracy": 0.5}, progress=True)
    out = capsys.readouterr()
    assert out.out.count("\n") == 2
    for part in ("step 6/6", "epoch 2", "images/s", "accuracy 0.5", "0 s left"):
        assert part in out.out.splitlines()[1]
    assert out.err == ""


def test_progress_has_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train(progress=True)
    out = capsys.readouterr()
    assert "step 6/6" in out.out
    assert "6/6" in out.err
