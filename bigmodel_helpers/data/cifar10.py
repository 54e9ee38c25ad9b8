"""CIFAR-10 from wherever it is, or a stand-in that says so."""

import os
from http.client import HTTPException
from pathlib import Path

import torch

from bigmodel_helpers.data import _cifar10, synthetic
from bigmodel_helpers.data._download import NoPlaceError
from bigmodel_helpers.data.image_set import ImageSet
from bigmodel_helpers.runtime import data_folder


def load_cifar10(download: bool = True) -> tuple[ImageSet, ImageSet]:
    """Return CIFAR-10 as (training set, test set); `source` tells what they are. Introduced in chapter 4.

    The first of these that exists is read:

    1. in the folder that the environment variable ``BIGMODEL_DATA`` names: ``cifar10/{train,test}/<class>/*``
       (image files), ``cifar-10-batches-py`` or ``cifar-10-python.tar.gz`` (the official archive);
    2. the official archive where torchvision or this package has put it;
    3. the official archive from its host (170 MB), if `download` is true and the host answers;
    4. a stand-in: 10,000 training and 2,000 test images of drawn shapes, see `synthetic.shapes`.

    Decoded image files are kept as one file (184 MB) in the user's cache folder, or in ``BIGMODEL_CACHE``. A place
    that one of the two variables names is used, or there is an error; other places that may not be read are passed.

    Raises:
        FileNotFoundError: ``BIGMODEL_DATA`` is set, but the data is not there or not whole.
        OSError: what ``BIGMODEL_DATA`` names may not be read, or ``BIGMODEL_CACHE`` not written for a download.
        ValueError: a file is truncated, unreadable, of the wrong shape, or came with the wrong checksum.
    """
    every_name = (_cifar10.TREE, _cifar10.ARCHIVE_FOLDER, _cifar10.ARCHIVE)
    if root := data_folder():
        if path := _cifar10.locate(root, every_name):
            return _real(path, "in BIGMODEL_DATA")
        names = ", ".join(every_name)
        cure = f"set it to {root.parent}" if root.name in every_name else "add one or unset it"
        raise FileNotFoundError(f"BIGMODEL_DATA={root} holds none of {names}: {cure}")
    cache = _cifar10.cache_folder()
    for folder in (Path(torch.hub.get_dir()).parent / "datasets", Path("data"), cache):
        if folder and (path := _cifar10.locate(folder, every_name[1:])):
            return _real(path, "in a cache folder")
    reason = "not found, and no download was wanted"
    if download and cache is None:
        reason = "no home folder for a download, set BIGMODEL_CACHE"
    elif download:
        try:
            _cifar10.download(cache / _cifar10.ARCHIVE)
        except NoPlaceError as error:
            if os.environ.get("BIGMODEL_CACHE"):
                raise OSError(f"BIGMODEL_CACHE: {error}: change its rights or the variable") from None
            reason = f"no place for a download, {error}, set BIGMODEL_CACHE"
        except (OSError, HTTPException) as error:
            reason = f"download failed ({error})"
        else:
            return _real(cache / _cifar10.ARCHIVE, "from its host")
    print(f"CIFAR-10: {reason}; using the stand-in. Set BIGMODEL_DATA to a folder with the real images.")
    source = "stand-in: drawn shapes in 10 classes, made by this package, 10,000 for training, 2,000 for test"
    train = ImageSet(*synthetic.shapes(10_000, seed=0), synthetic.CLASSES, source)
    return train, ImageSet(*synthetic.shapes(2_000, seed=1), synthetic.CLASSES, source)


def _real(path: Path, where: str) -> tuple[ImageSet, ImageSet]:
    """Read the real images at `path`, cut them into training and test set, and say where they came from."""
    found = _cifar10.read(path)
    cut, count = found.train, len(found.images)
    numbers = f"{cut:,} for training, {count - cut:,} for test"
    source = f"CIFAR-10, real images ({numbers}), {found.kind} {where}"
    train = ImageSet(found.images[:cut], found.labels[:cut], _cifar10.CLASSES, source)
    return train, ImageSet(found.images[cut:], found.labels[cut:], _cifar10.CLASSES, source)
