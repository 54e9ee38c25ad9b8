"""Image sets: what they refuse, and choosing among them."""

import pytest
import torch
import torch.nn.functional as F
from random_images import random_images, random_set

from bigmodel_helpers import data
from bigmodel_helpers.data import CLASSES, Batches, ImageSet, class_weights, few_shot, keep_classes, synthetic


def shapes(count: int = 200) -> data.ImageSet:
    return data.ImageSet(*synthetic.shapes(count, seed=3), synthetic.CLASSES, "shapes for a test")


def test_image_set_refuses_what_does_not_fit():
    images, labels = random_images(4), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="images must be uint8"):
        ImageSet(images.float(), labels, CLASSES, "")
    with pytest.raises(ValueError, match=r"\(4, 2, 32, 32\)"):
        ImageSet(images[:, :2].contiguous(), labels, CLASSES, "")
    with pytest.raises(ValueError, match="contiguous"):
        ImageSet(images.transpose(2, 3), labels, CLASSES, "")
    with pytest.raises(ValueError, match="labels must be int64"):
        ImageSet(images, labels.int(), CLASSES, "")
    with pytest.raises(ValueError, match=r"not torch.int64 \(3,\)"):
        ImageSet(images, labels[:3], CLASSES, "")
    with pytest.raises(ValueError, match=r"0\.\.9, not in 0\.\.10"):
        ImageSet(images, torch.tensor([0, 1, 2, 10]), CLASSES, "")
    with pytest.raises(ValueError, match="not in -1"):
        ImageSet(images, torch.tensor([0, 1, 2, -1]), CLASSES, "")


def test_gray_images_are_kept_and_not_normalized_as_if_they_had_colors():
    gray = ImageSet(random_images(4)[:, :1].contiguous(), torch.zeros(4, dtype=torch.int64), CLASSES, "")
    assert gray.subset(2).images.shape == (2, 1, 32, 32)
    with pytest.raises(ValueError, match="1 channels: normalize takes color images"):
        next(iter(Batches(gray, 2)))


def test_subset_is_balanced_seeded_and_says_so():
    whole = random_set(500)
    part = whole.subset(103, seed=1)
    assert len(part) == 103
    assert sorted(part.labels.bincount().tolist()) == [10] * 7 + [11] * 3
    assert part.source == "random; a subset of 103 images"
    assert torch.equal(part.images, whole.subset(103, seed=1).images)
    assert not torch.equal(part.images, whole.subset(103, seed=2).images)
    place = {image.numpy().tobytes(): index for index, image in enumerate(whole.images)}
    places = [place[image.numpy().tobytes()] for image in part.images]
    assert places == sorted(set(places))  # in the old order, each image once
    assert torch.equal(part.labels, whole.labels[places])
    assert torch.equal(whole.subset(500).images, whole.images)


def test_subset_keeps_unequal_proportions():
    labels = torch.tensor([0] * 300 + [1] * 100)
    part = ImageSet(random_images(400), labels, ("a", "b"), "").subset(40)
    assert part.labels.bincount().tolist() == [30, 10]


@pytest.mark.parametrize("n", [0, 21])
def test_subset_refuses_impossible_sizes(n):
    with pytest.raises(ValueError, match="choose 1 to 20"):
        random_set(20).subset(n)


def test_classes_are_kept_in_the_order_asked_for() -> None:
    whole = shapes()
    names = (whole.classes[7], whole.classes[2])
    kept = keep_classes(whole, names)
    assert kept.classes == names
    for label, old in enumerate((7, 2)):
        assert torch.equal(kept.images[kept.labels == label], whole.images[whole.labels == old])
    assert kept.source.endswith(f"only {names[0]}, {names[1]}")
    assert keep_classes(whole, whole.classes).source == whole.source
    with pytest.raises(ValueError, match="no class 'zebra'"):
        keep_classes(whole, ["zebra"])


def test_few_shots_are_balanced_and_nested() -> None:
    whole = shapes()
    few, more = few_shot(whole, 3, seed=1), few_shot(whole, 8, seed=1)
    assert few.labels.bincount().tolist() == [3] * 10
    rows = {tuple(image.flatten()[:300].tolist()) for image in more.images}
    assert all(tuple(image.flatten()[:300].tolist()) in rows for image in few.images)
    assert not torch.equal(few.images, few_shot(whole, 3, seed=2).images)
    with pytest.raises(ValueError, match="ask for 1 to"):
        few_shot(whole, 1000)


def test_class_weights_let_each_class_count_the_same() -> None:
    labels = torch.tensor([0] * 6 + [1] * 2 + [2] * 4)
    weights = class_weights(labels, 3)
    assert torch.allclose(weights, torch.tensor([12 / 18, 12 / 6, 12 / 12]))
    assert weights[labels].mean().item() == pytest.approx(1)
    logits = torch.randn(12, 3)
    per_class = torch.stack([F.cross_entropy(logits[labels == c], labels[labels == c]) for c in range(3)])
    weighted = F.cross_entropy(logits, labels, weight=weights)
    assert torch.allclose(weighted, per_class.mean())
    with pytest.raises(ValueError, match="at least one"):
        class_weights(labels, 4)
