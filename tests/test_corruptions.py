"""Corrupted images: the same each time, worse with each severity, and against other implementations."""

import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from bigmodel_helpers.corruptions import CORRUPTIONS, corrupt
from bigmodel_helpers.synthetic import shapes

IMAGES = shapes(6, seed=0)[0]


def change(images, kind, severity):
    return (corrupt(images, kind, severity).float() - images.float()).abs().mean().item()


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_severity_changes_more_than_the_one_before(kind):
    changes = [change(IMAGES, kind, severity) for severity in range(1, 6)]
    assert changes[0] > 0
    assert changes == sorted(changes)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_same_call_gives_the_same_images_and_harms_nothing_else(kind):
    before, state = IMAGES.clone(), torch.get_rng_state()
    first = corrupt(IMAGES, kind, 4)
    assert first.shape == IMAGES.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, corrupt(IMAGES, kind, 4))
    assert torch.equal(IMAGES, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["blur", "JPEG", "brightness", "contrast"])
def test_an_image_does_not_depend_on_its_neighbors(kind):
    assert torch.equal(corrupt(IMAGES, kind, 5)[2:3], corrupt(IMAGES[2:3], kind, 5))


def test_blur_equals_that_of_torchvision():
    theirs = transforms.gaussian_blur(IMAGES.float(), kernel_size=[9, 9], sigma=[0.8])
    difference = corrupt(IMAGES, "blur", 3).float() - theirs
    assert difference.abs().max() < 0.51


def test_noise_has_its_standard_deviation():
    gray = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    noise = corrupt(gray, "noise", 3).float() - 128
    assert noise.mean().item() == pytest.approx(0, abs=1)
    assert noise.std().item() == pytest.approx(20, rel=0.05)


def test_contrast_and_brightness_stay_in_range_and_keep_what_they_should():
    flat = torch.full((1, 3, 8, 8), 250, dtype=torch.uint8)
    assert corrupt(flat, "contrast", 5).tolist() == flat.tolist()
    assert set(corrupt(flat, "brightness", 1).flatten().tolist()) == {255}


@pytest.mark.parametrize(("kind", "severity"), [("fog", 1), ("noise", 0), ("noise", 6)])
def test_unknown_kinds_and_severities_are_refused(kind, severity):
    with pytest.raises(ValueError, match="choose noise, blur, JPEG, brightness, contrast, and 1 to 5"):
        corrupt(IMAGES, kind, severity)


@pytest.mark.parametrize("images", [IMAGES.float(), IMAGES[0], IMAGES[:, :1]])
def test_other_images_are_refused(images):
    with pytest.raises(ValueError, match="pass uint8"):
        corrupt(images, "noise", 1)
