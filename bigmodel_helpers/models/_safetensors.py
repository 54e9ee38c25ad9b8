"""A folder with safetensors as on the hubs: one file, or several with an index. Nothing in it is run or unpickled."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from bigmodel_helpers.data._paths import mode, shown

_LARGEST = 2**22  # bytes of a config or an index, forty times those of Llama 3 405B
_PLAIN, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Stored(NamedTuple):
    """A tensor that has not been read yet: its name in the file, its shape, and a function that reads it."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def read_json(file: Path) -> dict[str, Any]:
    """Return the table of names that a JSON file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is too large, damaged, or holds something else.
    """
    _find(file)
    if file.stat().st_size > _LARGEST:
        raise ValueError(
            f"{file.name} has {file.stat().st_size:,} bytes, too many for what it is: get it again"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))  # Notepad writes a mark
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{shown(file.name)} is damaged ({error}): get it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} holds no table of names: get it again")
    return content


def open_folder(folder: Path) -> dict[str, Stored]:
    """Return the tensors of the safetensors in a folder, by name.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or the index does not fit the files.
    """
    if (folder / _PLAIN).exists() or not (folder / _INDEX).exists():
        return open_file(folder / _PLAIN)
    places = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{_INDEX} has no weight_map of file names: get it again")
    files = sorted(set(places.values()))
    for file in files:
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(f"{_INDEX} names {file!r:.99}, which is no safetensors beside it: get it again")
    tensors: dict[str, Stored] = {}
    for file in files:
        for name, tensor in open_file(folder / file).items():
            if places.get(name) != file:
                raise ValueError(
                    f"{_INDEX} does not say that {name!r:.99} is in {shown(file)}: get all files again"
                )
            tensors[name] = tensor
    return tensors


def _find(file: Path) -> None:
    if not S_ISREG(mode(file)):
        name, folder = shown(file.name), shown(file.parent.name)
        raise FileNotFoundError(
            f"{name} is not in the folder {folder}: get all files (.bin ones are never opened)"
        )


def open_file(file: Path) -> dict[str, Stored]:
    """Return the tensors of one file, by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    _find(file)
    try:
        opened = safe_open(file, framework="pt")
        names = opened.keys()
        return {
            name: Stored(name, tuple(opened.get_slice(name).get_shape()), partial(opened.get_tensor, name))
            for name in names
        }
    except SafetensorError as error:
        raise ValueError(f"{shown(file.name)} is damaged ({error}): get it again") from None
