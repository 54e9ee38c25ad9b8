"""Handwritten digits: MNIST where its files are at hand, else scikit-learn's. Introduced in chapter 3."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from bigmodel_helpers.data.image_set import ImageSet
from bigmodel_helpers.runtime import data_folder

_UNSIGNED_BYTE = 8  # the code for uint8 in an idx file
_DIGITS = tuple("0123456789")
_PLACES = ("MNIST/raw", "MNIST", "mnist/raw", "mnist", ".")  # below BIGMODEL_DATA
_KINDS = {"images": "idx3", "labels": "idx1"}
_LARGEST = 2**28  # bytes, five times MNIST's largest file


def _read_idx(path: Path) -> Tensor:
    """Return the bytes in `path`, an idx file as MNIST's (LeCun et al. 1998), packed by gzip or not.

    Returns:
        uint8, of the shape that the file names.

    Raises:
        PermissionError: the file may not be read.
        ValueError: the file is damaged, too large, or holds something else than bytes.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read(_LARGEST + 1)
    except PermissionError:
        raise PermissionError(f"{path.name} may not be read: change its rights") from None
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path.name} is damaged ({error}): copy it again") from None
    if len(content) > _LARGEST:
        raise ValueError(
            f"{path.name} holds more than {_LARGEST:,} bytes, which MNIST never does: copy it again"
        )
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE or not 1 <= content[3] <= 4:
        raise ValueError(f"{path.name} is no idx file of bytes: it begins with {content[:4].hex()}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path.name} ends within its header: copy it again")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    expected = math.prod(shape)
    if len(content) - start != expected or expected == 0:
        raise ValueError(
            f"{path.name} should hold {expected:,} bytes of data and holds {len(content) - start:,}: copy it again"
        )
    return torch.frombuffer(bytearray(content[start:]), dtype=torch.uint8).reshape(shape)


def _mnist_files(root: Path) -> dict[str, Path]:
    """Return MNIST's files by part and kind (such as "train images") from the place below `root` that has most."""
    found: dict[str, Path] = {}
    for place in _PLACES:
        here = {
            f"{part} {kind}": root / place / name
            for part in ("train", "t10k")
            for kind, code in _KINDS.items()
            for stem in (f"{part}-{kind}-{code}-ubyte", f"{part}-{kind}.{code}-ubyte")
            for name in (f"{stem}.gz", stem)  # of two, the unpacked one
            if (root / place / name).is_file()
        }
        found = max(found, here, key=len)
    return found


def _mnist_part(files: dict[str, Path], root: Path, part: str) -> ImageSet:
    tensors = []
    for kind, code in _KINDS.items():
        if f"{part} {kind}" not in files:
            place = next(iter(files.values())).parent if files else root / "MNIST"
            raise FileNotFoundError(
                f"{place} has no {part}-{kind}-{code}-ubyte: add it or move the folder away"
            )
        tensors.append(_read_idx(files[f"{part} {kind}"]))
    images, labels = tensors
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            f"MNIST has {part} images {tuple(images.shape)} and labels {tuple(labels.shape)}: "
            "one label per image is wanted, (N, H, W) and (N,)"
        )
    if int(labels.max()) > 9:
        raise ValueError(f"MNIST has the label {int(labels.max())} in {part}: labels are the digits 0 to 9")
    source = f"MNIST, {len(images):,} images of part {part}, in BIGMODEL_DATA"
    return ImageSet(images[:, None], labels.long(), _DIGITS, source)


def load_digits() -> tuple[ImageSet, ImageSet]:
    """Return handwritten digits for training and for test: gray images, 0 is paper, 255 is ink.

    Where the folder that ``BIGMODEL_DATA`` names holds the four official MNIST files, in ``MNIST/raw``, in ``MNIST``
    or at its top, those: 60,000 and 10,000 images of 28 by 28 pixels. Else, also where it holds other data sets
    only, the digits that scikit-learn brings along: 1,797 images of 8 by 8 pixels; every fifth one is for test. The
    same people wrote both parts, so the test is an easy one. `source` tells which they are.

    Raises:
        FileNotFoundError: there is a folder MNIST, or some of the files, but not all four.
        OSError: what ``BIGMODEL_DATA`` names, or one of the files, may not be read.
        ValueError: one of the MNIST files is damaged.
        ModuleNotFoundError: scikit-learn is needed and not installed.
    """
    root = data_folder()
    try:
        files = _mnist_files(root) if root else {}
    except PermissionError as error:
        raise PermissionError(f"{error.filename} may not be read: change the rights of its folder") from None
    if files or (root and any((root / place).is_dir() for place in _PLACES[:-1])):
        return _mnist_part(files, root, "train"), _mnist_part(files, root, "t10k")
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "digits without the MNIST files need scikit-learn: pip install scikit-learn"
        ) from error
    bundle = datasets.load_digits()
    images = torch.from_numpy(bundle.images * (255 / 16)).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(bundle.target).long()
    test = torch.arange(len(labels)) % 5 == 0
    source = "handwritten digits of scikit-learn, real, 8 by 8 pixels"
    return (
        ImageSet(images[~test], labels[~test], _DIGITS, f"{source}, {int((~test).sum()):,} for training"),
        ImageSet(images[test], labels[test], _DIGITS, f"{source}, {int(test.sum()):,} for test"),
    )
