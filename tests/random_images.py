"""Image sets of random pixels, for tests."""

import torch

from bigmodel_helpers.data import CLASSES, ImageSet


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(n, size=32, seed=0):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator(seed))


def random_set(n, seed=0):
    return ImageSet(random_images(n, seed=seed), torch.arange(n) % 10, CLASSES, "random")
