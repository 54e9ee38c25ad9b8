"""Handwritten digits: MNIST where its files are at hand, else scikit-learn's. Introduced in chapter 3."""

import gzip
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from bigmodel_helpers.data.image_set import ImageSet
from bigmodel_helpers.runtime import data_folder

_UNSIGNED_BYTE = 8  # the code for uint8 in an idx file
_DIGITS = tuple("0123456789")


def _read_idx(path: Path) -> Tensor:
    """Return the bytes in `path`, an idx file as MNIST's (LeCun et al. 1998), packed by gzip or not.

    Returns:
        uint8, of the shape that the file names.

    Raises:
        ValueError: the file is damaged, or holds something else than bytes.
    """
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path.name} is damaged ({error}): copy it again") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE or content[3] == 0:
        raise ValueError(f"{path.name} is no idx file of bytes: it begins with {content[:4].hex()}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path.name} ends within its header: copy it again")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    numbers = torch.frombuffer(bytearray(content[start:] or b"\0"), dtype=torch.uint8)
    expected = int(torch.tensor(shape, dtype=torch.int64).prod())
    if len(content) - start != expected or expected == 0:
        raise ValueError(
            f"{path.name} should hold {expected:,} bytes of data and holds {len(content) - start:,}: copy it again"
        )
    return numbers.reshape(shape)


def _mnist_part(folder: Path, part: str) -> ImageSet:
    tensors = []
    for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
        found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not found:
            raise FileNotFoundError(
                f"BIGMODEL_DATA has a folder MNIST/raw without {name}: add it or remove the folder"
            )
        tensors.append(_read_idx(found[0]))
    images, labels = tensors
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            f"MNIST/raw has {part} images {tuple(images.shape)} and labels {tuple(labels.shape)}: "
            "one label per image is wanted, (N, H, W) and (N,)"
        )
    if int(labels.max()) > 9:
        raise ValueError(
            f"MNIST/raw has the label {int(labels.max())} in {part}: labels are the digits 0 to 9"
        )
    source = f"MNIST, {len(images):,} images of part {part}, in BIGMODEL_DATA"
    return ImageSet(images[:, None], labels.long(), _DIGITS, source)


def load_digits() -> tuple[ImageSet, ImageSet]:
    """Return handwritten digits for training and for test: gray images, 0 is paper, 255 is ink.

    Where ``$BIGMODEL_DATA/MNIST/raw`` exists, the four official MNIST files in it: 60,000 and 10,000 images of
    28 by 28 pixels. Else the digits that scikit-learn brings along: 1,797 images of 8 by 8 pixels; every fifth
    one is for test. The same people wrote both parts, so the test is an easy one.

    Raises:
        FileNotFoundError: the MNIST folder exists and lacks a file.
        ValueError: one of the MNIST files is damaged.
        ModuleNotFoundError: scikit-learn is needed and not installed.
    """
    folder = data_folder("MNIST", "raw")
    if folder and folder.is_dir():
        return _mnist_part(folder, "train"), _mnist_part(folder, "t10k")
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'digits without the MNIST files need scikit-learn: pip install "bigmodel-helpers[notebooks]"'
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
