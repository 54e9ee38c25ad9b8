"""Finding, fetching and reading the files of CIFAR-10; `data.load_cifar10` is the public way in."""

import hashlib
import io
import os
import pickle
import stat
import sys
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from bigmodel_helpers.data._download import PATIENCE_S, SILENCE_S, fetch
from bigmodel_helpers.data._files import save_tensors

#: The names of CIFAR-10's classes, by label.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TREE, ARCHIVE_FOLDER, ARCHIVE = "cifar10", "cifar-10-batches-py", "cifar-10-python.tar.gz"
TRAIN_FILES, TEST_FILE, META_FILE = [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta"

URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF")  # Pillow opens no other, whatever a file says
LARGEST = 2**26  # bytes, twice the largest file of the archive
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"


class Found(NamedTuple):
    """What the files hold: images uint8 (N, 3, 32, 32), the training images first, and labels int64 (N,)."""

    images: Tensor
    labels: Tensor
    train: int  # number of training images
    kind: str  # what was read, in words


def cache_folder() -> Path | None:
    """Return the folder for files that can be made again: ``BIGMODEL_CACHE``, else the platform's own.

    None where neither is set and this user has no home.
    """
    if chosen := os.environ.get("BIGMODEL_CACHE"):
        return Path(os.path.expanduser(chosen))  # noqa: PTH111 -- keeps a ~ where there is no home
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    if place := os.environ.get(variable):
        return Path(place) / "bigmodel_helpers"
    try:
        return Path.home() / ("AppData/Local" if sys.platform == "win32" else ".cache") / "bigmodel_helpers"
    except RuntimeError:
        return None


def locate(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first of `names` that exists in `folder`, or None; also where the folder may not be looked into."""
    try:
        return next((folder / name for name in names if (folder / name).exists()), None)
    except OSError:
        return None


def read(path: Path) -> Found:
    """Read the image-folder tree, the unpacked archive or the packed archive at `path`.

    Raises:
        FileNotFoundError: a part is missing.
        PermissionError: a part may not be read.
        ValueError: a part is truncated, unreadable or of the wrong shape.
    """
    try:
        return read_tree(path) if path.name == TREE else read_archive(path)
    except PermissionError as error:
        raise PermissionError(f"{error.filename or path} may not be read: change its rights") from None


# --------------------------------------------------------------------------------------- image files


def read_tree(folder: Path) -> Found:
    """Read the image files ``{train,test}/<class>/*`` below `folder`; keep the pixels in the cache folder."""
    train, test = _image_files(folder / "train"), _image_files(folder / "test")
    paths = [path for path, _ in train + test]
    labels = torch.tensor([label for _, label in train + test])
    name, cache = f"cifar10-{_fingerprint(folder, paths)}.safetensors", cache_folder()
    images = _load_cached(cache / name, len(paths)) if cache else None
    if images is None:
        images = _decode(paths)
        _store(cache, name, images)
    kinds = "/".join(sorted({path.suffix for path in paths}))
    return Found(images, labels, len(train), f"a folder of {kinds} files")


def _image_files(folder: Path) -> list[tuple[Path, int]]:
    """List the files below `folder` with their labels: the first of each class, then the second, and so on.

    So the first images are a fair sample of all classes, as in the official archive. Hidden files are left out.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: put the images there, one folder per class")
    found = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    if missing := set(CLASSES) - found:
        raise ValueError(f"{folder} lacks the class folder {min(missing)}: copy all 10 classes there")
    if unknown := found - set(CLASSES):
        raise ValueError(f"{folder / min(unknown)} is no class of CIFAR-10: move it elsewhere")
    entries = []
    for label, name in enumerate(CLASSES):
        paths = [path for path in (folder / name).iterdir() if not path.name.startswith(".")]
        if not paths:
            raise ValueError(f"{folder / name} holds no image: copy the folder again")
        entries += [(rank, label, path) for rank, path in enumerate(sorted(paths, key=str))]
    return [(path, label) for _, label, path in sorted(entries, key=lambda entry: entry[:2])]


def _decode(paths: list[Path]) -> Tensor:
    """Return the images as one tensor uint8 (N, 3, 32, 32)."""
    images = np.empty((len(paths), 32, 32, 3), dtype=np.uint8)

    def read_some(start: int) -> int:
        some = paths[start : start + 200]
        for index, path in enumerate(some, start):
            images[index] = _pixels(path)
        return len(some)

    bar = tqdm(desc="reading images", total=len(paths), unit=" images", leave=False, disable=None)
    with ThreadPoolExecutor(4) as pool, bar:
        for count in pool.map(read_some, range(0, len(paths), 200)):
            bar.update(count)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _pixels(path: Path) -> np.ndarray:
    """Return the image in the file as uint8 (32, 32, 3)."""
    try:
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            mode, (width, height) = image.mode, image.size
            if (mode, width, height) == ("RGB", 32, 32):
                return np.asarray(image)
    except PermissionError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is no readable image ({cause}): copy it again or delete it") from error
    raise ValueError(f"{path} is {mode} {width}x{height}, not RGB 32x32: replace or delete it")


def _fingerprint(folder: Path, paths: list[Path]) -> str:
    """Return a hash of the names, sizes and times of the files: it changes when one of them does."""
    digest = hashlib.sha256(f"{folder.resolve()}\n".encode())
    for path in paths:
        try:
            facts = os.stat(path)  # noqa: PTH116 -- half the time of path.stat()
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is a link to nothing: delete it") from None
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError(f"{path} is a folder or device, not an image: move it elsewhere")
        digest.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _load_cached(path: Path, count: int) -> Tensor | None:
    """Return the `count` images kept in `path`, or None where the file is absent or broken."""
    try:
        images = load_file(path)["images"]
    except (OSError, SafetensorError, KeyError):
        return None
    fits = images.dtype == torch.uint8 and images.shape == (count, 3, 32, 32)
    return images.clone() if fits else None  # a copy: the file can change later


def _store(folder: Path | None, name: str, images: Tensor) -> None:
    """Keep the images in `folder`, whole or not at all."""
    if folder is None:
        print("CIFAR-10: cannot keep the decoded images (no home folder); set BIGMODEL_CACHE.")
        return
    try:
        save_tensors(folder / name, {"images": images})
    except OSError as error:
        print(f"CIFAR-10: cannot keep the decoded images in {folder} ({error}); set BIGMODEL_CACHE.")


# ------------------------------------------------------------------------------- the official archive


def read_archive(path: Path) -> Found:
    """Read the official archive for Python at `path`, a folder or a ``.tar.gz`` file, without trusting it."""
    names = [*TRAIN_FILES, TEST_FILE, META_FILE]
    raw = _from_folder(path, names) if path.is_dir() else _from_tar(path, names)
    missing = [name for name in names if name not in raw]
    if missing:
        raise FileNotFoundError(f"{path / missing[0]} is missing: delete {path.name} and get it again")
    meta = _unpickle(raw[META_FILE], path / META_FILE)
    count = meta.get(b"num_cases_per_batch")
    if meta.get(b"label_names") != [name.encode() for name in CLASSES]:
        raise ValueError(
            f"{path / META_FILE} does not name the 10 classes of CIFAR-10: get the archive again"
        )
    parts = []
    for name in names[:-1]:
        batch = _unpickle(raw[name], path / name)
        pixels, labels = batch.get(b"data"), batch.get(b"labels")
        if not isinstance(pixels, np.ndarray) or pixels.shape != (count, 3072) or pixels.dtype != np.uint8:
            raise ValueError(
                f"{path / name} does not hold {count} images of 3072 bytes: get the archive again"
            )
        if not isinstance(labels, list) or len(labels) != count or not set(labels) <= set(range(10)):
            raise ValueError(f"{path / name} does not hold {count} labels from 0 to 9: get the archive again")
        parts.append((pixels, labels))
    images = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, 32, 32)
    labels = torch.tensor([label for _, labels in parts for label in labels])
    return Found(torch.from_numpy(images), labels, count * len(TRAIN_FILES), "the official archive")


def _from_folder(path: Path, names: list[str]) -> dict[str, bytes]:
    raw = {}
    for name in names:
        if (path / name).is_file():
            with (path / name).open("rb") as file:
                raw[name] = _content(file, path / name)
    return raw


def _from_tar(path: Path, names: list[str]) -> dict[str, bytes]:
    wanted = {f"{ARCHIVE_FOLDER}/{name}": name for name in names}
    raw = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:  # in the order of the file: going back would unpack it again
                if member.name in wanted and member.isreg() and (file := archive.extractfile(member)):
                    raw[wanted[member.name]] = _content(file, path / wanted[member.name])
    except PermissionError:
        raise
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise ValueError(
            f"{path} is truncated or no .tar.gz file ({error}): delete it and get it again"
        ) from error
    return raw


def _content(file: IO[bytes], path: Path) -> bytes:
    """Return what is left in the file, which is not trusted about its size."""
    content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{path} holds more than {LARGEST:,} bytes: get the archive again")
    return content


_RECONSTRUCT = np.empty(0).__reduce__()[0]  # what a pickled array names, wherever this NumPy keeps it


def _dtype(code: bytes | str, *_: int) -> np.dtype:
    """Stand for ``numpy.dtype`` in the archive, whose old call NumPy 2.4 warns about."""
    if code not in (b"u1", "u1"):
        raise pickle.UnpicklingError(f"it holds numbers of type {code!r}")
    return np.dtype(np.uint8)


class _Unpickler(pickle.Unpickler):
    """Builds arrays of bytes, lists, numbers and strings; refuses everything else that a pickle can call."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _RECONSTRUCT
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return _dtype
        raise pickle.UnpicklingError(f"it calls {module}.{name}, which is refused")


def _unpickle(raw: bytes, path: Path) -> dict[bytes, Any]:
    """Return the dictionary in the pickled bytes `raw`, which were read from `path`."""
    try:
        value = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
    except Exception as error:  # a broken pickle can raise anything
        raise ValueError(f"{path} is truncated or foreign ({error}): get the archive again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not a dictionary: get the archive again")
    return value


# ------------------------------------------------------------------------------------------ download


def download(target: Path) -> None:
    """Fetch the official archive into `target`, whole or not at all; raises what `_download.fetch` raises."""
    fetch(URL, target, SHA256, SILENCE_S, PATIENCE_S)
