"""What went wrong in the processes of `distributed.launch`, in one readable error. Introduced in chapter 7."""

import functools
import inspect
import json
import linecache
import re
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

Frame = tuple[str, int, str]  # file, line, function
IMPORTED_AGAIN = 86  # exit code of a rank whose script calls `launch` while it is imported
_FILE_LOST = "<dynamic-code>"  # what cloudpickle puts for the file of a function, from 3.1.3 on
_LAUNCHER = str(Path(__file__).with_name("launcher.py"))


class WorkerError(RuntimeError):
    """A process started by `launch` failed; the message starts with the rank that failed first.

    Attributes:
        rank: the rank that failed first, or the lowest one that did not finish in time.
        kind: name of the exception, ``killed``, ``exit`` or ``timeout``.
    """

    def __init__(self, message: str, rank: int, kind: str) -> None:
        super().__init__(message)
        self.rank, self.kind = rank, kind

    def __reduce__(self) -> tuple[type, tuple[str, int, str]]:
        return type(self), (str(self), self.rank, self.kind)

    def _render_traceback_(self) -> list[str]:  # what IPython shows instead of the frames of the launcher
        return [f"WorkerError: {self}"]


class Reports:
    """The files in which the ranks of one launch leave their output, exceptions and last positions."""

    def __init__(self, folder: Path | str, ranks: int) -> None:
        self.folder, self.ranks = Path(folder), range(ranks)

    def log(self, rank: int) -> Path:
        """Return the file for all that the rank prints."""
        return self.folder / f"{rank}.log"

    def stack(self, rank: int) -> Path:
        """Return the file in which faulthandler writes where the rank stands when time is up."""
        return self.folder / f"{rank}.stack"

    def failure(self, rank: int) -> Path:
        """Return the file for the exception of the rank."""
        return self.folder / f"{rank}.json"

    def write_failure(self, rank: int, error: BaseException) -> None:
        """Keep the exception with its frames and the time."""
        frames = [(f.filename, f.lineno, f.name) for f in traceback.extract_tb(error.__traceback__)]
        text = "".join(traceback.format_exception_only(error)).strip()
        text = re.sub(r"\[/\S+\] ?", "", text)  # where the C++ source of gloo was built
        failure = {"rank": rank, "time": time.time(), "kind": type(error).__name__, "text": text}
        unfinished = self.failure(rank).with_suffix(".new")  # the launcher may end this process at any time
        unfinished.write_text(json.dumps(failure | {"frames": frames}), encoding="utf-8")
        unfinished.replace(self.failure(rank))

    def error(self, reported: int, exitcode: int, timeout: float, fn: Callable[..., object]) -> WorkerError:
        """Build the error; `reported` is the rank whose process ended first, with `exitcode`, while `fn` ran."""
        files = _source_files(fn)
        stacks = [_stack(self.stack(rank)) for rank in self.ranks]
        late = [rank for rank in self.ranks if stacks[rank][0].startswith("Timeout")]
        if late:
            lines = [f"time is up: after {timeout:g} s the ranks stood here"]
            for rank, (_, frames) in enumerate(stacks):
                lines += [f"rank {rank}", *_lines(frames, files)]
                lines += [] if frames else ["  outside of the function"]
            return WorkerError("\n".join(lines), late[0], "timeout")
        paths = [self.failure(rank) for rank in self.ranks]
        failures = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
        failures.sort(key=lambda failure: failure["time"])
        if self.failure(reported).exists():
            first, kind = failures[0]["rank"], failures[0]["kind"]
            lines = [f"rank {first} failed first", *_lines(failures[0]["frames"], files), failures[0]["text"]]
        elif exitcode < 0:
            first, kind = reported, "killed"
            lines = [f"rank {first} was killed by {signal.Signals(-exitcode).name}"]
            lines += _lines(stacks[first][1], files)
        elif exitcode == IMPORTED_AGAIN:
            first, kind = reported, "exit"
            lines = ["each rank imports the script, and that calls launch again: "]
            lines[0] += 'put the call under `if __name__ == "__main__":`'
        else:
            first, kind = reported, "exit"
            lines = [f"rank {first} left with exit code {exitcode} and without an exception"]
        for failure in failures:
            if failure["rank"] != first:
                lines.append(f"(then rank {failure['rank']}: {failure['text'].splitlines()[0][:90]})")
        return WorkerError("\n".join(lines), first, kind)


def _source_files(fn: Callable[..., object]) -> dict[str, str]:
    """Return by name in which files `fn` and the functions around it are defined: pickling may lose it."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    around = [fn, *getattr(fn, "__globals__", {}).values()]
    return {f.__name__: f.__code__.co_filename for f in reversed(around) if inspect.isfunction(f)}


def _lines(frames: list[Frame], files: dict[str, str]) -> list[str]:
    """Write frames as Python does, source lines included, but for those of the launcher and its log."""
    lines = []
    for file, line, name in frames:
        if file != _LAUNCHER and Path(file).name != "c10d_logger.py":
            file = files.get(name, file) if file == _FILE_LOST else file
            lines.append(f'  File "{_short(file)}", line {line}, in {name}')
            source = linecache.getline(file, line).strip()
            lines += [f"    {source}"] if source else []
    return lines


def _short(file: str) -> str:
    if "ipykernel" in file:
        return "notebook cell"
    inside = re.split(r"(?:site|dist)-packages[/\\]", file)[-1]
    return inside if inside != file else Path(file).name


def _stack(path: Path) -> tuple[str, list[Frame]]:
    """Read what faulthandler wrote: its reason, and where the main thread stood, outermost call first."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    main = re.split(r"\(most recent call first\)", text)[-1]
    frames = re.findall(r'File "(.+)", line (\d+) in (\S+)', main)
    own = [file == _LAUNCHER for file, _, _ in frames]
    inner = frames[: own.index(True)] if True in own else []
    return text[:100], [(file, int(line), name) for file, line, name in reversed(inner)]
