"""Your own pictures: a folder with one subfolder per class, read, split and checked. Introduced in chapter 6."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from bigmodel_helpers.data.image_set import ImageSet
from bigmodel_helpers.data.images import ImageError, read_image, to_pixels

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif"}


@dataclass(frozen=True)
class ImageFolder:
    """Pictures of a folder, read, and the files that could not be.

    Attributes:
        images: uint8 (N, 3, size, size) with labels.
        files: the file of each image.
        groups: int64 (N,); images with the same number are near-duplicates of each other.
        skipped: one line for each file that could not be read.
        conflicts: one line for each pair of near-duplicates in different classes; look at them, and delete one.
    """

    images: ImageSet
    files: tuple[Path, ...]
    groups: Tensor
    skipped: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = torch.bincount(self.images.labels, minlength=len(self.images.classes)).tolist()
        parts = [f"{name} {count}" for name, count in zip(self.images.classes, counts, strict=True)]
        twins = len(self.files) - len(self.groups.unique())
        return (
            f"{len(self.files)} pictures ({', '.join(parts)}), {twins} near-duplicates, "
            f"{len(self.conflicts)} conflicts, {len(self.skipped)} skipped"
        )

    def split(self, *shares: float, seed: int = 0) -> tuple[ImageSet, ...]:
        """Return sets with these shares of the images: stratified, seeded, near-duplicates in one set together.

        Raises:
            ValueError: a share is not positive, they do not add up to 1, or a class would be missing from a set.
        """
        if len(shares) < 2 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"shares {shares} must be two or more positive numbers that add up to 1")
        parts: list[list[int]] = [[] for _ in shares]
        for label, name in enumerate(self.images.classes):
            for part, chosen in zip(parts, self._split_class(label, shares, seed), strict=True):
                if not chosen:
                    raise ValueError(f"class {name!r} is too small to be in every part: add pictures of it")
                part.extend(chosen)
        return tuple(self._take(sorted(part)) for part in parts)

    def _split_class(self, label: int, shares: Sequence[float], seed: int) -> list[list[int]]:
        """Deal the groups of one class, largest first, each to the part that lacks most of its share."""
        members: dict[int, list[int]] = {}
        for index in (self.images.labels == label).nonzero().flatten().tolist():
            members.setdefault(int(self.groups[index]), []).append(index)
        groups = list(members.values())
        random.Random(f"{seed} {label}").shuffle(groups)
        groups.sort(key=len, reverse=True)
        total = sum(map(len, groups))
        parts: list[list[int]] = [[] for _ in shares]
        for group in groups:
            lacking = [share * total - len(part) for share, part in zip(shares, parts, strict=True)]
            parts[lacking.index(max(lacking))].extend(group)
        return parts

    def _take(self, indices: list[int]) -> ImageSet:
        whole = self.images
        chosen = torch.tensor(indices)
        source = f"{whole.source}; {len(indices)} of {len(whole)} images"
        return ImageSet(whole.images[chosen], whole.labels[chosen], whole.classes, source)


def image_folder(path: str | Path, size: int = 32, *, progress: bool = True) -> ImageFolder:
    """Read a folder that has one subfolder of pictures per class.

    Every picture is made upright RGB, its shorter side resized to `size`, and the middle cut out. A file that cannot
    be read is skipped and named in `skipped`; files that are not pictures by their name are not looked at.

    Args:
        path: the folder; the names of its subfolders are the classes, in alphabetical order.
        size: pixels a side.
        progress: show a bar on a terminal.

    Raises:
        FileNotFoundError: there is no such folder, or fewer than two subfolders hold readable pictures.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder: check the path")
    found = [
        (file, folder.name)
        for folder in sorted(path.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]
    pixels, files, names, hashes, skipped = [], [], [], [], []
    for file, name in tqdm(found, unit=" pictures", leave=False, disable=None if progress else True):
        try:
            picture = read_image(file)
        except ImageError as error:
            skipped.append(str(error))
            continue
        pixels.append(to_pixels(_square(picture, size)))
        hashes.append(perceptual_hash(picture))
        files.append(file)
        names.append(name)
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        more = f"; {len(skipped)} files could not be read, the first: {skipped[0]}" if skipped else ""
        raise FileNotFoundError(
            f"{path}: {len(classes)} subfolders with pictures, need 2: one folder a class{more}"
        )
    labels = torch.tensor([classes.index(name) for name in names])
    source = f"{len(files)} pictures of {path.name}, {len(skipped)} skipped"
    images = ImageSet(torch.stack(pixels), labels, classes, source)
    groups = _near_duplicates(torch.stack(hashes))
    conflicts = tuple(
        f"{files[group]} and {files[index]} look the same but lie in different classes"
        for index, group in enumerate(groups.tolist())
        if labels[index] != labels[group]
    )
    return ImageFolder(images, tuple(files), groups, tuple(skipped), conflicts)


def _square(picture: Image.Image, size: int) -> Image.Image:
    """Return the middle square of an RGB picture, resized to `size` pixels a side."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)


def perceptual_hash(picture: Image.Image) -> Tensor:
    """Return 63 bits, bool, that copies share: signs of the slowest waves in a 32x32 gray copy of the picture.

    Each bit says whether a coefficient of the cosine transform is above the median of all. Copies that were resized,
    recompressed or made a little brighter differ in few bits, other pictures in about half of them.
    """
    gray = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    waves = np.cos(np.pi * np.outer(np.arange(8), np.arange(32) + 0.5) / 32)  # (8, 32), the slowest first
    slowest = (waves @ gray @ waves.T).flatten()[1:]  # without the mean
    return torch.from_numpy(slowest > np.median(slowest))


def _near_duplicates(hashes: Tensor, most: int = 8) -> Tensor:
    """Give each of the hashes (N, bits), bool, a group: those that differ in at most `most` bits share one.

    Returns:
        int64 (N,), the smallest index of each group. A copy of a copy is in the group, too.
    """
    signs = hashes.float() * 2 - 1
    bits = hashes.shape[1]
    group = torch.arange(len(hashes))
    for index in range(1, len(hashes)):
        different = (bits - signs[:index] @ signs[index]) / 2
        for twin in (different <= most).nonzero().flatten().tolist():
            low, high = sorted((int(group[twin]), int(group[index])))
            group[group == high] = low
    return group
