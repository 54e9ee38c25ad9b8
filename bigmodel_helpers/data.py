"""CIFAR-10 from wherever it is, and batches made on the device from one uint8 tensor."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from http.client import HTTPException
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.data import TensorDataset

from bigmodel_helpers import _cifar10, synthetic

CLASSES = _cifar10.CLASSES
MEAN = (0.4914, 0.4822, 0.4465)  # of the CIFAR-10 training images, per channel, pixels in 0..1
STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class ImageSet:
    """Labeled images in memory. Introduced in chapter 4.

    Attributes:
        images: uint8 (N, 3, H, W), contiguous.
        labels: int64 (N,), indices into `classes`.
        classes: the names of the classes.
        source: one sentence that names the data and where it came from.

    Raises:
        ValueError: a tensor has the wrong shape or dtype, or a label has no class.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be uint8 (N, 3, H, W), not {images.dtype} {tuple(images.shape)}")
        if not images.is_contiguous():
            raise ValueError("images must be contiguous in memory: call .contiguous() first")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels must be int64 ({len(images)},), not {labels.dtype} {tuple(labels.shape)}"
            )
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
        if low < 0 or high >= len(self.classes):
            raise ValueError(f"labels must lie in 0..{len(self.classes) - 1}, not in {low}..{high}")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> "ImageSet":
        """Return the same set with its tensors on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, n: int, seed: int = 0) -> "ImageSet":
        """Return `n` random images in their old order, every class in the same proportion as before.

        Raises:
            ValueError: `n` is not between 1 and the number of images.
        """
        if not 1 <= n <= len(self):
            raise ValueError(f"a subset of {n} images does not exist: choose 1 to {len(self)}")
        order = torch.randperm(len(self), generator=_generator(seed))
        labels = self.labels.cpu()[order]
        share = torch.empty(len(self), dtype=torch.float64)  # an image's place within its class, in 0..1
        for label in range(len(self.classes)):
            places = (labels == label).nonzero().flatten()
            share[places] = (torch.arange(len(places)) + 0.5).double() / max(len(places), 1)
        chosen = order[share.argsort(stable=True)[:n]].sort().values.to(self.images.device)
        source = f"{self.source}; a subset of {n:,} images"
        return replace(self, images=self.images[chosen], labels=self.labels[chosen], source=source)


def load_cifar10(download: bool = True) -> tuple[ImageSet, ImageSet]:
    """Return CIFAR-10 as (training set, test set); `source` tells what they are. Introduced in chapter 4.

    The first of these that exists is read:

    1. in the folder that the environment variable ``BIGMODEL_DATA`` names: ``cifar10/{train,test}/<class>/*``
       (image files), ``cifar-10-batches-py`` or ``cifar-10-python.tar.gz`` (the official archive);
    2. the official archive where torchvision or this package has put it;
    3. the official archive from its host (170 MB), if `download` is true and the host answers;
    4. a stand-in: 10,000 training and 2,000 test images of drawn shapes, see `synthetic.shapes`.

    Decoded image files are kept as one file (184 MB) in the user's cache folder, or in ``BIGMODEL_CACHE``.

    Raises:
        FileNotFoundError: ``BIGMODEL_DATA`` is set, but the data is not there or not whole.
        ValueError: a file is truncated, unreadable, of the wrong shape, or came with the wrong checksum.
    """
    every_name = (_cifar10.TREE, _cifar10.ARCHIVE_FOLDER, _cifar10.ARCHIVE)
    if root := os.environ.get("BIGMODEL_DATA"):
        if path := _cifar10.locate(Path(root), every_name):
            return _real(path, "in BIGMODEL_DATA")
        names = ", ".join(every_name)
        raise FileNotFoundError(f"BIGMODEL_DATA={root} holds none of {names}: add one or unset it")
    target = _cifar10.cache_folder() / _cifar10.ARCHIVE
    for folder in (Path(torch.hub.get_dir()).parent / "datasets", Path("data"), target.parent):
        if path := _cifar10.locate(folder, every_name[1:]):
            return _real(path, "in a cache folder")
    reason = "not found, and no download was wanted"
    if download:
        try:
            _cifar10.download(target)
        except (OSError, HTTPException) as error:
            reason = f"download failed ({error})"
        else:
            return _real(target, "from its host")
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
    train = ImageSet(found.images[:cut], found.labels[:cut], CLASSES, source)
    return train, ImageSet(found.images[cut:], found.labels[cut:], CLASSES, source)


# ------------------------------------------------------------------------------------- augmentation


@cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return 255 times the values, (1, 3, 1, 1); kept, because each copy to a GPU makes it wait."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1) * 255


def _mirror(images: Tensor, which: Tensor) -> Tensor:
    """Mirror left and right the images where the bool tensor `which` (B,) is true."""
    return torch.where(which[:, None, None, None], images.flip(3), images)


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror each image left and right with probability 1/2.

    `images` is uint8 or float (B, C, H, W); `generator` is on any device.
    """
    which = torch.rand(len(images), generator=generator, device=generator.device) < 0.5
    return _mirror(images, which.to(images.device))


def shift(images: Tensor, pixels: int, generator: Generator) -> Tensor:
    """Move each image by up to `pixels` in both directions; the gap is filled with the mirrored border.

    The same as padding with ``mode="reflect"`` and cropping at random, without the padded copy.

    Every move from -pixels to pixels is equally likely. `images` is uint8 or float (B, C, H, W); `generator` is
    on any device. A ValueError tells when the images are too small for `pixels`.
    """
    batch, channels, height, width = images.shape
    if not 0 <= pixels < min(height, width):
        raise ValueError(
            f"a shift by {pixels} pixels does not fit {height}x{width} images: use a smaller one"
        )
    moves = torch.randint(-pixels, pixels + 1, (2, batch, 1), generator=generator, device=generator.device)
    down, right = moves.to(images.device)
    rows, columns = _reflect(down, height), _reflect(right, width)  # (B, H), (B, W)
    places = (rows[:, :, None] * width + columns[:, None, :]).view(batch, 1, -1)
    return images.flatten(2).gather(2, places.expand(-1, channels, -1)).view_as(images)


def _reflect(move: Tensor, size: int) -> Tensor:
    """Return for each move (B, 1) the source index (B, size) of every place, mirrored at both borders."""
    index = (torch.arange(size, device=move.device) + move).abs()
    return (size - 1) - ((size - 1) - index).abs()


def cutout(images: Tensor, size: int, generator: Generator) -> Tensor:
    """Fill a square of each image with the mean color (zero after normalizing; DeVries and Taylor, 2017).

    The square's side is `size` pixels and its center any pixel, so a part of it may lie outside of the image.
    `images` is uint8 (B, 3, H, W); `generator` is on any device.
    """
    batch, _, height, width = images.shape
    place = torch.rand((2, batch, 1), generator=generator, device=generator.device).to(images.device)
    top, left = (place[0] * height).long() - size // 2, (place[1] * width).long() - size // 2  # (B, 1)
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    in_rows, in_columns = (rows >= top) & (rows < top + size), (columns >= left) & (columns < left + size)
    hole = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]  # (B, 1, H, W)
    color = _per_channel(MEAN, images.device).round().to(images.dtype)
    return torch.where(hole, color, images)


@dataclass(frozen=True)
class Augment:
    """The augmentation of a batch: mirror, move by up to `shift` pixels, cut out a square of side `cutout`.

    Called with (images uint8 (B, 3, H, W), generator), it returns images of the same shape. 0 switches off.
    """

    flip: bool = True
    shift: int = 2
    cutout: int = 0

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        if self.flip:
            images = flip(images, generator)
        if self.shift:
            images = shift(images, self.shift, generator)
        if self.cutout:
            images = cutout(images, self.cutout, generator)
        return images


# ------------------------------------------------------------------------------------------ batches


def normalize(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn uint8 images (B, 3, H, W) into numbers with mean about 0 and spread about 1 per channel.

    The arithmetic is float32, whatever `dtype` is asked for.
    """
    mean, std = _per_channel(MEAN, images.device), _per_channel(STD, images.device)
    return images.float().sub_(mean).div_(std).to(dtype)


def _mix(*numbers: int) -> int:
    """Mix whole numbers into one 63-bit seed (SplitMix64), the same on every machine."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state >> 1


def _generator(*numbers: int) -> Generator:
    return Generator().manual_seed(_mix(*numbers))


class Batches:
    """Batches of an image set, made on the device; iterate over it once per epoch. Introduced in chapter 4.

    The uint8 images are kept on `device`. Each batch is taken from them, augmented and normalized. Order and
    augmentation depend only on (seed, epoch, batch index): a resumed run sees the same batches.

    Yields (x, y): x (B, 3, H, W) in `dtype`, normalized; y int64 (B,).

    Args:
        image_set: the images.
        batch_size: images per batch; the last batch may be smaller unless `drop_last`.
        shuffle: a new order in each epoch, else the order of the set.
        augment: a function of (uint8 images, generator), for example `Augment()`.
        alternate_flip: mirror each image at random in epoch 0 and every second time after that, so that two
            epochs show both views (Jordan, 2024); use it with ``Augment(flip=False)``.
        channels_last: give x the memory format in which convolutions are faster.

    Attributes:
        size: pixels a side to which x is shrunk, None for whole images; `training.Grow` sets it.

    Raises:
        ValueError: the batch size is not positive, no batch would be left, or images would be mirrored twice.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: Callable[[Tensor, Generator], Tensor] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        alternate_flip: bool = False,
    ) -> None:
        full, rest = divmod(len(image_set), batch_size) if batch_size > 0 else (0, 0)
        self.length = full + bool(rest and not drop_last)
        if self.length == 0:
            raise ValueError(f"no batch of {batch_size} fits in {len(image_set)} images: change batch_size")
        if alternate_flip and isinstance(augment, Augment) and augment.flip:
            raise ValueError("alternate_flip and Augment(flip=True) undo each other: use Augment(flip=False)")
        self.batch_size = batch_size
        self.samples = full * batch_size if drop_last else len(image_set)
        self.images = image_set.images.to(device)
        self.labels = image_set.labels.to(device)
        self.shuffle, self.augment, self.dtype, self.seed = shuffle, augment, dtype, seed
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.alternate_flip = alternate_flip
        self.size: int | None = None
        self.set_epoch(0)

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration show `epoch` from its first batch on.

        Without it, iterations show epochs 0, 1, 2 and so on; one that was left early is shown again.
        """
        if epoch < 0:
            raise ValueError(f"epoch {epoch} does not exist: count from 0")
        self.epoch, self.first_batch, self.position = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Return the place in the order (batches that were yielded), and what decides the order."""
        return {"epoch": self.epoch, "position": self.position, **self._order()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration go on from a place that `state_dict` returned.

        Raises:
            ValueError: the place is in another order.
        """
        for name, value in self._order().items():
            if state[name] != value:
                raise ValueError(
                    f"the saved batches have {name}={state[name]}, these {value}: make them alike"
                )
        self.set_epoch(state["epoch"])
        self.first_batch = self.position = state["position"]

    def _order(self) -> dict[str, int]:
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "images": len(self.images),
            "shuffle": self.shuffle,
        }

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, count = self.epoch, len(self.images)
        order = torch.arange(count)
        if self.shuffle:
            order = torch.randperm(count, generator=_generator(self.seed, epoch))
        mirrored = torch.rand(count, generator=_generator(self.seed)) < 0.5  # in epoch 0, per image
        mirrored = (mirrored ^ bool(epoch % 2)).to(self.images.device)
        order = order.to(self.images.device)
        generator = Generator(self.images.device)
        for index in range(self.first_batch, len(self)):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            images = self.images[chosen]
            if self.alternate_flip:
                images = _mirror(images, mirrored[chosen])
            if self.augment:
                generator.manual_seed(_mix(self.seed, epoch, index))
                images = self.augment(images, generator)
            x = normalize(images, self.dtype)
            if self.size is not None:
                x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True)
            self.position = index + 1
            yield x.contiguous(memory_format=self.memory_format), self.labels[chosen]
        self.set_epoch(epoch + 1)


def as_dataset(image_set: ImageSet) -> TensorDataset:
    """Return the set as a dataset of (normalized float32 image (3, H, W), label), for a `DataLoader`.

    A loader over it yields the same (x, y) as `Batches`. It takes 4 bytes per color value: 614 MB for the
    50,000 training images.
    """
    return TensorDataset(normalize(image_set.images), image_set.labels)
