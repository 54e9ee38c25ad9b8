"""`distributed.launch`: values, output, errors, deadline, restarts, and that nothing is left behind."""

import inspect
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import cloudpickle
import nbformat
import psutil
import pytest
import torch
import torch.distributed as dist
from hosts import Host, hosts_possible
from jupyter_client import KernelManager
from nbclient import NotebookClient
from torch.distributed.launcher import api as launcher_api

from bigmodel_helpers import distributed
from bigmodel_helpers.distributed import WorkerError, launch, process_group
from bigmodel_helpers.distributed._worker_error import Reports
from bigmodel_helpers.distributed.launcher import _backend

pytestmark = pytest.mark.usefixtures("no_process_left")
cloudpickle.register_pickle_by_value(
    sys.modules[__name__]
)  # else each rank imports this module and its imports
ROOT = Path(__file__).resolve().parents[2]
POSIX = sys.platform != "win32"


def total_of_ranks(start):
    number = torch.tensor([float(start + dist.get_rank())])
    dist.all_reduce(number)
    return dist.get_rank(), number


def fail_on(rank):
    if dist.get_rank() == rank:
        raise KeyError("the reason")
    dist.barrier()


def listening_ports():
    return {c.laddr.port for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN}


def test_values_come_back_by_rank():
    values = launch(total_of_ranks, 10, processes=3)
    assert [rank for rank, _ in values] == [0, 1, 2]
    assert all(torch.equal(number, torch.tensor([33.0])) for _, number in values)


def test_one_process_is_enough():
    assert launch(lambda: dist.get_world_size(), processes=1) == [1]


def test_a_rank_knows_its_backend_device_and_share_of_the_cores():
    def facts():
        return dist.get_backend(), str(distributed.device()), torch.get_num_threads()

    cores = max(1, (os.cpu_count() or 1) // 2)
    before = os.environ.pop("OMP_NUM_THREADS", None)
    try:
        assert launch(facts, device_type="cpu") == [("gloo", "cpu", cores)] * 2
    finally:
        os.environ.update({} if before is None else {"OMP_NUM_THREADS": before})
    assert (_backend("cuda:1"), _backend("cpu"), _backend(torch.device("mps"))) == ("nccl", "gloo", "gloo")


def test_ranks_see_variables_that_were_set_just_before(monkeypatch):
    launch(dist.get_rank)
    monkeypatch.setenv("BIGMODEL_TEST_VARIABLE", "new")
    assert launch(lambda: os.environ["BIGMODEL_TEST_VARIABLE"]) == ["new", "new"]


def different_shapes():
    dist.all_reduce(torch.ones(4 + dist.get_rank()))


def test_the_debug_level_counts_from_the_next_launch_on(monkeypatch):
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "DETAIL")
    with pytest.raises(WorkerError, match="Detected mismatch between collectives"):
        launch(different_shapes)


def test_a_crash_below_python_tells_the_line(capsys):
    with pytest.raises(WorkerError, match=r"was killed by SIGABRT[^$]*in different_shapes"):
        launch(different_shapes)
    assert "gloo" in capsys.readouterr().out


def test_output_of_each_rank_is_tagged_and_whole(capsys):
    def talk():
        for line in range(20):
            print("line", line, "of rank", dist.get_rank())

    launch(talk)
    lines = capsys.readouterr().out.splitlines()
    expected = [f"[rank {rank}] line {line} of rank {rank}" for rank in range(2) for line in range(20)]
    assert sorted(lines) == sorted(expected)


def test_errors_of_libraries_below_python_are_tagged_too(capsys):
    launch(lambda: os.write(2, b"from below\n"), processes=1)
    assert capsys.readouterr().out == "[rank 0] from below\n"


def test_output_appears_while_the_ranks_work(monkeypatch):
    class Screen:
        seen = None

        def write(self, text):
            if "early" in text:
                Screen.seen = Screen.seen or time.monotonic()

        def flush(self):
            pass

    def work():
        print("early")
        time.sleep(2)

    monkeypatch.setattr(sys, "stdout", Screen())
    launch(work, processes=1)
    assert time.monotonic() - Screen.seen > 1.5


def test_error_starts_with_the_rank_that_failed_first(capfd):
    with pytest.raises(WorkerError) as caught:
        launch(fail_on, 1)
    lines = str(caught.value).splitlines()
    assert lines[0] == "rank 1 failed first"
    assert lines[1].startswith('  File "test_distributed.py", line')
    assert lines[1].endswith("in fail_on")
    assert lines[2:4] == ['    raise KeyError("the reason")', "KeyError: 'the reason'"]
    assert all(line.startswith("(then rank 0: RuntimeError: ") for line in lines[4:])
    assert (caught.value.rank, caught.value.kind) == (1, "KeyError")
    assert capfd.readouterr() == ("", "")  # nothing beside the error


def test_a_report_that_was_cut_off_is_not_read(tmp_path):
    reports = Reports(tmp_path, 2)
    reports.write_failure(1, KeyError("whole"))
    reports.failure(0).with_suffix(".new").touch()  # rank 0 was ended while it wrote
    error = reports.error(1, 1, 60, fail_on)
    assert (error.rank, error.kind) == (1, "KeyError")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".new"]


def test_error_can_be_copied_and_is_all_that_a_notebook_shows():
    error = pickle.loads(pickle.dumps(WorkerError("rank 2 failed first", 2, "KeyError")))
    assert (str(error), error.rank, error.kind) == ("rank 2 failed first", 2, "KeyError")
    assert error._render_traceback_() == ["WorkerError: rank 2 failed first"]


@pytest.mark.skipif(not POSIX, reason="Windows has no SIGKILL")
def test_a_killed_rank_is_named_though_the_others_complain():
    def suicide():
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()

    with pytest.raises(WorkerError, match=r"^rank 1 was killed by SIGKILL") as caught:
        launch(suicide)
    assert caught.value.kind == "killed"


@pytest.mark.skipif(not POSIX, reason="Windows has no SIGKILL")
def test_a_killed_rank_is_named_by_a_launcher_that_looks_late(monkeypatch):
    def suicide():
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()

    config = launcher_api.LaunchConfig
    monkeypatch.setattr(
        launcher_api, "LaunchConfig", lambda **options: config(**options | {"monitor_interval": 3})
    )
    with pytest.raises(WorkerError, match=r"^rank 1 was killed by SIGKILL"):
        launch(suicide)


def test_a_rank_that_leaves_without_an_exception_is_named():
    def leave():
        if dist.get_rank() == 0:
            os._exit(3)
        dist.barrier()

    with pytest.raises(WorkerError, match=r"^rank 0 left with exit code 3") as caught:
        launch(leave)
    assert caught.value.kind == "exit"


def test_sys_exit_in_a_rank_is_an_error_with_its_line():
    with pytest.raises(WorkerError, match=r"SystemExit: 4") as caught:
        launch(lambda: sys.exit(4), processes=1)
    assert caught.value.kind == "SystemExit"


def test_deadline_ends_all_ranks_and_tells_where_each_stood():
    def wait_for_nobody():
        if dist.get_rank() == 0:
            dist.barrier()
        else:
            time.sleep(300)

    launch(dist.get_rank)  # so that the deadline is not spent on the start of the server
    for seconds in (4, 20, 60):  # on a busy machine the ranks need some of them to get there
        with pytest.raises(WorkerError, match=rf"^time is up: after {seconds} s") as caught:
            launch(wait_for_nobody, timeout=seconds)
        if "outside of the function" not in str(caught.value):
            break
    first, second = str(caught.value).split("rank 1\n")
    assert "    dist.barrier()" in first
    assert "distributed_c10d.py" in first
    assert "    time.sleep(300)" in second
    assert "bigmodel_helpers" not in str(caught.value)
    assert caught.value.kind == "timeout"


def test_restart_runs_all_ranks_again(tmp_path):
    def second_time_lucky():
        attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
        (tmp_path / f"{attempt}-{dist.get_rank()}").touch()
        dist.barrier()  # else the launcher may end rank 0 before it has made its file
        if attempt == 0 and dist.get_rank() == 1:
            os._exit(9)
        dist.barrier()
        return attempt

    assert launch(second_time_lucky, restarts=1) == [1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-0", "0-1", "1-0", "1-1"]
    with pytest.raises(WorkerError):
        launch(second_time_lucky)


def test_an_attempt_does_not_see_what_the_one_before_wrote():
    def write_then_die():
        store = dist.distributed_c10d._get_default_store()
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "1":
            return store.check(["address"])
        store.set("address", "of a rank that is gone")
        dist.barrier()
        os._exit(1)

    assert launch(write_then_die, restarts=1) == [False, False]


def test_what_cannot_be_sent_is_refused_before_anything_starts():
    lock = threading.Lock()

    def locked():
        return lock

    with pytest.raises(TypeError, match="locked or an argument of it cannot be sent"):
        launch(locked)


def test_what_cannot_come_back_is_an_error_of_the_rank():
    with pytest.raises(
        WorkerError,
        match=r"TypeError: what the function returned cannot be sent back .*: return tensors, numbers or text",
    ):
        launch(lambda: threading.Lock(), processes=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"processes": 0},
        {"restarts": -1},
        {"timeout": 0},
        {"processes": "2"},
        {"restarts": 0.5},
        {"timeout": None},
    ],
)
def test_senseless_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="take at least 1, 0 and above 0"):
        launch(dist.get_rank, **wrong)


def test_what_is_no_function_or_no_device_is_refused():
    with pytest.raises(TypeError, match=r"fn is \[0, 1\]: give a function that each rank calls"):
        launch([0, 1])
    for wish in ("tpu", "cuda:0", "CPU"):
        with pytest.raises(ValueError, match=f"device_type='{wish}': choose cpu, cuda, or None"):
            launch(dist.get_rank, device_type=wish)


def test_a_gpu_for_each_rank_or_a_clear_error():
    ranks = torch.cuda.device_count() + 1
    with pytest.raises(RuntimeError, match=f"{ranks} ranks need a GPU each"):
        launch(dist.get_rank, processes=ranks, device_type="cuda")


def test_process_group_needs_a_launcher(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RuntimeError, match="start it by torchrun"), process_group():
        pass


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    environment, handlers = dict(os.environ), [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    launch(total_of_ranks, 0)  # the first time, Python's own servers start, and keep a folder and a port
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ports, files = listening_ports(), psutil.Process().num_fds() if POSIX else 0
    for _ in range(3):
        launch(total_of_ranks, 0)
        with pytest.raises(WorkerError):
            launch(fail_on, 0)
    assert listening_ports() == ports
    assert not POSIX or psutil.Process().num_fds() <= files + 2
    assert dict(os.environ) == environment
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() < 20


def script(tmp_path, body):
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(body), encoding="utf-8")
    return path


SLEEPERS = """
    import os, pathlib, signal, time
    import torch.distributed as dist
    from bigmodel_helpers import distributed

    def sleep(folder):
        pathlib.Path(folder, str(os.getpid())).touch()
        if dist.get_rank() == 1:
            time.sleep(300)
        dist.barrier()

    if __name__ == "__main__":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background would ignore it
        try:
            distributed.launch(sleep, os.environ["FOLDER"])
        except KeyboardInterrupt:
            print("interrupted")
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"] if POSIX else ["spawn"])
def test_a_script_without_a_main_guard_is_told_in_one_line(tmp_path, method):
    path = script(
        tmp_path,
        f"""
        from bigmodel_helpers.distributed import launch, launcher

        launcher._start_method = lambda: {method!r}
        launch(print, "hello")
        """,
    )
    result = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=300)
    *above, last = result.stderr.splitlines()
    assert last.endswith(
        "each rank imports the script, and that calls launch again: "
        'put the call under `if __name__ == "__main__":`'
    )
    assert len([line for line in above if line.startswith("Traceback")]) == 1
    assert len(above) < 10
    assert result.stdout == ""


@pytest.mark.skipif(not POSIX, reason="signals of POSIX")
@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_ranks_end_when_the_launcher_is_stopped(tmp_path, sent):
    folder = tmp_path / "pids"
    folder.mkdir()
    program = subprocess.Popen(
        [sys.executable, script(tmp_path, SLEEPERS)],
        env=os.environ | {"FOLDER": str(folder), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 300
    while len(list(folder.iterdir())) < 2 and time.monotonic() < until and program.poll() is None:
        time.sleep(0.1)
    assert program.poll() is None, program.communicate()
    ranks = [psutil.Process(int(path.name)) for path in folder.iterdir()]
    assert len(ranks) == 2
    time.sleep(0.5)  # so that both ranks wait
    program.send_signal(getattr(signal, sent))
    output, errors = program.communicate(timeout=60)
    assert psutil.wait_procs(ranks, timeout=10)[1] == []
    assert (output == "interrupted\n") == (sent == "SIGINT"), errors


def test_a_function_of_a_notebook_cell(tmp_path):
    cells = [
        """
        import os
        from dataclasses import dataclass
        import torch, torch.distributed as dist
        from bigmodel_helpers import distributed

        @dataclass
        class Answer:
            rank: int

        a = torch.ones(1000, 1000) @ torch.ones(1000, 1000)  # the kernel has used its threads

        def work(text):
            print(text, dist.get_rank())
            return Answer(dist.get_rank())

        def fail():
            if dist.get_rank() == 1:
                raise ValueError("no")
            dist.barrier()
        """,
        "assert distributed.launch(work, 'hello from') == [Answer(0), Answer(1)]",
        "distributed.launch(fail)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(c)) for c in cells])
    client = NotebookClient(notebook, timeout=120, allow_errors=True, kernel_name="python3")
    client.execute(cwd=str(ROOT), env=os.environ | {"PYTHONPATH": str(ROOT)})
    output = "".join(out["text"] for out in notebook.cells[1].outputs)
    assert sorted(output.splitlines()) == ["[rank 0] hello from 0", "[rank 1] hello from 1"]
    (error,) = notebook.cells[2].outputs
    assert error["traceback"][:1] == error["traceback"]
    assert error["traceback"][0].startswith(
        'WorkerError: rank 1 failed first\n  File "notebook cell", line 18, in fail\n    raise ValueError("no")\n'
    )


def test_the_same_function_runs_under_torchrun(tmp_path):
    program = script(
        tmp_path,
        f"""
        import json, pathlib, sys
        import torch, torch.distributed as dist
        sys.path.insert(0, {str(ROOT)!r})
        from bigmodel_helpers.distributed import process_group

        exec({inspect.getsource(total_of_ranks)!r})  # without what this module imports for the other tests

        if __name__ == "__main__":
            with process_group() as device:
                rank, number = total_of_ranks(5)
            answer = json.dumps([rank, number.item(), device.type])
            pathlib.Path({str(tmp_path)!r}, f"{{rank}}.json").write_text(answer)
        """,
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        program,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    device = "cuda" if torch.cuda.device_count() >= 2 else "cpu"
    answers = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert answers == [[0, 11.0, device], [1, 11.0, device]]


@hosts_possible
@pytest.mark.parametrize("table", ["", "127.0.0.1 localhost\n"])
def test_without_name_service_nothing_else_is_printed(tmp_path, table):
    body = """
    import torch.distributed as dist
    from bigmodel_helpers import distributed

    def hello():
        print("hello from", dist.get_rank())
        dist.new_group()
        dist.barrier()

    if __name__ == "__main__":
        distributed.launch(hello)
        distributed.launch(hello)
    """
    program, hosts = script(tmp_path, body), tmp_path / "hosts"
    hosts.write_text(table)
    host = Host("nowhere", hosts)  # only its loopback interface is up, and nobody knows its name
    try:
        command = host.command(sys.executable, str(program))
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    finally:
        host.remove()
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == sorted(2 * [f"[rank {n}] hello from {n}" for n in (0, 1)])


@pytest.mark.skipif(not POSIX, reason="signals of POSIX")
def test_an_interrupted_cell_ends_its_ranks_and_the_next_cell_works(tmp_path):
    code = textwrap.dedent(SLEEPERS.split("if __name__")[0])
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(ROOT), env=os.environ | {"PYTHONPATH": str(ROOT)})
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        request = client.execute(f"{code}\ndistributed.launch(sleep, {str(tmp_path)!r})")
        until = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        ranks = [psutil.Process(int(path.name)) for path in tmp_path.iterdir()]
        assert len(ranks) == 2
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=60)
        while reply["parent_header"]["msg_id"] != request:  # late answers to "are you ready?"
            reply = client.get_shell_msg(timeout=60)
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert psutil.wait_procs(ranks, timeout=10)[1] == []
        client.execute_interactive("assert distributed.launch(dist.get_rank) == [0, 1]", timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
