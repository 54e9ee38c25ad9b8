"""What `check` puts beside the notebooks as ``conftest.py``: how nbval runs kernels, and why a cell failed.

nbval tries once to start a kernel, throws away what it says, waits for a dead one until the time of the cell is up,
and writes a whole traceback for each cell of a notebook that has no kernel.
"""

import re
import signal
import time
from collections.abc import Generator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from nbval import plugin
from nbval.kernel import RunningKernel, start_new_kernel


class Kernel(RunningKernel):
    """A kernel that gets a second try, keeps what it writes to stderr, and is not waited for when it died."""

    def __init__(self, kernel_name: str, cwd: str, startup_timeout: float = 60) -> None:
        self.said = Path(f"{cwd}.stderr")
        for _ in range(2):
            try:
                with self.said.open("w", encoding="utf-8") as stderr:
                    self.km, self.kc = start_new_kernel(startup_timeout, kernel_name, stderr=stderr, cwd=cwd)
                self._ensure_iopub_up()
                return
            except RuntimeError as error:
                failure = error
                if hasattr(self, "km"):
                    self.stop()
        raise RuntimeError(f"the kernel did not start, tried twice: {self.last_words() or failure}")

    def last_words(self) -> str:
        """Return the last line that the kernel wrote to stderr, empty where it wrote none."""
        lines = [line for line in self.said.read_text("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""

    def end(self) -> str:
        """Say how the process of the kernel ended."""
        status = self.km.provisioner.process.returncode
        if status >= 0:
            return f"exit status {status}"
        name = signal.Signals(-status).name
        return f"{name}, most often for lack of memory" if name == "SIGKILL" else name

    def get_message(self, stream: str, timeout: float | None = None) -> dict[str, Any]:
        """Return the next message, as nbval does.

        Raises:
            Empty: none came in `timeout` seconds.
            RuntimeError: the kernel died.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = 1 if end is None else min(1, max(0, end - time.monotonic()))
            try:
                return super().get_message(stream, left)
            except Empty:
                if not self.is_alive():
                    raise RuntimeError(f"the kernel died: {self.last_words() or self.end()}") from None
                if end is not None and time.monotonic() >= end:
                    raise


plugin.RunningKernel = Kernel


def cause(item: plugin.IPyNbCell, error: BaseException) -> str:
    """Return in one line why a cell failed."""
    raised = [output for output in item.test_outputs or [] if output.output_type == "error"]
    if not raised or "caused an exception" not in str(error):
        return str(error).partition("\n")[0]
    lines = raised[-1].evalue.strip().splitlines()
    if lines:
        return f"{raised[-1].ename}: {lines[0]}"
    arrows = re.findall(r"^-+> *\d+ *(.*)", "\n".join(raised[-1].traceback), re.MULTILINE)
    return f"{raised[-1].ename}: {arrows[0].strip() if arrows else 'without a message'}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: plugin.IPyNbCell, call: pytest.CallInfo
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the cell's id and the cause of its failure into the report; without a kernel, the cause is all."""
    if call.excinfo and not isinstance(call.excinfo.value, pytest.skip.Exception):
        told = cause(item, call.excinfo.value)
        item.user_properties += [("cell", item.cell.id), ("cause", told)]
    report = yield
    if report.failed and report.when == "setup":
        report.longrepr = told
    return report
