"""Files that are whole or absent, and files that can be sought."""

import io
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

MOST_BYTES = 2**30  # of what comes through a pipe


def seekable(source: Any, error: Callable[[str], Exception]) -> IO[bytes]:
    """Return a file object with something in it that can be sought, at its beginning.

    Args:
        source: the bytes of a file, or a file object, which may be a pipe.
        error: makes the error of what cannot be read.
    """
    file = io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
    if isinstance(file.read(0), str):
        raise error("opened as text: open it with 'rb'")
    try:
        seeks = file.seekable()
    except AttributeError:  # a member of a tar file that is read as a stream, for one
        seeks = False
    if not seeks:
        file = io.BytesIO()
        while chunk := source.read(2**20):
            file.write(chunk)
            if file.tell() > MOST_BYTES:
                raise error("more than 1 GB, perhaps without end: save it in a file first")
    file.seek(0)
    if not file.read(1):
        raise error("empty: get it again")
    return file


def save_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict[str, str] | None = None) -> Path:
    """Write a safetensors file so that a crash leaves either the old file or the new one, never half of it.

    The file is written under another name, forced to disk (fsync) and then renamed, which is atomic. It may be read
    by whom the umask lets; safetensors by itself lets only the owner.

    Raises:
        OSError: the file cannot be written; names it, and the space that it needs and finds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(tensors, partial, metadata=header)
        partial.chmod(mode)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        needed = sum(tensor.nbytes for tensor in tensors.values()) / 1e6
        free = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(
            f"cannot write {path} ({error}): it needs {needed:,.1f} MB, {free:,.1f} MB are free there"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()
    _sync_folder(path.parent)
    return path


def _sync_folder(folder: Path) -> None:
    """Force the rename itself to disk, where system and file system let a folder be synchronized."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
