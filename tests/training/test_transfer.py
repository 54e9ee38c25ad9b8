"""What is trained in fine-tuning, on which images, at which rates."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from bigmodel_helpers import data
from bigmodel_helpers.data import class_weights, synthetic
from bigmodel_helpers.models import ResNet
from bigmodel_helpers.training.transfer import (
    features,
    layer_rates,
    linear_probe,
    new_head,
    train_only,
)


def shapes(count: int = 200) -> data.ImageSet:
    return data.ImageSet(*synthetic.shapes(count, seed=3), synthetic.CLASSES, "shapes for a test")


def small(classes: int = 10) -> ResNet:
    torch.manual_seed(0)
    return ResNet((1, 1), (8, 16), classes)


def test_a_new_head_starts_undecided() -> None:
    model = new_head(small(), 3)
    assert torch.equal(model(torch.randn(2, 3, 16, 16)), torch.zeros(2, 3))
    other = new_head(nn.ModuleDict({"first": nn.Linear(4, 4), "fc": nn.Linear(4, 2)}), 5)
    assert other["fc"].weight.shape == (5, 4)
    assert other["first"].weight.shape == (4, 4)


def test_a_trained_layer_becomes_the_head() -> None:
    layer = nn.Linear(16, 3)
    model = new_head(small(), layer).eval()
    images = shapes(20)
    found, _ = features(model, data.Batches(images, 8))
    with torch.no_grad():
        torch.testing.assert_close(model(data.normalize(images.images)), layer(found), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="the head takes 7 features, the model has 16"):
        new_head(small(), nn.Linear(7, 3))
    with pytest.raises(ValueError, match="no linear layer"):
        new_head(nn.Conv2d(3, 4, 1), 3)
    for head, named in ((0, "0"), (-2, "-2"), (2.5, "float"), ("3", "str"), (None, "NoneType")):
        with pytest.raises(
            ValueError, match=f"a head of {named}: pass a linear layer, or a number of classes"
        ):
            new_head(small(), head)
    with pytest.raises(ValueError, match="a head of Sequential"):
        new_head(small(), nn.Sequential(layer))


def test_only_the_named_parts_are_trained() -> None:
    model = train_only(small(), "blocks.1", "head")
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"blocks", "head"}
    assert not model.blocks[0].conv1.weight.requires_grad
    with pytest.raises(ValueError, match="no module 'fc': its parts are stem, blocks, head"):
        train_only(small(), "fc")


def test_rates_fall_towards_the_input() -> None:
    groups = [["stem"], ["blocks.0"], ["blocks.1"], ["head"]]
    made = layer_rates(small(), groups, rate=0.8, decay=0.5)
    assert [group["lr"] for group in made] == [0.1, 0.2, 0.4, 0.8]
    assert sum(p.numel() for group in made for p in group["params"]) == sum(
        p.numel() for p in small().parameters()
    )
    frozen = layer_rates(train_only(small(), "head"), groups, rate=0.8, decay=0.5)
    assert [group["lr"] for group in frozen] == [0.8]
    with pytest.raises(ValueError, match=r"stem.0.weight is in no group"):
        layer_rates(small(), groups[1:], rate=0.8, decay=0.5)


def test_features_are_what_the_head_gets() -> None:
    model, images = small().eval(), shapes(30)
    batches = data.Batches(images, 8)
    found, labels = features(model.train(), batches)
    assert found.shape == (30, 16)
    assert found.dtype == torch.float32
    assert model.training
    x = data.normalize(images.images)
    with torch.no_grad():
        torch.testing.assert_close(model.head(found), model.eval()(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(labels, images.labels)
    assert not model.head._forward_pre_hooks
    with pytest.raises(ValueError, match="no linear layer"):
        features(nn.Conv2d(3, 4, 1), batches)


@pytest.mark.parametrize("penalty", [0.1, 10.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_linear_probe_equals_scikit_learn(penalty: float, weighted: bool) -> None:
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    labels[:15] = 0
    x = torch.randn(60, 5) + F.one_hot(labels, 5)
    weights = class_weights(labels, 3) if weighted else None
    ours = linear_probe(x, labels, 3, penalty=penalty, weights=weights)
    named = dict(enumerate(weights.tolist())) if weighted else None
    theirs = LogisticRegression(C=1 / penalty, class_weight=named, tol=1e-8, max_iter=5000)
    theirs.fit(x.numpy(), labels.numpy())
    expected = torch.from_numpy(theirs.predict_proba(x.numpy())).float()
    torch.testing.assert_close(ours(x).softmax(1).detach(), expected, rtol=1e-3, atol=1e-4)


def test_linear_probe_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="shapes"):
        linear_probe(torch.randn(4, 3), torch.zeros(5, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="positive"):
        linear_probe(torch.randn(4, 3), torch.zeros(4, dtype=torch.int64), 2, penalty=0)
