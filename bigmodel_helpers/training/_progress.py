"""What a long run tells its reader, and how it stops when it is told to."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from bigmodel_helpers.training.loop import Run


@contextmanager
def interrupt_after_step() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C wait for the end of the step; yields a function that says whether it came."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
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
    """A bar on a terminal, elsewhere a line per epoch; both with images per second and the time left."""

    def __init__(self, run: "Run", epochs: int, visible: bool) -> None:
        self.run, self.epochs, self.visible = run, epochs, visible
        on_terminal = visible and sys.stderr.isatty()
        self.bar = tqdm(total=run.total_steps, initial=run.step, unit="step") if on_terminal else None

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self) -> None:
        if self.bar is not None:
            seconds = self.run.stopwatch.seconds - self.run.epoch_seconds
            self.bar.set_postfix_str(f"{self.run.images / seconds:,.0f} images/s", refresh=False)
            self.bar.update(self.run.step - self.bar.n)

    def epoch(self) -> None:
        if not self.visible:
            return
        if self.bar is not None:
            self.bar.update(self.run.step - self.bar.n)
        row = self.run.history[-1]
        left = row["seconds"] * (self.run.total_steps - self.run.step) / self.run.step
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in list(row.items())[5:])
        speed = f"{row['images_per_second']:,.0f} images/s"
        line = f"epoch {row['epoch']}/{self.epochs}  {speed}  {metrics}  {left:.0f} s left"
        tqdm.write(line) if self.bar is not None else print(line, flush=True)
