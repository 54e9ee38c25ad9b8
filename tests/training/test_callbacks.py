"""Callbacks of `training.fit`: when they are called, what is kept of them, and the three that the package has."""

import pytest
import torch
from tiny_run import (
    StopError,
    assert_same,
    images,
    network,
    sgd,
    timeless,
    train,
    weights,
)
from torch import nn

from bigmodel_helpers.data import Batches, normalize
from bigmodel_helpers.training import EarlyStopping, Grow, KeepStatistics, WeightAverage, checkpoint


class Counter:
    def __init__(self):
        self.calls = []

    def __call__(self, run):
        self.calls.append(("row", run.step))

    def before_step(self, run):
        self.calls.append(("before", run.step))

    def after_step(self, run):
        self.calls.append(("after", run.step))


def test_a_callback_is_called_after_rows_and_around_steps():
    counter = Counter()
    train(steps=2, every=2, callbacks=filter(None, [counter]))
    assert counter.calls == [("before", 0), ("after", 1), ("before", 1), ("after", 2), ("row", 2)]


def test_a_callback_ends_the_run_after_its_step_with_a_last_row():
    class Enough:
        def after_step(self, run):
            run.stop = run.step == 4

    run = train(callbacks=[Enough()])
    assert (run.step, run.history[-1]["step"]) == (4, 4)
    assert run.is_done
    assert train().is_done


def test_a_failing_evaluation_or_callback_does_not_lose_the_steps(tmp_path):
    def fail(_):
        raise StopError

    for name, options in {"evaluate": {"evaluate": fail}, "callback": {"callbacks": [fail]}}.items():
        with pytest.raises(StopError):
            train(checkpoints=tmp_path / name, **options)
        assert checkpoint.load(checkpoint.latest(tmp_path / name))["step"] == 3
        again, whole = train(checkpoints=tmp_path / name), train()
        assert_same(weights(again.model), weights(whole.model))
        assert timeless(again.history) == timeless(whole.history)


# --------------------------------------------------------------------------------------- early stopping


class Steps:
    """Counts steps in a buffer of the model, so that an evaluation knows where it is."""

    def after_step(self, run):
        run.model.steps += 1


def stopped_run(folder=None, fail_at=None):
    seen, stopping, model = [], EarlyStopping("accuracy", patience=2), network()
    model.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def evaluate(model):
        seen.append(weights(model))
        return {"accuracy": [0.3, 0.5, 0.5, 0.4, 0.9][int(model.steps) - 1]}

    def fail(run):
        if run.step == fail_at:
            raise StopError

    callbacks = [stopping, Steps(), fail]
    run = train(model, steps=5, every=1, evaluate=evaluate, callbacks=callbacks, checkpoints=folder)
    return run, stopping, seen


def test_early_stopping_keeps_the_best_weights():
    run, stopping, seen = stopped_run()
    assert run.step == 4
    assert (stopping.best, stopping.best_step, stopping.waited) == (0.5, 2, 2)
    assert not torch.equal(run.model[0].weight, seen[1]["0.weight"])
    assert stopping.restore(run.model) is run.model
    assert_same(weights(run.model), seen[1])


@pytest.mark.parametrize("fail_at", [1, 2, 3])
def test_early_stopping_survives_a_kill(tmp_path, fail_at):
    with pytest.raises(StopError):
        stopped_run(tmp_path, fail_at)
    run, stopping, _ = stopped_run(tmp_path)
    whole, other, _ = stopped_run()
    assert run.step == whole.step == 4
    assert_same(stopping.weights, other.weights)
    again, third, _ = stopped_run(tmp_path)  # stopped is stopped
    assert again.step == 4
    assert_same(third.weights, other.weights)


def test_early_stopping_refuses_wrong_calls():
    with pytest.raises(ValueError, match="at least 1"):
        EarlyStopping("accuracy", patience=0)
    with pytest.raises(ValueError, match="train first"):
        EarlyStopping("accuracy").restore(network())
    with pytest.raises(ValueError, match=r"no metric 'acuracy' to watch.*step, epoch.*accuracy"):
        train(evaluate=lambda _: {"accuracy": 1.0}, callbacks=[EarlyStopping("acuracy")])


# --------------------------------------------------------------------------------------- weight average


def test_weight_average_is_the_formula_and_can_be_applied():
    trail = []
    model = network()
    model.register_buffer("table", torch.arange(20))
    average = WeightAverage(model, decay=0.7)
    optimizer = sgd(model)
    optimizer.register_step_post_hook(lambda *_: trail.append(weights(model)))
    run = train(model, optimizers=optimizer, callbacks=[average])
    average.after_step(run)  # once more
    trail.append(trail[-1])
    wanted = trail[0]
    for point in trail[1:]:
        wanted = {n: wanted[n] * 0.7 + v * 0.3 if v.is_floating_point() else v for n, v in point.items()}
    own = weights(model)
    with average.applied() as same:
        assert same is model
        assert_same(weights(model), wanted, rtol=1e-5, atol=1e-6)
        assert model.table.dtype == torch.int64
        assert not torch.equal(model[0].weight, own["0.weight"])
    assert_same(weights(model), own)
    with pytest.raises(ValueError, match="from 0 to below 1"):
        WeightAverage(model, decay=1.0)


def test_an_average_moves_half_of_the_way_with_a_decay_of_a_half():
    run = train(steps=1)
    average = WeightAverage(run.model, decay=0.5)
    average.after_step(run)
    with torch.no_grad():
        run.model[0].weight.add_(1.0)
    average.after_step(run)
    torch.testing.assert_close(average.weights["0.weight"], run.model[0].weight - 0.5)


def test_another_average_is_another_run(tmp_path):
    def run(*decays):
        model = network()
        return train(model, checkpoints=tmp_path, callbacks=[WeightAverage(model, decay) for decay in decays])

    run(0.9)
    with pytest.raises(ValueError, match=r"callback 0 WeightAverage\(decay=0.9\), this run has nothing"):
        run()
    with pytest.raises(ValueError, match=r"this run has WeightAverage\(decay=0.8\)"):
        run(0.8)


# -------------------------------------------------------------------------------------- growing pictures


def sizes_of_run(folder=None, fail_at=None):
    sizes = []

    def look(module, args):
        sizes.append(args[0].shape[-1])

    def fail(run):
        if run.step == fail_at:
            raise StopError

    model = network()
    model.register_forward_pre_hook(look)
    train(model, every=1, callbacks=[Grow(6, until=0.5), fail], checkpoints=folder)
    return sizes


def test_pictures_grow_from_the_first_step_on_and_after_a_resume(tmp_path):
    assert sizes_of_run() == [6, 6, 6, 8, 8, 8]
    for fail_at in (1, 4):
        with pytest.raises(StopError):
            sizes_of_run(tmp_path / str(fail_at), fail_at)
        assert sizes_of_run(tmp_path / str(fail_at)) == [6, 6, 6, 8, 8, 8][fail_at:]


def test_small_pictures_are_the_whole_ones_shrunk():
    batches = Batches(images(), 16, channels_last=True)
    batches.size = 4
    x, _ = next(iter(batches))
    whole = normalize(images().images[:16])
    wanted = nn.functional.interpolate(whole, size=(4, 4), mode="bilinear", antialias=True)
    torch.testing.assert_close(x, wanted)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_only_batches_with_a_size_can_grow():
    with pytest.raises(ValueError, match=r"list cannot shrink its pictures: train on data\.Batches"):
        train(batches=list(Batches(images(), 16)), callbacks=[Grow(4, 0.5)])


def test_statistics_are_kept_while_weights_are_trained():
    model = network()
    before = weights(model)
    train(model, callbacks=[KeepStatistics()])
    for name, value in weights(model).items():
        assert torch.equal(value, before[name]) == ("running" in name or "tracked" in name), name
