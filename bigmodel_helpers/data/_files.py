"""Files that are whole or absent."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


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
