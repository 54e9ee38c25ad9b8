"""What a long run tells its reader, and how it stops when it is told to."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def interrupt_after_step(wanted: bool) -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C wait for the end of the step; yields a function that says whether it came."""
    came = threading.Event()
    if not wanted or threading.current_thread() is not threading.main_thread():  # only that one gets signals
        yield came.is_set
        return

    def on_signal(number: int, frame: object) -> None:
        if came.is_set():
            signal.default_int_handler(number, frame)
        came.set()
        print("stopping after this step (Ctrl-C again: at once)", flush=True)

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGINT, before)


class Report:
    """A line per row of the history, on a terminal with a bar below it."""

    def __init__(self, step: int, steps: int, visible: bool) -> None:
        self.steps, self.visible = steps, visible
        on_terminal = visible and sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=step, unit="step") if on_terminal else None

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self) -> None:
        """Move the bar by one step."""
        if self.bar is not None:
            self.bar.update()

    def row(self, row: dict[str, float]) -> None:
        """Print one row and the time that is left."""
        if not self.visible:
            return
        shown = {name.replace("_per_second", "/s"): value for name, value in row.items() if name != "step"}
        values = "  ".join(
            f"{name} {value:,.0f}" if abs(value) >= 1000 else f"{name} {value:.4g}"
            for name, value in shown.items()
        )
        left = row["seconds"] * (self.steps - row["step"]) / row["step"]
        line = f"step {row['step']}/{self.steps}  {values}  {left:.0f} s left"
        tqdm.write(line) if self.bar is not None else print(line, flush=True)
