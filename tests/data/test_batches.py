"""Augmentation, and batches made on the device."""

import numpy as np
import pytest
import torch
from random_images import generator, random_images, random_set
from torch.nn import functional

from bigmodel_helpers import data
from bigmodel_helpers.data import CLASSES, Augment, Batches, ImageSet
from bigmodel_helpers.data._seeds import mix


def test_flip_mirrors_about_half_of_the_images():
    images = random_images(400)
    flipped = data.flip(images, generator())
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert torch.equal(kept, ~mirrored)
    assert 150 < mirrored.sum() < 250
    assert torch.equal(data.flip(flipped, generator()), images)  # the same choice again undoes it


@pytest.mark.parametrize("height", [32, 9])
def test_shift_is_reflect_padding_and_cropping(height):
    images = random_images(600)[:, :, :height]
    shifted = data.shift(images, 2, generator())
    padded = functional.pad(images.float(), (2, 2, 2, 2), mode="reflect").to(torch.uint8)
    found = torch.zeros(600, 5, 5, dtype=torch.bool)
    for top in range(5):
        for left in range(5):
            crop = padded[:, :, top : top + height, left : left + 32]
            found[:, top, left] = (shifted == crop).flatten(1).all(1)
    assert torch.equal(found.flatten(1).sum(1), torch.ones(600, dtype=torch.int64))  # one crop each
    assert found.sum(0).min() >= 8  # of 24 expected: every move occurs


def test_shift_by_zero_changes_nothing():
    images = random_images(10)
    assert torch.equal(data.shift(images, 0, generator()), images)


@pytest.mark.parametrize("pixels", [-1, 9])
def test_shift_refuses_what_the_image_cannot_give(pixels):
    with pytest.raises(ValueError, match=f"a shift by {pixels} pixels does not fit 9x32 images"):
        data.shift(random_images(2)[:, :, :9], pixels, generator())


def test_cutout_fills_a_square_with_the_mean():
    images = torch.full((500, 3, 32, 32), 255, dtype=torch.uint8)
    cut = data.cutout(images, 8, generator())
    hole = (cut != 255).all(1)
    rows, columns = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(hole.flatten(1).sum(1), rows * columns)  # a rectangle
    assert rows.max() == columns.max() == 8
    assert rows.min() >= 4  # the center lies inside of the image
    assert columns.min() >= 4
    assert hole.any(0).all()  # every pixel is hit by some square
    assert data.normalize(cut)[hole[:, None].expand_as(cut)].abs().max() < 0.01
    assert torch.equal(data.cutout(images, 0, generator()), images)


def test_augment_is_its_parts_in_order():
    images, rng = random_images(20), generator(3)
    expected = data.cutout(data.shift(data.flip(images, rng), 3, rng), 5, rng)
    assert torch.equal(Augment(flip=True, shift=3, cutout=5)(images, generator(3)), expected)
    assert Augment(flip=False, shift=0)(images, generator()) is images


def test_normalize_is_the_formula():
    images = random_images(8)
    mean, std = torch.tensor(data.MEAN).view(3, 1, 1), torch.tensor(data.STD).view(3, 1, 1)
    assert torch.allclose(data.normalize(images), (images / 255 - mean) / std, atol=1e-6)
    half = data.normalize(images, torch.bfloat16)
    assert torch.equal(half, data.normalize(images).bfloat16())


OTHER = {"mean": [0.485, 0.456, 0.406], "std": (0.229, 0.224, 0.225)}


def test_normalize_and_batches_take_the_mean_and_spread_of_another_network():
    images = random_set(20)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in OTHER.values())
    expected = (images.images / 255 - mean) / std
    assert torch.allclose(data.normalize(images.images, **OTHER), expected, atol=1e-5)
    assert torch.allclose(torch.cat([x for x, _ in Batches(images, 8, **OTHER)]), expected, atol=1e-5)
    half = next(iter(Batches(images, 20, dtype=torch.bfloat16, **OTHER)))[0]
    assert torch.equal(half, data.normalize(images.images, torch.bfloat16, **OTHER))


@pytest.mark.parametrize(
    "values",
    [
        {"mean": (0.5, 0.5)},
        {"std": (0.5,) * 4},
        {"mean": (124, 116, 104)},
        {"std": (0.5, 0, 0.5)},
        {"std": (0.5, float("nan"), 0.5)},
        {"mean": (0.5, -0.1, 0.5)},
        {"mean": "0.5"},
        {"std": 0.5},
        {"mean": None},
        {"std": (58.4, 57.1, 57.4)},
        {"std": torch.tensor([0.5, 0.5])},
        {"mean": [[0.5, 0.5, 0.5]]},
        {"mean": {0.1, 0.2, 0.3}},  # has no order
        {"std": np.ones((3, 1, 2))},
        {"std": {"red": 0.2, "green": 0.2, "blue": 0.2}},
    ],
)
def test_a_mean_and_spread_of_something_else_are_refused(values):
    refused = r"^(mean|std) .*: pass a number per color, three in all, for pixels from 0 to 1$"
    with pytest.raises(ValueError, match=refused):
        Batches(random_set(20), 8, **values)
    with pytest.raises(ValueError, match=refused):
        data.normalize(random_images(2), **values)


def test_a_mean_and_spread_may_be_tensors_arrays_and_whole_numbers():
    images = random_images(3)
    expected = data.normalize(images, mean=(0.5, 0.5, 0.0), std=(0.5, 1, 0.5))
    for make in (list, torch.tensor, np.array):
        made = data.normalize(images, mean=make([0.5, 0.5, 0.0]), std=make([0.5, 1.0, 0.5]))
        torch.testing.assert_close(made, expected)
    batches = Batches(
        random_set(3), 2, mean=(each for each in (0.5, 0.5, 0.0)), std=map(float, (0.5, 1, 0.5))
    )
    for _ in range(2):
        torch.testing.assert_close(torch.cat([x for x, _ in batches]), expected)


def test_normalize_leaves_its_images_alone_and_refuses_other_shapes():
    images = random_images(3).float()
    before = images.clone()
    data.normalize(images)
    assert torch.equal(images, before)
    for shape in ((3, 8, 8), (8, 8), (8,), (), (2, 1, 8, 8), (2, 4, 8, 8), (2, 8, 8, 3)):
        with pytest.raises(ValueError, match=r"normalize takes color images \(B, 3, H, W\), not \("):
            data.normalize(torch.zeros(shape, dtype=torch.uint8))


def test_batches_are_those_of_an_image_set():
    for other in (None, random_images(4), [1, 2], "photos"):
        with pytest.raises(TypeError, match=f"a {type(other).__name__} is no ImageSet"):
            Batches(other, 2)


def test_cutout_fills_with_the_mean_that_is_asked_for():
    images, mean = random_images(50), (0.2, 0.5, 0.8)
    cut = Augment(flip=False, shift=0, cutout=8, mean=mean)(images, generator())
    assert torch.equal(cut, data.cutout(images, 8, generator(), mean))
    hole = (cut == torch.tensor([51, 128, 204], dtype=torch.uint8).view(3, 1, 1)).all(1)
    assert hole.sum(dim=(1, 2)).max() == 64


FULL = {"shuffle": True, "augment": Augment(cutout=8), "seed": 4}


def same(first, second):
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a, b) and torch.equal(y, z) for (a, y), (b, z) in pairs)


def test_batches_have_the_promised_form():
    batches = Batches(random_set(50), 16, channels_last=True, dtype=torch.bfloat16, **FULL)
    assert (len(batches), batches.samples) == (4, 50)
    sizes = []
    for x, y in batches:
        assert x.dtype == torch.bfloat16
        assert y.dtype == torch.int64
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert x.shape == (len(y), 3, 32, 32)
        sizes.append(len(y))
    assert sizes == [16, 16, 16, 2]
    short = Batches(random_set(50), 16, drop_last=True)
    assert (len(short), short.samples, len(list(short))) == (3, 48, 3)
    assert next(iter(short))[0].is_contiguous()


def test_memory_format_and_dtype_do_not_change_the_numbers():
    plain = list(Batches(random_set(50), 16, **FULL))
    other = list(Batches(random_set(50), 16, channels_last=True, dtype=torch.bfloat16, **FULL))
    assert same([(x.bfloat16(), y) for x, y in plain], other)


def test_each_epoch_shows_every_image_once_in_a_new_order():
    labels = torch.arange(64)
    images = ImageSet(random_images(64), labels, tuple(map(str, range(64))), "")
    batches = Batches(images, 10, shuffle=True)
    orders = [torch.cat([y for _, y in batches]) for _ in range(3)]
    assert all(torch.equal(order.sort().values, labels) for order in orders)
    assert len({tuple(order.tolist()) for order in [labels, *orders]}) == 4
    other = Batches(images, 10, shuffle=True, seed=1)
    assert not torch.equal(torch.cat([y for _, y in other]), orders[0])
    x, y = next(iter(batches))
    assert torch.equal(x, data.normalize(images.images[y]))  # label and image stay together


def test_batches_depend_only_on_seed_epoch_and_index():
    batches = Batches(random_set(50), 16, **FULL)
    epochs = [list(batches) for _ in range(3)]
    assert not same(epochs[0], epochs[1])
    torch.manual_seed(99)
    for epoch in (2, 0, 1):
        batches.set_epoch(epoch)
        iterator = iter(batches)
        for position in range(len(batches) + 1):
            state = batches.state_dict()
            assert (state["epoch"], state["position"]) == (epoch, position)
            resumed = Batches(random_set(50), 16, **FULL)
            resumed.load_state_dict(state)
            assert same(resumed, epochs[epoch][position:])
            assert (resumed.epoch, resumed.position) == (epoch + 1, 0)  # a whole epoch follows
            if position < len(batches):
                next(iterator)


@pytest.mark.parametrize(("option", "value"), [("seed", 4), ("batch_size", 8), ("shuffle", False)])
def test_a_place_in_another_order_is_refused(option, value):
    options = {"batch_size": 16, "shuffle": True, "seed": 3}
    state = Batches(random_set(50), **options).state_dict()
    other = Batches(random_set(50), **(options | {option: value}))
    with pytest.raises(ValueError, match=f"the saved batches have {option}={options[option]}, these {value}"):
        other.load_state_dict(state)


def test_an_epoch_left_early_is_shown_again():
    batches = Batches(random_set(50), 16, **FULL)
    first = next(iter(batches))
    assert same([first], [next(iter(batches))])


def test_batches_of_one_epoch_are_augmented_differently():
    images = ImageSet(random_images(1).repeat(64, 1, 1, 1), torch.zeros(64, dtype=torch.int64), CLASSES, "")
    one, two = (x for x, _ in Batches(images, 32, augment=Augment(shift=2)))
    assert not torch.equal(one, two)


def test_alternate_flip_shows_both_views_in_two_epochs():
    images = ImageSet(random_images(64), torch.arange(64), tuple(map(str, range(64))), "")
    batches = Batches(images, 10, shuffle=True, alternate_flip=True)
    views = []
    for _ in range(4):
        pairs = list(batches)
        order = torch.cat([y for _, y in pairs]).argsort()
        views.append(torch.cat([x for x, _ in pairs])[order])
    plain = data.normalize(images.images)
    kept = (views[0] == plain).flatten(1).all(1)
    assert 16 < kept.sum() < 48
    assert torch.equal(views[0], torch.where(kept[:, None, None, None], plain, plain.flip(3)))
    assert torch.equal(views[1], views[0].flip(3))
    assert torch.equal(views[2], views[0])
    assert torch.equal(views[3], views[1])


def test_batches_refuse_what_makes_no_sense():
    images = random_set(20)
    with pytest.raises(ValueError, match="no batch of 0 fits"):
        Batches(images, 0)
    with pytest.raises(ValueError, match="no batch of 21 fits in 20 images"):
        Batches(images, 21, drop_last=True)
    assert len(Batches(images, 21)) == 1
    with pytest.raises(ValueError, match="undo each other"):
        Batches(images, 4, augment=Augment(), alternate_flip=True)
    batches = Batches(images, 4)
    with pytest.raises(ValueError, match="epoch -1 does not exist: count from 0"):
        batches.set_epoch(-1)


def test_seeds_of_different_places_differ():
    assert mix(0) == mix(0)
    places = [(), *((a,) for a in range(9)), *((a, b) for a in range(9) for b in range(9))]
    assert len({mix(seed, *place) for seed in range(9) for place in places}) == 9 * len(places)
    assert all(0 <= mix(seed) < 2**63 for seed in range(100))
