"""Stages of a program that may be killed: each leaves a folder, whole or not at all, and is done once."""

import hashlib
import inspect
import json
import platform
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from bigmodel_helpers import measure, runtime

Facts = dict[str, Any]


def read(file: Path) -> Facts:
    """Return the facts in a file; none where there is no such file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write(file: Path, facts: Facts) -> None:
    """Write facts as JSON, whole or not at all."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8", newline="\n")
    partial.replace(file)


def digest(texts: Iterable[str]) -> str:
    """Return a hash of texts in their order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def digest_of_files(*files: Path) -> str:
    """Return a hash of what stands in the files, in the order of their names."""
    return digest(file.read_text(encoding="utf-8") for file in sorted(files))


def fingerprint(make: Callable[[Path], Facts], options: object, *others: object) -> str:
    """Return a hash of what the result of a stage depends on.

    Where a program reads from top to bottom, a stage uses what stands above it: the code of its file, down to its
    own end, and the options that this code names.
    """
    lines, first = inspect.getsourcelines(make)
    above = Path(inspect.getfile(make)).read_text(encoding="utf-8").splitlines()[: first + len(lines) - 1]
    where = torch.__version__, platform.python_version(), str(runtime.best_device())
    names = {*re.findall(r"OPTIONS\.(\w+)", "\n".join(above))}
    named = {name: getattr(options, name) for name in sorted(names)}
    return digest([*above, *map(repr, (named, *where, *others))])


def stage(make: Callable[[Path], Facts], out: Path, options: object, *others: object) -> Facts:
    """Return the facts of a stage: those in its folder if its fingerprint is that of today, else those that it makes.

    Args:
        make: gets a folder to write to. Where it was killed, it finds what it had left there.
        out: the folder above.
        options: what the program calls OPTIONS; those that the stage uses count.
        others: what else the result depends on.
    """
    name, mark = make.__name__, fingerprint(make, options, *others)
    done, work = out / name, out / f"{name}.work"
    if (facts := read(done / "facts.json")).get("fingerprint") == mark:
        print(f"{name:9} is there", flush=True)
        return facts
    if (begun := read(work / "begun.json")).get("fingerprint") != mark:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        begun = {"fingerprint": mark, "attempts": 0}
    begun["attempts"] += 1
    write(work / "begun.json", begun)
    runtime.seed_everything(0)
    with measure.Stopwatch() as watch:
        facts = make(work)
    facts = begun | {"seconds": watch.seconds, "cpu_seconds": watch.cpu_seconds} | facts
    write(work / "facts.json", facts)
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    shutil.rmtree(done, ignore_errors=True)
    work.replace(done)
    print(f"{name:9} {facts['seconds']:7.1f} s  {facts.get('says', '')}", flush=True)
    return facts
