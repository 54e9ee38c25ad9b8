"""Whose names the classes of a network are: those of the head that it had when they were given."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bigmodel_helpers import data, inference, training
from bigmodel_helpers.models import pretrained
from bigmodel_helpers.models.pretrained import Pretrained
from bigmodel_helpers.training.transfer import new_head

PICTURES = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)


def named(network: Pretrained) -> set[str]:
    """Return the classes that `classify` names for black pictures."""
    return {label for one in inference.classify(PICTURES, network, top=100) for label in one.labels}


def six() -> Pretrained:
    return pretrained.load("cifar6_resnet")


@pytest.mark.parametrize("classes", [3, 6, 9])
def test_a_new_head_does_not_get_the_old_class_names(classes: int) -> None:
    network = six()
    old = network.model.head
    new_head(network.model, classes)
    with pytest.raises(ValueError, match=r"new head, .* those of the old one: with_classes\(names\)"):
        named(network)
    names = [f"ant {number}" for number in range(classes)]
    assert named(network.with_classes(names)) == {*names}
    new_head(network.model, old)
    assert named(network) == {*network.classes}


def test_a_network_with_new_names_says_so_and_leaves_the_old_one_as_it_was() -> None:
    network = six()
    other = network.with_classes(["a", "b", "c", "d", "e", "f"])
    assert other.classes == ("a", "b", "c", "d", "e", "f")
    assert other.source == f"{network.source}; now with 6 classes of its user"
    assert network.with_classes(other.classes, source="mine").source == "mine"
    assert (other.model, other.prepare) == (network.model, network.prepare)
    assert named(network) == {*network.classes}
    assert isinstance(other.batches(data.ImageSet(PICTURES, torch.arange(2), ("a", "b"), "")), data.Batches)


@pytest.mark.parametrize(
    "names",
    [
        "abcdef",
        ["a"] * 5 + [6],
        [],
        "",
        [b"a"] * 6,
        range(6),
        [["a"]] * 6,
        [None] * 6,
        None,
        6,
        {*"abcdef"},  # has no order
        dict.fromkeys("abcdef", 1),
        torch.arange(6),
        iter("abcdef"),
    ],
)
def test_names_are_a_list_of_strings(names: object) -> None:
    with pytest.raises(ValueError, match="names must be a list of strings: pass one for each output"):
        six().with_classes(names)


@pytest.mark.parametrize("count", [1, 5, 7, 1000])
def test_each_output_gets_one_name(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} names for 6 outputs of the head: pass one for each"):
        six().with_classes(["x"] * count)
    with pytest.raises(ValueError, match=f"6 outputs, but {count} classes: name each output"):
        named(replace(six(), classes=("x",) * count))


def test_a_head_that_was_trained_or_loaded_keeps_its_names() -> None:
    network = six()
    state = network.model.state_dict()
    with torch.no_grad():
        network.model.head.weight.normal_()
        network.model.head.bias = nn.Parameter(torch.ones(6))
    assert named(network) == {*network.classes}
    network.model.load_state_dict(state)
    network.model.load_state_dict(state, assign=True)
    network.model.double().float().requires_grad_(False)
    assert named(training.merge_lora(training.add_lora(network.model, 2)) and network) == {*network.classes}


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))]
)
def test_a_copy_knows_its_head(copied: Callable[[Pretrained], Pretrained]) -> None:
    network = copied(six())
    assert named(network) == {*network.classes}
    new_head(network.model, 6)
    for one in (network, copied(network)):
        with pytest.raises(ValueError, match="new head"):
            named(one)
    renamed = copied(network.with_classes(tuple("abcdef")))
    assert named(renamed) == {*"abcdef"}


def test_a_wrapped_model_knows_its_head() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        for wrapped in (
            DistributedDataParallel,
            lambda model: torch.compile(model, backend="eager"),
            nn.Sequential,
        ):
            network = six()
            network = replace(network, model=wrapped(network.model))
            assert named(network) == {*network.classes}
            new_head(network.model, 7)
            with pytest.raises(ValueError, match="new head"):
                named(network)
            assert named(network.with_classes(list("abcdefg"))) == {*"abcdefg"}
    finally:
        dist.destroy_process_group()


def test_a_model_without_a_linear_layer_is_held_to_the_number_of_its_outputs() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = replace(six(), model=body, classes=("a", "b", "c", "d"))
    assert named(network) == {*"abcd"}
    for names in ("abc", "abcde"):
        with pytest.raises(ValueError, match=f"4 outputs, but {len(names)} classes"):
            named(network.with_classes(list(names)))


def test_the_question_that_classify_asks() -> None:
    network = six()
    assert network.check_classes(6) is None
    with pytest.raises(ValueError, match="5 outputs, but 6 classes"):
        network.check_classes(5)
