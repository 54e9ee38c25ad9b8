"""The recipes of book/launch: they run as printed, lose processes and hosts, and come to the same result."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hosts import SETTINGS, TIMEOUT, Host, Program, hosts_possible, one_machine, wait_until
from torch.distributed.run import get_args_parser
from torch.nn.functional import cross_entropy

pytestmark = pytest.mark.usefixtures("no_process_left")
LAUNCH = Path(__file__).resolve().parents[2] / "book" / "launch"
posix = pytest.mark.skipif(sys.platform == "win32", reason="the recipes are for Linux and macOS")
IMPATIENT = "last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=3"  # a lost host shows in 3 s


# What the runs are compared with


def recipe(name="train.py"):
    """Return a training program as a module."""
    spec = importlib.util.spec_from_file_location("launch_recipe", LAUNCH / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain_loss(steps, batch):
    """Return the final loss of the recipe's training without processes, shares and checkpoints."""
    train = recipe()
    inputs, classes = train.make_data()
    torch.manual_seed(train.SEED)
    hidden, output = torch.nn.Linear(train.FEATURES, 64), torch.nn.Linear(64, train.CLASSES)
    model = torch.nn.Sequential(hidden, torch.nn.ReLU(), output)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(1, steps + 1):
        indices = train.batch_indices(step, batch)
        optimizer.zero_grad()
        cross_entropy(model(inputs[indices]), classes[indices]).backward()
        optimizer.step()
    with torch.no_grad():
        return cross_entropy(model(inputs[:1024]), classes[:1024]).item()


def final_loss(text):
    """Return the loss and the number of processes in the last line of a run."""
    loss, world = re.findall(r"final loss (\S+) world (\d+)", text)[-1]
    return float(loss), int(world)


def saved_steps(text):
    """Return (step, processes, attempt) of each checkpoint that a run has reported."""
    found = re.findall(r"step (\d+) loss \S+ world (\d+) attempt (\d+)", text)
    return [tuple(map(int, numbers)) for numbers in found]


# The recipes as text


@posix
@pytest.mark.parametrize("name", ["torchrun.sh", "slurm.sbatch"])
def test_the_shell_recipes_have_no_syntax_error(name):
    done = subprocess.run(["bash", "-n", str(LAUNCH / name)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["train.py", "train_mesh.py"])
def test_the_training_programs_need_only_torch_and_the_standard_library(name):
    imported = re.findall(r"^(?:from|import) (\w+)", (LAUNCH / name).read_text(), re.MULTILINE)
    assert set(imported) - set(sys.stdlib_module_names) == {"torch"}


def test_the_slurm_recipe_asks_for_nodes_by_known_options():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    first_command = lines.index("set -euo pipefail")
    numbers = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert max(numbers) < first_command  # Slurm ignores what comes after a command
    options = {}
    for number in numbers:
        name, _, value = re.fullmatch(r"#SBATCH --([a-z-]+)(=(\S+))?", lines[number]).groups()
        options[name] = value
    with_value = "job-name nodes ntasks-per-node gpus-per-node cpus-per-task time open-mode output"
    assert options.keys() == {*with_value.split(), "requeue"}
    assert options["ntasks-per-node"] == "1"
    assert options["requeue"] is None
    counts = [options[name] for name in ("nodes", "gpus-per-node", "cpus-per-task")]
    assert all(count.isdecimal() for count in counts)
    assert re.fullmatch(r"\d\d:\d\d:\d\d", options["time"])
    threads = int(re.search(r"OMP_NUM_THREADS:-(\d+)", "\n".join(lines))[1])
    assert threads * int(options["gpus-per-node"]) == int(
        options["cpus-per-task"]
    )  # torchrun starts one per GPU


@posix
@pytest.mark.parametrize(
    ("choice", "program", "checkpoint"),
    [({}, "train.py", "checkpoint.pt"), ({"PROGRAM": "train_mesh.py"}, "train_mesh.py", "checkpoints")],
)
def test_the_slurm_recipe_starts_torchrun_with_a_line_that_torchrun_accepts(
    choice, program, checkpoint, tmp_path
):
    programs = {
        "srun": f'printf "%s\\n" "$@" > {tmp_path}/srun',
        "scontrol": f'printf "%s\\n" "$@" > {tmp_path}/scontrol; printf "node7\\nnode8\\n"',
    }
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, script in programs.items():
        (bin_folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (bin_folder / name).chmod(0o755)
    variables = {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "41005",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "64",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_RESTART_COUNT": "3",
    }
    script = ["bash", str(LAUNCH / "slurm.sbatch"), "--steps", "500"]
    done = subprocess.run(script, env=variables | choice, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "scontrol").read_text().split() == ["show", "hostnames", "node[7-8]"]
    words = (tmp_path / "srun").read_text().splitlines()
    assert words[: words.index("torchrun")] == ["--cpus-per-task=64", "--kill-on-bad-exit=1"]
    taken = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
    assert (taken.nnodes, taken.nproc_per_node, taken.max_restarts) == ("2", "gpu", 3)
    assert (taken.rdzv_backend, taken.rdzv_endpoint, taken.rdzv_id) == ("c10d", "node7:29405", "41005-3")
    assert taken.training_script == f"{tmp_path}/{program}"
    assert taken.training_script_args == ["--checkpoint", f"{tmp_path}/{checkpoint}", "--steps", "500"]


def kubernetes_problems(text, monkeypatch):
    """Return what does not fit together in a Kubernetes recipe: counts, names, places, and the command."""
    parts = {part["kind"]: part for part in yaml.safe_load_all(text)}
    job, runtime, claim = (parts[kind] for kind in ("TrainJob", "TrainingRuntime", "PersistentVolumeClaim"))
    trainer = job["spec"]["trainer"]
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    places = {kind: mounts.get(name) for name, volume in volumes.items() for kind in volume}
    found = []

    def must(holds, problem):
        found.extend([] if holds else [problem])

    def same(one, other, what):
        must(one == other, f"{what}: {one} and {other}")

    same(trainer["numNodes"], runtime["spec"]["mlPolicy"]["numNodes"], "nodes")
    same(trainer["numProcPerNode"], trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"], "GPUs of a node")
    same(job["apiVersion"], runtime["apiVersion"], "versions of Trainer")
    reference = job["spec"]["runtimeRef"]
    same(reference["apiGroup"], runtime["apiVersion"].split("/")[0], "API of the runtime")
    same([reference["kind"], reference["name"]], [runtime["kind"], runtime["metadata"]["name"]], "runtime")
    same(node["name"], container["name"], "Trainer looks for job and container by one name")
    same(set(volumes), set(mounts), "volumes and what is mounted")
    claimed = {
        v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v
    }
    same(claimed, {claim["metadata"]["name"]}, "storage")
    many = trainer["numNodes"] > 1
    must(not many or "ReadWriteMany" in claim["spec"]["accessModes"], "storage that one node cannot write")
    must(
        all(isinstance(v["value"], str) for v in trainer["env"]), "a variable that is no string"
    )  # not accepted
    config, code = re.search(r"kubectl create configmap (\S+) --from-file=(\S+)", text).groups()
    same({v["configMap"]["name"] for v in volumes.values() if "configMap" in v}, {config}, "code")

    # What Trainer sets in each container; the first pod is reached through the service that is named after the job.
    name = job["metadata"]["name"]
    values = {"PET_NNODES": str(trainer["numNodes"]), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"])}
    values |= {"PET_MASTER_ADDR": f"{name}-{node['name']}-0-0.{name}", "PET_MASTER_PORT": "29500"}
    for variable, value in values.items():
        monkeypatch.setenv(variable, value)
    words = [re.sub(r"\$\((\w+)\)", lambda v: values.get(v[1], v[0]), word) for word in trainer["args"]]
    same(trainer["command"], ["torchrun"], "command")
    try:
        taken = get_args_parser().parse_args(words)
        same(taken.nnodes, values["PET_NNODES"], "nodes of torchrun")
        same(taken.nproc_per_node, values["PET_NPROC_PER_NODE"], "processes of torchrun")
        same(taken.rdzv_backend, "c10d", "the meeting that needs no program of its own")
        meeting = f"{values['PET_MASTER_ADDR']}:{values['PET_MASTER_PORT']}"
        same(taken.rdzv_endpoint, meeting, "where the nodes meet")
        must(taken.max_restarts > 0, "no restart after a lost process")
        same(taken.training_script, f"{places['configMap']}/{code}", "program")
        monkeypatch.setattr(sys, "argv", [taken.training_script, *taken.training_script_args])
        checkpoint = recipe(code).parse_arguments().checkpoint
        same(
            str(Path(checkpoint).parent.as_posix()),
            places["persistentVolumeClaim"],
            "place of the checkpoint",
        )
    except SystemExit:
        found.append("an argument that torchrun or the program does not know")
    return found


@pytest.mark.parametrize(
    ("program", "checkpoint"), [("train.py", "checkpoint.pt"), ("train_mesh.py", "checkpoints")]
)
def test_the_kubernetes_recipe_fits_together(program, checkpoint, monkeypatch):
    text = (LAUNCH / "kubernetes.yaml").read_text()
    text = text.replace("train.py", program).replace("checkpoint.pt", checkpoint)
    assert kubernetes_problems(text, monkeypatch) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("  mlPolicy:\n    numNodes: 2", "  mlPolicy:\n    numNodes: 4", "nodes: 2 and 4"),
        ("nvidia.com/gpu: 8", "nvidia.com/gpu: 4", "GPUs of a node: 8 and 4"),
        ("    name: train-runtime\n  trainer", "    name: runtime\n  trainer", "runtime: "),
        (
            "- name: node\n                      image",
            "- name: main\n                      image",
            "by one name",
        ),
        ("claimName: train-checkpoints", "claimName: checkpoints", "storage: "),
        ("[ReadWriteMany]", "[ReadWriteOnce]", "storage that one node cannot write"),
        ("mountPath: /code", "mountPath: /program", "program: /code/train.py and /program/train.py"),
        (
            "configMap:\n                        name: train-code",
            "configMap:\n                        name: x",
            "code: ",
        ),
        ("--checkpoint=/checkpoints/", "--checkpoint=/code/", "place of the checkpoint"),
        (
            "- name: shared-memory\n                          mountPath",
            "- name: memory\n                          mountPath",
            "volumes",
        ),
        ('value: "8"', "value: 8", "a variable that is no string"),
        ("$(PET_MASTER_ADDR)", "train", "where the nodes meet"),
        ("$(PET_MASTER_PORT)", "$(PET_PORT)", "where the nodes meet"),
        ("      - --rdzv-id=train", "      - --nnodes=3", "nodes of torchrun: 3 and 2"),
        ("--max-restarts=3", "--max-restart-count=3", "does not know"),
        ("--steps=500", "--passes=500", "does not know"),
    ],
)
def test_a_slip_in_the_kubernetes_recipe_is_found(old, new, problem, monkeypatch, capsys):
    text = (LAUNCH / "kubernetes.yaml").read_text()
    assert text.count(old) == 1
    found = kubernetes_problems(text.replace(old, new), monkeypatch)
    assert any(problem in line for line in found), found


@posix
def test_torchrun_sh_on_several_machines_asks_for_a_host():
    command = ["bash", str(LAUNCH / "torchrun.sh")]
    environment = {name: v for name, v in os.environ.items() if name not in SETTINGS} | {"NODES": "1:2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "NODES=1:2 needs HOST" in done.stderr


# The recipes at work


def test_one_process_comes_to_the_result_of_a_plain_loop(tmp_path, monkeypatch, capsys):
    group = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "0",
    }
    for name, value in (group | one_machine()).items():
        monkeypatch.setenv(name, value)
    options = ["--steps", "30", "--batch", "33", "--save-every", "10"]
    monkeypatch.setattr(sys, "argv", ["train.py", *options, "--checkpoint", f"{tmp_path / 'checkpoint.pt'}"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for expected in ([(10, 1, 0), (20, 1, 0), (30, 1, 0)], []):  # the second run finds that all is done
        recipe().main()
        text = capsys.readouterr().out
        assert saved_steps(text) == expected
        assert final_loss(text) == (pytest.approx(plain_loss(30, 33), rel=1e-6), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@posix
def test_a_run_with_uneven_shares_that_loses_a_process_comes_to_the_result_of_one(tmp_path):
    options = ["--steps", "30", "--batch", "33", "--save-every", "10", "--sleep", "0.15"]
    command = ["bash", str(LAUNCH / "torchrun.sh"), *options]
    checkpoint = str(tmp_path / "checkpoint.pt")
    with Program(command, tmp_path / "output", CHECKPOINT=checkpoint, **one_machine()) as program:
        wait_until(lambda: saved_steps(program.text()), program)
        victim = next(worker for worker in program.workers() if worker.environ().get("RANK") == "1")
        victim.send_signal(signal.SIGKILL)
        text = program.finish()
    steps = saved_steps(text)
    assert [step for step, _, _ in steps] == [10, 20, 30]  # step 10 was not done twice
    assert steps[0] == (10, 2, 0)
    assert steps[-1][2] >= 1
    assert final_loss(text) == (pytest.approx(plain_loss(30, 33), rel=1e-6), 2)


@hosts_possible
def test_without_name_service_the_recipe_prints_nothing_else_but_keeps_errors(tmp_path):
    table = tmp_path / "hosts"
    table.write_text("127.0.0.1 localhost\n")
    host = Host("nowhere", table)  # only its loopback interface is up, and nobody knows its name
    try:
        command = host.command("bash", str(LAUNCH / "torchrun.sh"), "--steps", "10")
        with Program(command, tmp_path / "good", CHECKPOINT=str(tmp_path / "checkpoint.pt")) as program:
            text = program.finish()
        missing = str(tmp_path / "no folder" / "checkpoint.pt")
        alone = {"PROCESSES": "1", "MAX_RESTARTS": "0"}  # one is enough to fail
        with Program(command, tmp_path / "bad", CHECKPOINT=missing, **alone) as program:
            assert program.process.wait(TIMEOUT) != 0
            wait_until(lambda: "ChildFailedError" in program.text())
    finally:
        host.remove()
    assert [line.split()[0] for line in text.splitlines()] == ["step", "final"]
    assert final_loss(text) == (pytest.approx(plain_loss(10, 64), rel=1e-6), 2)
    assert "FileNotFoundError" in program.text()
    assert "hostname" not in program.text()


@hosts_possible
def test_two_hosts_come_to_the_result_of_one_process(two_hosts, tmp_path):
    options = ["--steps", "30", "--batch", "33", "--save-every", "10"]
    variables = {
        "NODES": "2",
        "PROCESSES": "1",
        "HOST": "node-a",
        "CHECKPOINT": str(tmp_path / "checkpoint.pt"),
    }
    first, second = (host.command("bash", str(LAUNCH / "torchrun.sh"), *options) for host in two_hosts)
    with (
        Program(first, tmp_path / "a", **variables) as on_a,
        Program(second, tmp_path / "b", **variables) as on_b,
    ):
        text = on_a.finish() + on_b.finish()
    assert saved_steps(text)[-1][:2] == (30, 2)
    assert final_loss(text) == (pytest.approx(plain_loss(30, 33), rel=1e-6), 2)


@hosts_possible
def test_a_run_that_loses_a_host_goes_on_with_the_other_one(two_hosts, tmp_path):
    options = ["--steps", "30", "--batch", "33", "--save-every", "10", "--sleep", "0.15"]
    variables = {"NODES": "1:2", "PROCESSES": "1", "HOST": "node-a"}
    variables |= {"CHECKPOINT": str(tmp_path / "checkpoint.pt"), "RDZV_CONF": IMPATIENT}
    first, second = (host.command("bash", str(LAUNCH / "torchrun.sh"), *options) for host in two_hosts)
    with (
        Program(first, tmp_path / "a", **variables) as on_a,
        Program(second, tmp_path / "b", **variables) as on_b,
    ):
        wait_until(lambda: saved_steps(on_a.text() + on_b.text()), on_a, on_b)
        on_b.kill()
        text = on_b.text() + on_a.finish()
    steps = saved_steps(text)
    assert [step for step, _, _ in steps] == [10, 20, 30]
    assert steps[0] == (10, 2, 0)
    assert steps[-1][1] == 1
    assert final_loss(text) == (pytest.approx(plain_loss(30, 33), rel=1e-6), 1)
