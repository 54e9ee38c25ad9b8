"""Hosts for tests: network namespaces of Linux, each with a host name, a network and a list of hosts."""

import shutil
import subprocess
import sys

import pytest


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
