"""Hosts and programs for tests: hosts are network namespaces of Linux, each with a name and a list of hosts."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

TIMEOUT = 180  # seconds; a run that takes longer hangs
SETTINGS = {"PROGRAM", "CHECKPOINT", "NODES", "PROCESSES", "MAX_RESTARTS"}  # of torchrun.sh
SETTINGS |= {"RUN_ID", "RDZV_CONF", "HOST", "PORT"}


def can_make_hosts():
    """Return whether this user may make network namespaces, the hosts of the tests."""
    if not all(shutil.which(program) for program in ("ip", "unshare", "nsenter", "setpriv")):
        return False
    trial = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    return sys.platform == "linux" and subprocess.run(trial, capture_output=True).returncode == 0


hosts_possible = pytest.mark.skipif(not can_make_hosts(), reason="needs Linux, root and iproute2")


class Host:
    """A machine for a test: a host name, a network and a list of hosts of its own (Linux namespaces).

    They have no name in the system and end with the last process in them, so nothing has to be removed, even
    after a crash. The process `keeper` holds them until then; it ends with the test process at the latest.
    """

    def __init__(self, name, hosts):
        script = (
            f"echo {name} > /proc/sys/kernel/hostname; mount --bind {hosts} /etc/hosts;"
            "ip link set lo up; echo ready; exec cat"
        )
        self.keeper = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "sh", "-ec", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.keeper.stdout.readline() == b"ready\n"
        self.inside = ["nsenter", "--target", str(self.keeper.pid), "--net", "--uts", "--mount"]

    def command(self, *words):
        """Return the command that runs `words` on this host; all its processes end with it and with the test."""
        alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return ["setpriv", "--pdeathsig", "KILL", *self.inside, *alone, *words]

    def run(self, *words):
        subprocess.run([*self.inside, *words], check=True)

    def remove(self):
        self.keeper.kill()
        self.keeper.communicate()


class Program:
    """A program whose output can be read while it runs; nothing of it is left at the end of the block."""

    def __init__(self, command, output, **variables):
        self.command, self.output, self.variables = command, output, variables

    def __enter__(self):
        environment = {name: v for name, v in os.environ.items() if name not in SETTINGS}
        environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"}
        environment |= {"OMP_NUM_THREADS": "1"} | self.variables
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                self.command, stdout=file, stderr=file, env=environment, start_new_session=True
            )
        return self

    def __exit__(self, *_):
        family = self.workers()
        self.kill()
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=10)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def workers(self):
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def text(self):
        return self.output.read_text(errors="replace")

    def finish(self):
        """Wait for the end, which must be a good one; return the output."""
        code = self.process.wait(TIMEOUT)
        assert code == 0, f"exit code {code}\n{self.text()}"
        return self.text()


def wait_until(condition, *programs):
    """Wait for a condition while all programs run."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        for program in programs:
            assert program.process.poll() is None, f"ended too early\n{program.text()}"
        assert time.monotonic() < end, "\n".join(program.text() for program in programs)
        time.sleep(0.02)


def one_machine():
    """Return the variables without which processes of one machine may not find each other on this system."""
    return {"darwin": {"GLOO_SOCKET_IFNAME": "lo0"}, "win32": {"USE_LIBUV": "0"}}.get(sys.platform, {})
