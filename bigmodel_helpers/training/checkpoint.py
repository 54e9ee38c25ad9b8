"""Checkpoints that are whole or absent: safetensors for tensors, JSON for the rest, never pickle.

One file holds both: safetensors keeps a text header beside the tensors, and the JSON lives there.
Introduced in chapter 4.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bigmodel_helpers.data._files import save_tensors

FORMAT = "bigmodel_helpers.checkpoint"
VERSION = 2
PATTERN = "step-{step:08d}.safetensors"


class CheckpointError(RuntimeError):
    """A file is not a whole checkpoint of this package; the message names the file, the cause, the cure."""


class NewerVersionError(CheckpointError):
    """A checkpoint is whole, but of a newer version of this package."""


def save(path: str | Path, state: dict[str, Any]) -> Path:
    """Write `state` to `path` so that a crash leaves either the old file or the new one, never half of it.

    The file is written under another name, forced to disk (fsync) and then renamed, which is atomic.

    Args:
        state: nested dicts, lists and tuples of tensors (any dtype and device), numbers, strings, booleans
            and None. Dict keys are strings or integers.

    Raises:
        TypeError: `state` holds anything else.
        OSError: the file cannot be written, because the disk is full, for instance; names file and space.
    """
    tensors: dict[str, Tensor] = {}
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "state": json.dumps(_describe(state, "", tensors)),
    }
    return save_tensors(path, tensors, header)


def load(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save` wrote; tensors come back on `device`, tuples as tuples, integer keys as integers.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is truncated or of another kind; a `NewerVersionError`: of a newer version.
    """
    with _opened(path, device) as (file, header):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        try:
            return _rebuild(json.loads(header["state"]), tensors)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{path} holds no state that `save` wrote ({error!r}): use another file"
            ) from error


@contextmanager
def _opened(path: str | Path, device: torch.device | str = "cpu") -> Iterator[tuple[Any, dict[str, str]]]:
    """Open a whole checkpoint of a version that this package reads; yields the file and its header."""
    path, device = Path(path), torch.device(device)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: give the file that `save` or `fit` wrote")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            version = header.get("version", "")
            if header.get("format") != FORMAT or not version.isdecimal():
                raise CheckpointError(
                    f"{path} is no checkpoint of this package: load it with safetensors itself"
                )
            if int(version[:9]) > VERSION:
                raise NewerVersionError(
                    f"{path} has checkpoint version {version}, this package reads up to {VERSION}: "
                    "update bigmodel_helpers"
                )
            yield file, header
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file ({error}): delete it and use an older one"
        ) from error


def step_path(directory: str | Path, step: int) -> Path:
    """Return where the checkpoint of optimizer step `step` lives in `directory`."""
    return Path(directory) / PATTERN.format(step=step)


def list_steps(directory: str | Path) -> list[Path]:
    """Return the checkpoints in `directory`, newest step first."""
    files = Path(directory).glob("step-*.safetensors")
    return sorted((file for file in files if re.fullmatch(r"step-\d+", file.stem)), reverse=True)


def latest(directory: str | Path) -> Path | None:
    """Return the newest whole checkpoint in `directory`, or None if there is none at all.

    A broken file is named on standard output, and the one before it is taken.

    Raises:
        CheckpointError: there are checkpoints, but none of them is whole.
        NewerVersionError: the newest whole one is of a newer version of this package.
    """
    files = list_steps(directory)
    for file in files:
        try:
            with _opened(file):
                return file
        except NewerVersionError:
            raise
        except CheckpointError as error:
            print(f"skipped checkpoint: {error}", flush=True)
    if files:
        raise CheckpointError(
            f"none of the {len(files)} checkpoints in {directory} is whole: start in another folder"
        )
    return None


def prune(directory: str | Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints in `directory`; at least one stays."""
    for file in list_steps(directory)[max(keep, 1) :]:
        file.unlink()


def _describe(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON data; its tensors are put into `tensors` and referred to by name."""
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            raise TypeError(
                f"checkpoint entry {name!r} is a sparse, meta or quantized tensor: save dense numbers"
            )
        name = f"{len(tensors)}{name}"  # the number keeps "a/b" and "a" -> "b" apart
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        bad = [key for key in value if type(key) not in (str, int)]
        if bad:
            raise TypeError(
                f"checkpoint entry {name or 'state'!r} has the key {bad[0]!r}: use strings or integers"
            )
        return {"dict": [[key, _describe(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_describe(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    if value is None or isinstance(value, bool | int | float | str):  # NumPy's float64 is a float
        return value
    raise TypeError(
        f"checkpoint entry {name!r} is a {type(value).__name__}: save tensors, numbers and text only"
    )


def _rebuild(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    (kind, content), *_ = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _rebuild(item, tensors) for key, item in content}
    items = [_rebuild(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)
