"""Fine-tuning: what to train, with which rates, on which images. Introduced in chapter 6."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from bigmodel_helpers.data import ImageSet


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
