"""The recipe train_mesh.py: each mesh comes to the result of a plain loop, and resumes what another one has left."""

import functools
import importlib
import io
import os
import re
import subprocess
import sys
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path
from unittest.mock import patch

import cloudpickle
import psutil
import pytest
import torch
import torch.distributed as dist
from hosts import SETTINGS, TIMEOUT, Program, hosts_possible, one_machine, wait_until

from bigmodel_helpers import distributed

pytestmark = pytest.mark.usefixtures("no_process_left")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # else each rank imports this module
LAUNCH = Path(__file__).resolve().parents[2] / "book" / "launch"
TORCHRUN = ["bash", str(LAUNCH / "torchrun.sh")]
posix = pytest.mark.skipif(sys.platform == "win32", reason="the recipes are for Linux and macOS")
LARGE = {"heads": 16, "batch": 4}  # so that a save takes longer than to see that it runs


def program():
    """Return the training program as a module."""
    if str(LAUNCH) not in sys.path:
        sys.path.append(str(LAUNCH))
    return importlib.import_module("train_mesh")


@functools.cache
def plain_loss(steps, heads=4, layers=2, batch=16):
    """Return the final loss of the recipe's training without processes, meshes and checkpoints."""
    train = program()
    torch.manual_seed(train.SEED)
    model = train.Transformer(layers, heads * train.HEAD_WIDTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        (model(train.make_rows(step, batch, 32)) / (batch * 32)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)  # which it exceeds at times
        optimizer.step()
    with torch.no_grad():
        return (model(train.make_rows(0, batch, 32)) / (batch * 32)).item()


def result(text):
    """Return loss and mesh in the last line of a run."""
    loss, world, dp, tp = re.findall(r"final loss (\S+) world (\d+) mesh (\d+)x(\d+)\n", text)[-1]
    assert int(world) == int(dp) * int(tp)
    return float(loss), f"{dp}x{tp}"


def is_plain(steps, mesh, **size):
    """Return what `result` must be."""
    return pytest.approx(plain_loss(steps, **size), rel=1e-6), mesh


def saved_steps(text):
    """Return (step, processes) of each checkpoint that a run has reported."""
    return [tuple(map(int, found)) for found in re.findall(r"step (\d+) loss \S+ world (\d+) attempt", text)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def run_main(folder, *options):
    """Run the program in this process; return what it prints."""
    words = ["train_mesh.py", "--checkpoint", str(folder), *map(str, options)]
    with patch.object(sys, "argv", words), redirect_stdout(io.StringIO()) as text:
        program().main()
    return text.getvalue()


def alone(folder, *options):
    """Run the program as the only process of a run."""
    rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    with (
        patch.dict(os.environ, rank | one_machine()),
        patch.object(torch.cuda, "is_available", lambda: False),
    ):
        return run_main(folder, *options)


def in_a_group(runs):
    """Run the program several times in the process group that is there; return what rank 0 prints each time."""
    with patch.object(dist, "init_process_group"), patch.object(dist, "destroy_process_group"):
        return [run_main(folder, *options) for folder, *options in runs]


def on_four(*runs):
    """Do runs of four processes, which start only once."""
    return distributed.launch(in_a_group, runs, processes=4, device_type="cpu", timeout=TIMEOUT)[0]


# Without a failure


def test_the_attention_of_the_recipe_looks_back_and_knows_distances():
    attention = program().Attention(64)
    x = torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(0))
    changed = torch.cat([x[:, :5], x[:, 5:] + 1], dim=1)
    with torch.no_grad():
        before, after = attention(x), attention(changed)
        swapped = attention(x[:, [1, 0, 2, 3, 4, 5]])
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5] - after[:, 5]).abs().max() > 1e-3
    assert (before[:, 5] - swapped[:, 5]).abs().max() > 1e-3  # without positions the same


@pytest.mark.parametrize("options", [(), ("--async-save", "--checkpoint-activations")])
def test_one_process_comes_to_the_result_of_a_plain_loop(options, tmp_path):
    for expected in ([(2, 1), (4, 1), (5, 1)], []):  # the second run finds that all is done
        text = alone(tmp_path, "--steps", 5, "--save-every", 2, *options)
        assert saved_steps(text) == expected
        assert result(text) == is_plain(5, "1x1")
    assert names(tmp_path) == ["step-00004", "step-00005"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train on three meshes of four processes; return the outputs, and the folder of the checkpoints."""
    folder = tmp_path_factory.mktemp("meshes")
    more = {"2x2": ["--tp", 2], "4x1": ["--batch", 18], "1x4": ["--tp", 4, "--async-save"]}
    more["2x2"] += ["--async-save"]
    more["4x1"] += ["--checkpoint-activations"]
    texts = on_four(
        *([folder / mesh, "--steps", 5, "--save-every", 2, *options] for mesh, options in more.items())
    )
    return dict(zip(more, texts, strict=True)), folder


@pytest.mark.parametrize(("mesh", "batch"), [("2x2", 16), ("4x1", 18), ("1x4", 16)])
def test_four_processes_come_to_the_result_of_one_on_every_mesh(mesh, batch, runs):
    texts, folder = runs
    assert saved_steps(texts[mesh]) == [(2, 4), (4, 4), (5, 4)]
    assert result(texts[mesh]) == is_plain(5, mesh, batch=batch)  # 18 rows are uneven shares for four
    assert names(folder / mesh) == ["step-00004", "step-00005"]


def test_one_mesh_resumes_from_the_checkpoint_of_another_one(runs):
    folder = runs[1] / "2x2"
    text = alone(folder, "--steps", 6)
    assert (saved_steps(text), result(text)) == ([(6, 1)], is_plain(6, "1x1"))
    wide, tall = on_four([folder, "--steps", 7], [folder, "--steps", 8, "--tp", 4])
    assert (saved_steps(wide), result(wide)) == ([(7, 4)], is_plain(7, "4x1"))
    assert (saved_steps(tall), result(tall)) == ([(8, 4)], is_plain(8, "1x4"))


@pytest.mark.parametrize(
    ("world", "options", "reason"),
    [
        (4, ["--tp", "3"], "--tp 3 does not divide 4 processes: take a divisor"),
        (3, ["--tp", "3"], "--tp 3 does not divide 4 heads: take a divisor"),
        (3, ["--tp", "3", "--heads", "6"], "--tp 3 does not divide 32 tokens: take a divisor"),
        (2, ["--tp", "0"], "--tp 0 does not divide 2 processes: take a divisor"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_line(world, options, reason, tmp_path):
    with patch.dict(os.environ, {"WORLD_SIZE": str(world)}), pytest.raises(SystemExit) as stop:
        run_main(tmp_path, *options)
    assert stop.value.code == f"train_mesh.py: {reason}"


@posix
@pytest.mark.parametrize(
    ("choice", "program", "checkpoint"),
    [({}, "train.py", "checkpoint.pt"), ({"PROGRAM": "train_mesh.py"}, "train_mesh.py", "checkpoints")],
)
def test_torchrun_sh_starts_the_program_that_is_named(choice, program, checkpoint, tmp_path):
    (tmp_path / "torchrun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "torchrun").chmod(0o755)
    variables = {name: value for name, value in os.environ.items() if name not in SETTINGS} | choice
    variables["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([*TORCHRUN, "--tp", "2"], env=variables, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-5:] == [f"{LAUNCH}/{program}", "--checkpoint", checkpoint, "--tp", "2"]


# With hosts and failures


def ranks(program):
    """Return the processes of a program that train, by rank."""
    found = {}
    for process in program.workers():
        with suppress(psutil.Error):  # one that has just ended
            found[process.environ().get("RANK")] = process
    return {rank: process for rank, process in found.items() if rank is not None}


@hosts_possible
def test_a_mesh_over_two_hosts_comes_to_the_result_of_one_process(two_hosts, tmp_path):
    variables = {"PROGRAM": "train_mesh.py", "NODES": "2", "PROCESSES": "2", "HOST": "node-a"}
    variables |= {"CHECKPOINT": str(tmp_path / "checkpoints"), "CUDA_VISIBLE_DEVICES": ""}
    options = ["--tp", "2", "--steps", "4", "--save-every", "2"]
    first, second = (host.command(*TORCHRUN, *options) for host in two_hosts)
    with (
        Program(first, tmp_path / "a", **variables) as on_a,
        Program(second, tmp_path / "b", **variables) as on_b,
    ):
        wait_until(lambda: len(ranks(on_a)) == len(ranks(on_b)) == 2, on_a, on_b)
        assert sorted(map(sorted, (ranks(on_a), ranks(on_b)))) == [["0", "1"], ["2", "3"]]  # tp inside a host
        text = on_a.finish() + on_b.finish()
    assert "suboptimal" not in text  # what each process says of DTensor's collectives
    assert saved_steps(text) == [(2, 4), (4, 4)]
    assert result(text) == is_plain(4, "2x2")
    assert names(tmp_path / "checkpoints") == ["step-00002", "step-00004"]


@posix
def test_a_process_killed_in_a_save_leaves_the_last_whole_checkpoint(tmp_path):
    folder = tmp_path / "checkpoints"
    options = ["--heads", 16, "--batch", 4, "--save-every", 2, "--async-save"]
    command = [*TORCHRUN, "--tp", "2", "--steps", "60", "--sleep", "0.1", *map(str, options)]
    variables = {"PROGRAM": "train_mesh.py", "MAX_RESTARTS": "0", "CHECKPOINT": str(folder)}
    variables |= {"CUDA_VISIBLE_DEVICES": ""} | one_machine()
    with Program(command, tmp_path / "output", **variables) as run:
        wait_until(lambda: len(ranks(run)) == 2, run)
        process = ranks(run)["0"]
        while not (folder / "step-00004.partial").exists():
            assert run.process.poll() is None, run.text()
            time.sleep(0.001)
        process.kill()
        assert run.process.wait(TIMEOUT) != 0
    assert names(folder) == ["step-00002", "step-00004.partial"]
    text = alone(folder, "--steps", 6, *options, "--save-every", 3)
    assert [step for step, _ in saved_steps(text)] == [3, 6]
    assert result(text) == is_plain(6, "1x1", **LARGE)
    assert names(folder) == ["step-00003", "step-00006"]
