"""`training.fit` on two ranks: the numbers of one process, synchronized once a step, checkpoints written once."""

import sys
from pathlib import Path

import cloudpickle
import pytest
import tiny_run
import torch
import torch.distributed as dist
from tiny_run import StopError, TokenModel, assert_same, timeless, token_batches
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from bigmodel_helpers import data, distributed
from bigmodel_helpers.data import synthetic
from bigmodel_helpers.models import ResNet
from bigmodel_helpers.training import EarlyStopping, WeightAverage, checkpoint, fit, optim

for module in (sys.modules[__name__], tiny_run):
    cloudpickle.register_pickle_by_value(module)  # else each rank imports this module and its imports


def wrapped(kind):
    """Return the model as `kind` wants it, and a list that grows with each exchange of gradients."""
    model, exchanges = TokenModel(), []
    if kind == "ddp":
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        model = DistributedDataParallel(model)

        def hook(state, bucket):
            exchanges.append(1)
            return allreduce_hook(None, bucket)

        model.register_comm_hook(None, hook)
    if kind == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    return model, exchanges


class Operations(TorchDispatchMode):
    """Notes the names of the operations that run. (The CommDebugMode of torch 2.11 fails on a model in a model.)"""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def tokens_run(kind, batches, accumulate, folder=None, fail_at=None):
    """Train with two optimizers, clipping, an average and early stopping; return all that must be the same."""
    from bigmodel_helpers.training._ranks import bare, plain

    model, exchanges = wrapped(kind)
    average = WeightAverage(model, 0.8)
    stopping = EarlyStopping("score", patience=9)

    def fail(run):
        if run.step == fail_at:
            raise StopError

    inner = bare(model)
    optimizers = [
        torch.optim.AdamW(inner.embedding.parameters(), lr=0.05),
        torch.optim.SGD(inner.head.parameters(), lr=0.5, momentum=0.9),
    ]
    options = {"unit": "tokens", "schedule": optim.cosine(), "clip_norm": 0.2, "progress": False, "every": 1}
    with Operations() as operations:
        run = fit(
            model,
            batches,
            optimizers,
            steps=4,
            accumulate=accumulate,
            evaluate=torch.no_grad()(lambda model: {"score": model(torch.arange(7)[None]).sum().item()}),
            callbacks=[average, stopping, fail],
            checkpoints=folder,
            **options,
        )
    if kind == "fsdp":
        exchanges = [name for name in operations.names if "reduce_scatter" in name]
    with average.applied():
        averaged = {name: value.clone() for name, value in plain(inner.state_dict()).items()}
    return {
        "weights": plain(inner.state_dict()),
        "average": averaged,
        "best": plain(stopping.weights),
        "history": timeless(run.history),
        "exchanges": len(exchanges),
    }


def on_each_rank(folder):
    folder, rank = Path(folder), dist.get_rank()
    batches = token_batches(8, seed=rank)  # uneven, and different on each rank
    results = {kind: tokens_run(kind, batches, 2) for kind in ("ddp", "fsdp")}
    for before, after in (("ddp", "fsdp"), ("fsdp", "ddp")):
        place = folder / f"{before}, then {after}"
        try:
            tokens_run(before, batches, 2, place, fail_at=2)
        except StopError:
            results[f"{before}, then {after}"] = tokens_run(after, batches, 2, place)
    results["alone"] = tokens_run("plain", batches, 2)
    try:
        tokens_run("plain", batches, 2, folder / "ddp, then fsdp")
    except ValueError as error:
        results["refused"] = str(error)
    model, batches = wrapped("ddp")[0], token_batches(3 + rank, seed=rank)  # a pass ends at another step
    uneven = fit(model, batches, torch.optim.SGD(model.parameters(), lr=0.5), steps=7, progress=False)
    results["uneven"] = [row["step"] for row in uneven.history]
    results["pictures"] = [pictures_run(folder / "pictures", rank) for _ in range(2)]
    return results


def pictures_run(folder, rank):
    """The reported case: each rank had pruned the other's unfinished file."""
    images, labels = synthetic.shapes(128, seed=0)
    pictures = data.ImageSet(images, labels, synthetic.CLASSES, "shapes")
    torch.manual_seed(0)
    model = DistributedDataParallel(ResNet(blocks=(1, 1), widths=(8, 16)))
    batches = data.Batches(pictures, 16, shuffle=True, seed=rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run = fit(model, batches, optimizer, steps=12, every=1, checkpoints=folder, progress=False)
    return run.step, sum(p.double().sum().item() for p in model.parameters())


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, distributed.launch(on_each_rank, str(folder), processes=2, device_type="cpu", timeout=200)


@pytest.fixture(scope="module")
def one_process():
    first, second = token_batches(8, seed=0), token_batches(8, seed=1)
    together = [batch for i in range(0, 8, 2) for batch in (*first[i : i + 2], *second[i : i + 2])]
    return tokens_run("plain", together, 4)


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "ddp, then fsdp", "fsdp, then ddp"])
def test_two_ranks_give_the_numbers_of_one_process(two_ranks, one_process, kind):
    for results in two_ranks[1]:
        for part in ("weights", "average", "best"):
            assert_same(results[kind][part], one_process[part], rtol=1e-5, atol=1e-6)
        for ours, theirs in zip(results[kind]["history"], one_process["history"], strict=True):
            assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-6)
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    a, b = (results[kind] for results in two_ranks[1])
    assert a["history"] == b["history"]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_gradients_are_exchanged_once_a_step(two_ranks, kind):
    assert [results[kind]["exchanges"] for results in two_ranks[1]] == [4, 4]  # 4 steps of 2 batches


def test_rows_come_together_where_passes_have_other_lengths(two_ranks):
    assert [results["uneven"] for results in two_ranks[1]] == [[3, 6, 7]] * 2


def one_rank_fails(folder):
    model = wrapped("ddp")[0]

    def evaluate(model):
        if dist.get_rank() == 1:
            raise StopError("of rank 1")
        return {}

    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    fit(model, token_batches(3), optimizer, steps=3, evaluate=evaluate, checkpoints=folder, progress=False)


def test_an_evaluation_that_fails_on_one_rank_is_told_and_not_waited_for(tmp_path):
    with pytest.raises(distributed.WorkerError, match="of rank 1"):
        distributed.launch(one_rank_fails, str(tmp_path), processes=2, device_type="cpu", timeout=30)


def test_a_plain_model_trains_alone_even_in_a_group(two_ranks):
    for rank, results in enumerate(two_ranks[1]):
        alone = tokens_run("plain", token_batches(8, seed=rank), 2)
        assert_same(results["alone"]["weights"], alone["weights"])


def test_a_checkpoint_of_ranks_holds_plain_whole_weights(two_ranks, one_process):
    folder, _ = two_ranks
    for name in ("ddp, then fsdp", "fsdp, then ddp"):
        state = checkpoint.load(checkpoint.latest(folder / name))
        assert_same(state["model"], one_process["weights"], rtol=1e-5, atol=1e-6)
        assert state["optimizers"][0]["state"][0]["exp_avg"].shape == (7, 6)
        assert len(state["ranks"]) == 2


def test_another_number_of_ranks_is_another_setting(two_ranks):
    for results in two_ranks[1]:
        assert "was saved with ranks 2, this run has 1: use the same" in results["refused"]


def test_both_ranks_end_alike_and_the_folder_holds_whole_checkpoints(two_ranks):
    folder, (a, b) = two_ranks
    assert a["pictures"] == b["pictures"]
    assert a["pictures"][0] == a["pictures"][1]
    assert a["pictures"][0][0] == 12
    files = sorted(path.name for path in (folder / "pictures").iterdir())
    assert files == ["step-00000011.safetensors", "step-00000012.safetensors"]
