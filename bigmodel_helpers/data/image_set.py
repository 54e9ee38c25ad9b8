"""Labeled images in memory, and choosing among them. Introduced in chapter 6."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bigmodel_helpers.data._seeds import seeded


@dataclass(frozen=True)
class ImageSet:
    """Labeled images in memory. Introduced in chapter 4.

    Attributes:
        images: uint8 (N, 3, H, W) in color or (N, 1, H, W) in gray, contiguous.
        labels: int64 (N,), indices into `classes`.
        classes: the names of the classes.
        source: one sentence that names the data and where it came from.

    Raises:
        ValueError: a tensor has the wrong shape or dtype, or a label has no class.

    >>> images = data.ImageSet(*synthetic.shapes(100, seed=0), synthetic.CLASSES, "drawn")
    >>> len(images.subset(20))
    20
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"images must be uint8 (N, 3 or 1, H, W), not {images.dtype} {tuple(images.shape)}"
            )
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
        order = torch.randperm(len(self), generator=seeded(seed))
        labels = self.labels.cpu()[order]
        share = torch.empty(len(self), dtype=torch.float64)  # an image's place within its class, in 0..1
        for label in range(len(self.classes)):
            places = (labels == label).nonzero().flatten()
            share[places] = (torch.arange(len(places)) + 0.5).double() / max(len(places), 1)
        chosen = order[share.argsort(stable=True)[:n]].sort().values.to(self.images.device)
        source = f"{self.source}; a subset of {n:,} images"
        return replace(self, images=self.images[chosen], labels=self.labels[chosen], source=source)


def keep_classes(image_set: ImageSet, classes: Sequence[str]) -> ImageSet:
    """Return the images of `classes` only, labels counted in that order.

    Raises:
        ValueError: a name is not among the classes of the set.
    """
    unknown = [name for name in classes if name not in image_set.classes]
    if unknown:
        raise ValueError(f"no class {unknown[0]!r}: choose from {', '.join(image_set.classes)}")
    new_label = torch.full((len(image_set.classes),), -1)
    for index, name in enumerate(classes):
        new_label[image_set.classes.index(name)] = index
    labels = new_label[image_set.labels.cpu()]
    kept = (labels >= 0).nonzero().flatten().to(image_set.images.device)
    source = image_set.source
    if tuple(classes) != tuple(image_set.classes):
        source += f"; only {', '.join(classes)}"
    return replace(
        image_set,
        images=image_set.images[kept],
        labels=labels.to(image_set.labels.device)[kept],
        classes=tuple(classes),
        source=source,
    )


def few_shot(image_set: ImageSet, per_class: int, seed: int = 0) -> ImageSet:
    """Return `per_class` random images of each class. The choices of one seed are nested: 5 are among the 10.

    Raises:
        ValueError: `per_class` is not positive, or a class has fewer images.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = image_set.labels.cpu()
    chosen = []
    for label, name in enumerate(image_set.classes):
        places = (labels == label).nonzero().flatten()
        if not 1 <= per_class <= len(places):
            raise ValueError(f"class {name!r} has {len(places)} images: ask for 1 to {len(places)}")
        chosen.append(places[torch.randperm(len(places), generator=generator)][:per_class])
    kept = torch.cat(chosen).sort().values.to(image_set.images.device)
    source = f"{image_set.source}; {per_class} of each class"
    return replace(image_set, images=image_set.images[kept], labels=image_set.labels[kept], source=source)


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Return float32 (classes,): weights for the loss that let each class count the same, 1 on average per image.

    Class c with n_c of N images gets N / (classes * n_c).

    Raises:
        ValueError: a class has no image.

    >>> data.class_weights(torch.tensor([0, 0, 0, 1]), 2)
    tensor([0.6667, 2.0000])
    """
    counts = torch.bincount(labels.cpu(), minlength=classes)
    if len(counts) > classes or counts.min() == 0:
        raise ValueError(f"the classes have {counts.tolist()} images: each of {classes} needs at least one")
    return len(labels) / (classes * counts.float())
