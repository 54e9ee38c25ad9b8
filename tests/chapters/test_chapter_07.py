"""Chapter 7: every way to share the work equals one process, every symptom occurs, nothing stays behind."""

import sys
import warnings
from functools import partial

import cloudpickle
import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from chapter_code import chapter_namespace
from torch import nn
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe

from bigmodel_helpers import distributed
from bigmodel_helpers.measure import budgets

CELLS = [
    *("imports", "imports-parallel", "setup", "collectives-code", "ring-code", "wire"),
    *("dp-data", "dp-single", "dp-train", "dp-mistake-code"),
    *("dp-hand-code", "dp-bucket", "dp-arrive", "ddp-code", "bn-code", "bn-compare-code", "uneven-code"),
    *(
        "zero-reference",
        "zero-train",
        "zero3-code",
        "zero3-layer",
        "zero3-train-code",
        "fsdp-code",
        "memory-model",
        "memory-size",
    ),
    *(
        "tp-code",
        "tp-mlp",
        "tp-split",
        "tp-check-code",
        "tp-plan-code",
        "pp-by-hand",
        "pp-gpipe",
        "pp-library-code",
    ),
    *(
        "pp-simulate",
        "pp-timeline",
        "dcp-code",
        "dcp-save",
        "dcp-load",
        "lab-symptom",
        "lab-dies-code",
        "lab-some-code",
    ),
    *("lab-shapes-code", "lab-slow-code", "lab-same-code", "elastic-code", "elastic-parts"),
]
launch = partial(distributed.launch, device_type="cpu")
# The ranks get the functions of the chapter by value, because no module "chapter_07" can be imported.
with plt.rc_context():
    CHAPTER = chapter_namespace("07_distributed", CELLS, __name__="chapter_07", profile_name="smoke")
pytestmark = pytest.mark.usefixtures("no_process_left")
cloudpickle.register_pickle_by_value(
    sys.modules[__name__]
)  # else each rank imports this module, and runs the chapter


def of_chapter(name):
    return CHAPTER[name]


def assert_same(weights, expected, tolerance):
    assert of_chapter("difference")(weights, expected) < tolerance


def do_all(jobs):
    """Return what each job gives, by its name; each finds the same state of the random numbers."""
    results = {}
    for name, (function, *args) in jobs.items():
        torch.manual_seed(0)
        results[name] = function(*args)
    return results


def jobs_for(world):
    """Return what so many ranks compute, each part under its name."""
    jobs = {}
    if world < 4:
        for prepare in ("one_message_each", "in_buckets", "ddp"):
            jobs[prepare] = "train", of_chapter(prepare)
        jobs |= {f"stage {stage}": ("train_sharded", stage) for stage in (1, 2)}
        jobs |= {"by hand": ("train_by_hand",), "fsdp": ("train_fsdp", None)}
    if world == 2:
        jobs |= {"silent": ("train", of_chapter("silent"))}
        jobs |= {f"uneven, {c}": ("gradient_of_uneven_batch", c) for c in (False, True)}
        jobs |= {"norms": ("train_with_norms", of_chapter("GlobalBatchNorm"))}
    if world != 3:
        jobs |= {"split": ("tensor_parallel",), "plan": ("tensor_parallel_plan",)}
        jobs |= {f"pipeline by hand, {m}": ("gpipe_by_hand", m) for m in (4, 6)}
        jobs |= {f"pipeline {way.__name__}": ("pipeline", way, 8) for way in (ScheduleGPipe, Schedule1F1B)}
    return {name: (of_chapter(function), *args) for name, (function, *args) in jobs.items()}


@pytest.fixture(scope="module")
def by_rank():
    """Return by rank what 2, 3 and 4 ranks compute; to start ranks takes longer than what they do."""
    return {world: launch(do_all, jobs_for(world), processes=world) for world in (2, 3, 4)}


@pytest.mark.parametrize("world", [2, 3, 5])
def test_ring_equals_all_reduce_and_sends_what_the_formula_says(world):
    sent = launch(of_chapter("ring_check"), 60 * world, processes=world)
    assert sent == [pytest.approx(budgets.ring_bytes("all-reduce", 1, world))] * world


def test_four_collectives():
    by_rank = launch(of_chapter("collectives"), processes=4)
    assert [result["all-reduce"] for result in by_rank] == [[60, 64, 68, 72]] * 4
    assert [result["reduce-scatter"] for result in by_rank] == [[60], [64], [68], [72]]
    assert [result["all-gather"] for result in by_rank] == [[0, 10, 20, 30]] * 4
    assert [result["broadcast from 2"] for result in by_rank] == [[20, 21, 22, 23]] * 4


def test_bytes_on_the_wire_are_those_of_the_ring():
    lists, *_ = launch(of_chapter("wire"), processes=4)  # the smallest of three counts: others only add
    derived = {name: 4 * budgets.ring_bytes(name, 1, 4) for name in ("all-reduce", "all-gather")}
    for name, expected in (derived | {"broadcast": 3}).items():
        assert lists[name] == pytest.approx(expected, rel=0.05)
    assert lists["reduce-scatter"] > 0.95 * 4 * budgets.ring_bytes("reduce-scatter", 1, 4)


@pytest.mark.parametrize("prepare", ["one_message_each", "in_buckets", "ddp"])
@pytest.mark.parametrize("world", [2, 3])
def test_data_parallel_equals_one_process(by_rank, prepare, world):
    for results in by_rank[world]:
        weights, losses = results[prepare]
        assert_same(weights, of_chapter("reference"), 1e-5)
        assert losses == pytest.approx(of_chapter("losses_alone"), rel=1e-4)


def test_without_messages_the_ranks_drift_apart(by_rank):
    (first, _), (second, _) = (results["silent"] for results in by_rank[2])
    assert of_chapter("difference")(first, second) > 0.01


def test_uneven_shares_need_weights(by_rank):
    wrong, right = (by_rank[2][0][f"uneven, {c}"] for c in (False, True))
    expected = of_chapter("gradient_alone")()
    assert_same(right, expected, 1e-5)
    assert of_chapter("difference")(wrong, expected) > 0.05


def test_batch_norm_over_all_ranks_equals_one_process(by_rank):
    (alone,) = launch(of_chapter("train_with_norms"), nn.BatchNorm1d, processes=1)[0]
    assert_same(by_rank[2][0]["norms"][0], alone, 1e-4)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("world", [2, 3])
def test_sharded_optimizer_equals_one_process(by_rank, stage, world):
    expected = of_chapter("reference_adamw")
    for results in by_rank[world]:
        weights, state = results[f"stage {stage}"]
        assert_same(weights, expected, 1e-10)
        assert state == pytest.approx(2 * len(expected) / world, abs=4)


def test_weights_in_shards_by_hand_and_by_fsdp2_equal_one_process(by_rank):
    expected = launch(of_chapter("train_whole"), processes=1)[0]
    for world in (2, 3):
        ours, (theirs, *_) = (by_rank[world][0][way] for way in ("by hand", "fsdp"))
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(theirs, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("world", [2, 4])
def test_split_layer_equals_whole_layer(by_rank, world):
    assert by_rank[world][0]["split"] < 1.1 / world
    assert "plan" in by_rank[world][0]  # which compares by itself


@pytest.mark.parametrize("stages", [2, 4])
def test_pipelines_equal_the_whole_model(by_rank, stages):
    deep = of_chapter("make_deep")()
    x, y = of_chapter("global_batch")(0)
    F.cross_entropy(deep(x.double()), y).backward()
    expected = torch.cat([p.grad.flatten() for p in deep.parameters()])
    for way in ("by hand, 4", "by hand, 6", "ScheduleGPipe", "Schedule1F1B"):
        gradients = torch.cat([results[f"pipeline {way}"] for results in by_rank[stages]])
        torch.testing.assert_close(gradients, expected)


def test_simulated_schedules_have_the_bubble_of_the_package():
    for schedule in ("GPipe", "1F1B"):
        for stages in range(1, 7):
            for m in range(1, 13):
                total = max(of_chapter("timeline")(schedule, stages, m).values())
                assert 1 - 3 * m / total == pytest.approx(budgets.pipeline_bubble(stages, m))


def test_checkpoint_of_two_ranks_is_read_by_four_by_one_and_without_a_group(tmp_path):
    undisturbed = of_chapter("run_steps")(*of_chapter("sharded_on")(1), 0, 20)
    launch(of_chapter("save_halfway"), str(tmp_path), processes=2)
    for world in (4, 1):
        resumed = launch(of_chapter("go_on_together"), str(tmp_path), processes=world)
        for weights in resumed:
            assert_same(weights, undisturbed, 1e-10)
    with warnings.catch_warnings(action="ignore"):  # "torch.distributed is ... uninitialized": on purpose
        assert_same(of_chapter("go_on")(str(tmp_path)), undisturbed, 1e-10)


def failure(name, *args, **options):
    with pytest.raises(distributed.WorkerError) as caught:
        launch(of_chapter(name), *args, **options)
    return caught.value


def test_symptom_of_a_rank_that_dies():
    error = failure("one_dies")
    assert (error.rank, error.kind) == (1, "killed")


def test_symptom_of_a_collective_that_some_ranks_call(monkeypatch):
    error = failure(
        "only_rank_zero", timeout=15
    )  # from the start of the processes, which a busy machine delays
    assert error.kind == "timeout"
    assert "in all_reduce" in str(error)
    assert "in broadcast" in str(error)
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "DETAIL")
    assert "Collectives differ" in str(failure("only_rank_zero"))


def test_symptom_of_different_shapes(capsys, monkeypatch):
    assert failure("different_shapes").kind == "killed"
    assert "Received data size doesn't match" in capsys.readouterr().out
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "DETAIL")
    assert "Tensor shapes" in str(failure("different_shapes"))


def test_symptom_of_an_exhausted_timeout():
    assert "Timed out waiting" in str(failure("slow_rank", 3))
    launch(of_chapter("slow_rank"), 0)


def test_symptom_of_ranks_that_see_the_same_data():
    assert launch(of_chapter("checksums"), False, processes=3) == [1, 1, 1]
    assert launch(of_chapter("checksums"), True, processes=3) == [3, 3, 3]


def test_killed_run_restarts_from_its_checkpoint_and_ends_with_the_same_loss(tmp_path, capsys):
    quiet, disturbed = tmp_path / "quiet", tmp_path / "disturbed"
    quiet.mkdir()
    disturbed.mkdir()
    expected = launch(of_chapter("train_elastic"), str(quiet), None)
    assert launch(of_chapter("train_elastic"), str(disturbed), 12, restarts=1) == expected
    assert "attempt 1: from step 10" in capsys.readouterr().out
