"""The stand-in for CIFAR-10: form, determinism, geometry, difficulty."""

import hashlib
import math

import numpy as np
import pytest
import torch

from bigmodel_helpers.data import synthetic
from bigmodel_helpers.data.synthetic import CLASSES, shapes

T36 = math.tan(math.radians(36))


def test_shapes_have_the_promised_form():
    images, labels = shapes(205, seed=3)
    assert images.shape == (205, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert labels.dtype == torch.int64
    assert sorted(labels.bincount().tolist()) == [20] * 5 + [21] * 5
    assert not torch.equal(labels, labels.sort().values)  # in random order
    assert shapes(3, seed=0, size=16)[0].shape == (3, 3, 16, 16)


def test_same_seed_same_bytes_on_every_machine():
    images, labels = shapes(60, seed=11)
    again = shapes(60, seed=11)
    assert torch.equal(images, again[0])
    assert torch.equal(labels, again[1])
    assert not torch.equal(images, shapes(60, seed=12)[0])
    digest = hashlib.sha256(images.numpy().tobytes() + labels.numpy().astype("<i8").tobytes())
    assert digest.hexdigest() == "45934c9b3158925acd27658581b5580d49e3808b02aeb5d05d958b955012aa7c"


def test_no_image_occurs_twice():
    images = torch.cat([shapes(300, seed=0)[0], shapes(300, seed=1)[0]])
    assert len({image.numpy().tobytes() for image in images}) == 600


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("disc", math.pi * 0.8**2),
        ("ring", math.pi * (0.92**2 - 0.48**2)),
        ("square", 1.44**2),
        ("cross", 2 * 1.9 * 0.6 - 0.6**2),
        ("triangle", 3 * math.sqrt(3) * 0.5**2),
        ("arrow", 0.4 * 1.05 + 0.9 * (0.9 * 0.58 / 0.82)),
        ("star", 5 * 0.33**2 * (T36 + T36**2 * math.tan(math.radians(72)))),
    ],
)
def test_shapes_have_the_area_of_the_figure(name, area):
    line = (np.arange(800, dtype=np.float32) + np.float32(0.5)) / 400 - 1
    x, y = (axis[None] * np.float32(1.5) for axis in np.meshgrid(line, line))
    inside = synthetic._distance(CLASSES.index(name), x, y) < 0
    assert inside.mean() * 9 == pytest.approx(area, rel=0.01)


def test_pixels_alone_say_little():
    """The nearest class mean is better than chance (10 %), and far from solving the task."""
    (images, labels), (test, truth) = shapes(3000, seed=0), shapes(1000, seed=1)
    means = torch.stack([images[labels == label].float().mean(0) for label in range(10)])
    guess = torch.cdist(test.float().flatten(1), means.flatten(1)).argmin(1)
    assert 0.13 < (guess == truth).float().mean() < 0.35


@pytest.mark.parametrize("wrong", [{"n": 0}, {"seed": -1}, {"size": 7}])
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"use n >= 1, seed >= 0, size >= 8"):
        shapes(**({"n": 10, "seed": 0, "size": 32} | wrong))
