"""Your own pictures: a folder with one subfolder per class, read, split and checked. Introduced in chapter 6."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from bigmodel_helpers.data._duplicates import look, near_duplicates
from bigmodel_helpers.data._listing import class_folders, files_below, is_note, printable
from bigmodel_helpers.data.image_set import ImageSet
from bigmodel_helpers.data.images import ImageError, read_image, to_pixels

LARGEST = 4096  # pixels a side: one picture is 50 MB then


@dataclass(frozen=True)
class ImageFolder:
    """Pictures of a folder, read, and the files that could not be.

    Attributes:
        images: uint8 (N, 3, size, size) with labels.
        files: the file of each image.
        groups: int64 (N,); images with the same number are near-duplicates. The number is the index of the image
            that stands for the group: each other one looks like that one. Groups do not grow by chaining, so that
            of pictures that change little by little, such as the frames of a film, neighbors can be in two groups.
        skipped: one line for each file or folder that was not read: which, why, and what to do.
        conflicts: one line for each picture that looks like an earlier one of another class. Look at the two: one
            may have the wrong label, or both may be right.
        others: how many files lie beside the pictures that are none by their names (such as .txt and .json).
    """

    images: ImageSet
    files: tuple[Path, ...]
    groups: Tensor
    skipped: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    others: int = 0

    def __str__(self) -> str:
        counts = torch.bincount(self.images.labels, minlength=len(self.images.classes)).tolist()
        parts = [f"{name} {count}" for name, count in zip(self.images.classes, counts, strict=True)]
        twins = len(self.files) - len(self.groups.unique())
        told = [
            f"{_counted(len(self.files), 'picture')} ({', '.join(parts)})",
            _counted(twins, "near-duplicate"),
        ]
        told += [_counted(len(self.conflicts), "conflict"), f"{len(self.skipped)} skipped"]
        return ", ".join([*told, _counted(self.others, "other file")] if self.others else told)

    def split(self, *shares: float, seed: int = 0) -> tuple[ImageSet, ...]:
        """Return sets with these shares of the images, seeded.

        The images of a group stay in one set, also where they are of several classes; apart from that, every class
        has its share in each set.

        Raises:
            ValueError: a share is not positive, they do not add up to 1, or a class would be missing from a set.
        """
        if len(shares) < 2 or not min(shares) > 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"shares {shares} must be two or more positive numbers that add up to 1")
        dealt = self._deal(shares, seed, self.groups)
        counts = self._counts(dealt, len(shares))
        if not counts.all():
            singly = self._counts(self._deal(shares, seed, torch.arange(len(self.files))), len(shares))
            raise ValueError(self._lack(int((counts == 0).any(dim=0).int().argmax()), bool(singly.all())))
        return tuple(self._take((dealt == part).nonzero().flatten()) for part in range(len(shares)))

    def _deal(self, shares: Sequence[float], seed: int, groups: Tensor) -> Tensor:
        """Return the part of each image, int64 (N,). Each group goes to the part that lacks most of its share.

        Groups of several classes come first, then class by class, the largest group first: the small ones make up.
        """
        labels = self.images.labels.tolist()
        members: dict[int, list[int]] = {}
        for index, group in enumerate(groups.tolist()):
            members.setdefault(group, []).append(index)
        piles: dict[int, list[list[int]]] = {label: [] for label in range(-1, len(self.images.classes))}
        for group in members.values():
            mixed = len({labels[index] for index in group}) > 1
            piles[-1 if mixed else labels[group[0]]].append(group)
        totals, part_of = Counter(labels), torch.empty(len(labels), dtype=torch.int64)
        have = [Counter() for _ in shares]
        for label, pile in piles.items():
            random.Random(f"{seed} {label}").shuffle(pile)
            for group in sorted(pile, key=len, reverse=True):
                mine = Counter(labels[index] for index in group)
                lacking = [
                    sum(n * (share * totals[one] - part[one]) / totals[one] for one, n in mine.items())
                    for share, part in zip(shares, have, strict=True)
                ]
                part_of[group] = best = lacking.index(max(lacking))
                have[best] += mine
        return part_of

    def _counts(self, dealt: Tensor, parts: int) -> Tensor:
        """Return how many images each part has of each class, int64 (parts, classes)."""
        classes = len(self.images.classes)
        return torch.bincount(dealt * classes + self.images.labels, minlength=parts * classes).view(parts, -1)

    def _lack(self, label: int, alone: bool) -> str:
        """Say why a class is missing from a part; `alone`: each image by itself could have been dealt."""
        name, mine = self.images.classes[label], self.groups[self.images.labels == label]
        if alone:
            return (
                f"the {len(mine)} pictures of class {name!r} are only {len(mine.unique())} different ones, and "
                "near-duplicates stay together: add different pictures of it"
            )
        return (
            f"class {name!r} is too small to be in every part, it has {len(mine)} pictures: "
            "add pictures of it or enlarge the smallest share"
        )

    def _take(self, chosen: Tensor) -> ImageSet:
        whole = self.images
        source = f"{whole.source}; {len(chosen)} of {len(whole)} images"
        return ImageSet(whole.images[chosen], whole.labels[chosen], whole.classes, source)


def image_folder(path: str | Path, size: int = 32, *, progress: bool = True) -> ImageFolder:
    """Read a folder that has one subfolder of pictures per class.

    Every picture is made upright RGB, its shorter side resized to `size`, and the middle cut out. Folders within a
    class belong to it. The content decides what is a picture: each file of a class is opened, whatever its name ends
    in, and named in `skipped` where it cannot be read. Notes by their names (such as .txt, .json and Thumbs.db) are
    only counted; hidden files and folders, whose names begin with a dot, are left out.

    Args:
        path: the folder; the names of its subfolders are the classes, in alphabetical order.
        size: pixels a side.
        progress: show a bar on a terminal.

    Raises:
        OSError: the folder does not exist or may not be read, has fewer than two class folders, or one of them has
            no readable picture.
        ValueError: `size` is no whole number from 1 to 4,096, or the folder holds train and test parts, not classes.
    """
    if not isinstance(size, Integral) or not 1 <= size <= LARGEST:
        raise ValueError(f"size must be a whole number of pixels from 1 to {LARGEST:,}, not {size!r}")
    folders, skipped = class_folders(path)
    todo, others = [], 0
    for label, folder in enumerate(folders):
        files, left_out = files_below(folder)
        todo += [(file, label) for file in files if not is_note(file)]
        others += sum(map(is_note, files))
        skipped += left_out
    pixels, files, labels, looks = [], [], [], []
    for file, label in tqdm(todo, unit=" pictures", leave=False, disable=None if progress else True):
        try:
            picture = read_image(file)
        except ImageError as error:
            skipped.append(str(error))
            continue
        pixels.append(to_pixels(_square(picture, int(size))))
        looks.append(look(picture))
        files.append(file)
        labels.append(label)
    skipped = tuple(map(printable, skipped))
    _check_classes(folders, set(labels), skipped)
    root = folders[0].parent.resolve().name
    images = ImageSet(
        torch.stack(pixels),
        torch.tensor(labels),
        tuple(printable(folder.name) for folder in folders),
        printable(f"{len(files)} pictures of {root}, {len(skipped)} skipped"),
    )
    groups, pairs = near_duplicates(looks)
    partner = {second: first for first, second in reversed(pairs.tolist()) if labels[first] != labels[second]}
    conflicts = tuple(
        printable(f"{files[first]} and {files[second]} look the same but lie in different classes")
        for second, first in sorted(partner.items())
    )
    return ImageFolder(images, tuple(files), groups, skipped, conflicts, others)


def _check_classes(folders: Sequence[Path], labels: set[int], skipped: Sequence[str]) -> None:
    """Refuse a class without a picture, with the reason for the first of its files."""
    for label, folder in enumerate(folders):
        if label not in labels:
            name = printable(str(folder))
            reasons = [line for line in skipped if line.startswith(name)]
            why = f"; {len(reasons)} files could not be read, the first: {reasons[0]}" if reasons else ""
            raise FileNotFoundError(f"{name} has no readable picture: add some or move the folder away{why}")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _square(picture: Image.Image, size: int) -> Image.Image:
    """Return the middle square of an RGB picture, resized to `size` pixels a side."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
