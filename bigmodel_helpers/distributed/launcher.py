"""Run a function in several processes that train together, from a notebook or a script. Introduced in chapter 7.

`launch` stands on the elastic launcher of PyTorch, the engine of ``torchrun``: it starts, watches, restarts and
ends the processes and gives each its rank. What it lacks for a notebook is added here: functions defined in a
cell (by cloudpickle), output with the rank in front on every operating system, one readable error, a deadline.

Compared before choosing: ``torch.multiprocessing.spawn`` knows no restarts, no values and no cells; accelerate's
``notebook_launcher`` forks, which hangs once the kernel has computed with two threads, and returns nothing;
ipyparallel needs a server per session; torchrunx hung on an exception in a worker. On several machines the same
function runs under ``torchrun``, inside `process_group`.
"""

import faulthandler
import gc
import logging
import multiprocessing
import os
import pickle
import re
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

import torch
import torch.distributed as dist

from bigmodel_helpers.distributed._meeting import OneMachine, store_of_attempt
from bigmodel_helpers.distributed._worker_error import IMPORTED_AGAIN, Reports

_LOOPBACK = {"linux": "lo", "darwin": "lo0"}  # the network interface that never leaves the machine
_GRACE = 0.5  # seconds that a rank with an exception waits, so that a rank that was killed is noticed first
_GRACE_OF_LOST = 10.0  # the same, where another rank was lost: a busy launcher notices that one late
_LOST = re.compile(r"connection|\bpeer\b|broken pipe", re.IGNORECASE)
_FROM_LAUNCHER = re.compile(r"(.+_)?(RANK|WORLD_SIZE)|MASTER_.+|TORCHELASTIC_.+")  # variables of a rank
# On Linux a server that has these imported starts ranks in a tenth of the time. It ends with this process.
_PRELOADED = ["torch._dynamo"]  # what the first optimizer imports
_PRELOADED += [
    f"torch.distributed.{name}" for name in ("checkpoint", "fsdp", "pipelining", "tensor.parallel")
]


def _backend(device: torch.device | str) -> str:
    """Return the communication library for tensors on `device`: ``nccl`` for CUDA, ``gloo`` for all others."""
    return "nccl" if torch.device(device).type == "cuda" else "gloo"


def device() -> torch.device:
    """Return the device of this process: its own GPU where the group communicates by NCCL, else the CPU.

    Raises:
        ValueError: there is no process group (from PyTorch).
    """
    if dist.get_backend() == "nccl":
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device("cpu")


@contextmanager
def process_group(device_type: str | None = None, store: dist.Store | None = None) -> Iterator[torch.device]:
    """Join the process group that ``torchrun`` (or `launch`) describes in the environment; destroy it at the end.

    After an exception it is not destroyed, because that may wait for the other ranks: let the process end.

    The ranks of a machine share its cores: each gets its part as threads, unless ``OMP_NUM_THREADS`` says how many.

    Args:
        device_type: ``cuda`` or ``cpu``; None for CUDA where each rank of this machine has a GPU, else the CPU.
        store: where the ranks meet; None for the place that the environment names.

    Yields:
        the device of this rank.

    Raises:
        RuntimeError: the process was not started by ``torchrun`` or `launch`, or there are too few GPUs.
    """
    if "RANK" not in os.environ or "LOCAL_WORLD_SIZE" not in os.environ:
        raise RuntimeError("this process has no rank: start it by torchrun, or the function by launch()")
    ranks_here = int(os.environ["LOCAL_WORLD_SIZE"])
    own = torch.device(_device_type(device_type, ranks_here))
    torch.set_num_threads(
        int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // ranks_here))
    )
    if own.type == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    dist.init_process_group(
        _backend(own),
        store=store,
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        device_id=own if own.type == "cuda" else None,
    )
    yield own
    gc.collect()  # models that hold the group go first
    dist.destroy_process_group()


def launch(
    fn: Callable[..., Any],
    *args: Any,
    processes: int = 2,
    device_type: str | None = None,
    timeout: float = 600.0,
    restarts: int = 0,
) -> list[Any]:
    """Run ``fn(*args)`` in `processes` processes of one group on this machine; return the values by rank.

    What a rank prints appears at once, with ``[rank 1]`` in front. When a rank fails, the others are ended, too.
    In a script, call it under ``if __name__ == "__main__":``, because each process imports the script again.

    Args:
        fn: a function, from a notebook cell too; it finds its rank by ``torch.distributed.get_rank()``.
        args: its arguments; each process gets a copy, so tensors are not shared.
        processes: how many ranks.
        device_type: see `process_group`.
        timeout: seconds for everything together; then each rank reports the line where it stands, and ends.
        restarts: how often all ranks are started again after one has failed; a function that saves checkpoints
            goes on from the last. ``TORCHELASTIC_RESTART_COUNT`` tells it which attempt it is in.

    Returns:
        what the ranks returned, copied into this process.

    Raises:
        ValueError: `processes` is less than 1, `restarts` less than 0, or `timeout` not positive.
        TypeError: the function or an argument cannot be sent to another process, or it is no function.
        RuntimeError: there are fewer GPUs than asked for.
        WorkerError: a rank raised an exception, left, was killed, or time is up.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    whole = isinstance(processes, int) and isinstance(restarts, int) and isinstance(timeout, int | float)
    if not callable(fn):
        raise TypeError(f"fn is {fn!r}: give a function that each rank calls")
    if not whole or processes < 1 or restarts < 0 or timeout <= 0:
        raise ValueError(
            f"processes={processes!r}, restarts={restarts!r}, timeout={timeout!r}: take at least 1, 0 and above 0"
        )
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # a rank that imports the script
        os._exit(IMPORTED_AGAIN)
    deadline, payload = time.time() + timeout, _pickled(fn, args)
    chosen = _device_type(device_type, processes)
    with tempfile.TemporaryDirectory(prefix="launch-", ignore_cleanup_errors=True) as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            run_id=uuid.uuid4().hex,
            rdzv_backend=OneMachine.NAME,
            max_restarts=restarts,
            monitor_interval=0.02,
            start_method=_start_method(),
            signals_to_handle="SIGTERM",
        )
        reports = Reports(folder, processes)
        with _clean_launcher(reports):
            try:
                work = elastic_launch(config, _worker)
                values = work(payload, folder, chosen, deadline, dict(os.environ))
            except ChildFailedError as error:
                rank, failure = error.get_first_failure()
                raise reports.error(rank, failure.exitcode, timeout, fn) from None
    return [pickle.loads(values[rank]) for rank in range(processes)]


def _device_type(wish: str | None, ranks: int) -> str:
    if wish not in (None, "cpu", "cuda"):
        raise ValueError(
            f"device_type={wish!r}: choose cpu, cuda, or None for CUDA where each rank has a GPU"
        )
    gpus = torch.cuda.device_count()
    if wish == "cuda" and gpus < ranks:
        raise RuntimeError(f"{ranks} ranks need a GPU each, this machine has {gpus}: take device_type='cpu'")
    return wish or ("cuda" if gpus >= ranks else "cpu")


def _start_method() -> str:
    if not sys.platform.startswith("linux"):
        return "spawn"
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    return "forkserver"


def _pickled(fn: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    import cloudpickle

    try:
        return cloudpickle.dumps((fn, args))
    except (TypeError, pickle.PicklingError, AttributeError) as error:
        name = getattr(fn, "__name__", repr(fn))
        raise TypeError(
            f"{name} or an argument of it cannot be sent to another process ({error}): "
            "create files, threads and generators inside the function"
        ) from error


def _worker(
    payload: bytes, folder: str, device_type: str, deadline: float, environment: dict[str, str]
) -> bytes:
    """Do the work of one rank, in a process of its own."""

    rank, reports = int(os.environ["RANK"]), Reports(folder, int(os.environ["WORLD_SIZE"]))
    os.environ.update({name: v for name, v in environment.items() if not _FROM_LAUNCHER.fullmatch(name)})
    dist.set_debug_level_from_env()  # the server has read the variable long ago
    if sys.platform != "win32":
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the launcher's business
    threading.Thread(target=_end_with_parent, daemon=True).start()
    reports.failure(rank).unlink(missing_ok=True)  # of the attempt before
    with reports.log(rank).open("a") as log, reports.stack(rank).open("w") as stack:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
            stream.reconfigure(encoding="utf-8", line_buffering=True, write_through=False)
        faulthandler.enable(stack)
        faulthandler.dump_traceback_later(max(0.1, deadline - time.time()), file=stack, exit=True)
        try:
            with process_group(device_type, store_of_attempt(folder)):
                fn, args = pickle.loads(payload)
                return _returned(fn(*args))
        except BaseException as error:
            reports.write_failure(rank, error)
            lost = isinstance(error, RuntimeError) and _LOST.search(str(error))
            time.sleep(_GRACE_OF_LOST if lost else _GRACE)
            sys.exit(1)
        finally:
            faulthandler.cancel_dump_traceback_later()


def _returned(value: Any) -> bytes:
    import cloudpickle

    try:
        return cloudpickle.dumps(value)
    except (TypeError, pickle.PicklingError, AttributeError) as error:
        raise TypeError(
            f"what the function returned cannot be sent back ({error}): return tensors, numbers or text"
        ) from None


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


@contextmanager
def _clean_launcher(reports: Reports) -> Iterator[None]:
    """Show the output of all ranks; afterwards leave no process, signal handler or variable behind."""
    from torch.distributed.elastic.multiprocessing.tail_log import TailLog

    settings = {}
    if sys.platform in _LOOPBACK:
        settings["GLOO_SOCKET_IFNAME"] = _LOOPBACK[sys.platform]
    if sys.platform == "win32":
        settings["USE_LIBUV"] = "0"  # PyTorch for Windows is built without it
    before, children = dict(os.environ), set(multiprocessing.active_children())
    handler = signal.getsignal(signal.SIGTERM)
    loggers = [
        logging.getLogger(name) for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn")
    ]
    levels = [logger.level for logger in loggers]
    files = {rank: str(reports.log(rank)) for rank in reports.ranks}
    output = TailLog("rank", files, sys.stdout, {rank: f"[rank {rank}] " for rank in reports.ranks})
    try:
        os.environ.update(settings | {name: before[name] for name in settings if name in before})
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)  # what they tell is in the WorkerError
        output.start()
        yield
    finally:
        for process in set(multiprocessing.active_children()) - children:
            process.kill()
            process.join()
        output.stop()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        os.environ.clear()
        os.environ.update(before)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
