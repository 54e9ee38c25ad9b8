"""Pruning: which weights go, that zeros stay zeros, and that removed channels are really gone."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from bigmodel_helpers import compression, measure
from bigmodel_helpers.compression import pruning
from bigmodel_helpers.models import ResidualBlock, ResNet

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def small() -> ResNet:
    """A network whose norms have weights, means and spreads that training might have given them."""
    torch.manual_seed(0)
    model = ResNet((1, 1), (8, 16), classes=4).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("sparsity", [0, 0.1, 0.5, 0.95])
def test_the_smallest_weights_of_the_whole_model_go(sparsity):
    model = small()
    masks = compression.magnitude_masks(model, sparsity)
    weights = {name: model.get_submodule(name).weight.detach() for name in masks}
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(sparsity * total)
    kept = torch.cat([weights[name][mask].abs() for name, mask in masks.items()])
    gone = torch.cat([weights[name][~mask].abs() for name, mask in masks.items()])
    assert len(gone) == 0 or gone.max() <= kept.min()


def test_equal_to_pytorch():
    model = small()
    masks = compression.magnitude_masks(model, 0.7)
    targets = [(model.get_submodule(name), "weight") for name in masks]
    prune.global_unstructured(targets, prune.L1Unstructured, amount=0.7)
    for name, mask in masks.items():
        assert torch.equal(mask, model.get_submodule(name).weight_mask.bool())


def test_equal_weights_are_dropped_in_the_number_asked_for():
    layer = nn.Linear(10, 10)
    nn.init.ones_(layer.weight)
    assert int(compression.magnitude_masks(layer, 0.3)[""].sum()) == 70


def test_zeros_stay_zeros_in_training_and_afterward():
    model = small()
    masks = compression.magnitude_masks(model, 0.6)
    names = set(model.state_dict())
    compression.add_masks(model, masks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    before = model.head.weight.detach().clone()
    for _ in range(3):
        model(X).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(model.head.weight, before)
    with torch.no_grad():
        trained = model(X)
        assert torch.allclose(compression.merge_masks(model)(X), trained, atol=1e-6)
    assert set(model.state_dict()) == names
    for name, mask in masks.items():
        assert (model.get_submodule(name).weight[~mask] == 0).all()


def test_a_mask_lets_no_gradient_through_where_it_is_zero():
    w = torch.randn(3, 4, requires_grad=True)
    mask = torch.rand(3, 4) < 0.5
    (gradient,) = torch.autograd.grad(pruning._Mask(mask)(w).sum(), w)
    assert torch.equal(gradient, mask.float())


@pytest.mark.parametrize("sparsity", [-0.1, 1.0])
def test_impossible_sparsity(sparsity):
    with pytest.raises(ValueError, match="choose 0 to less than 1"):
        compression.magnitude_masks(small(), sparsity)


def test_model_without_layers():
    with pytest.raises(ValueError, match="0 layers"):
        compression.magnitude_masks(nn.ReLU(), 0.5)
    with pytest.raises(ValueError, match="0 residual blocks"):
        compression.remove_channels(nn.Linear(2, 2), 0.5)


def test_a_channel_that_nobody_reads_or_that_is_scaled_to_nothing_matters_least():
    block = small().blocks[0]
    with torch.no_grad():
        block.norm1.weight[3] = 0
        block.conv2.weight[:, 5] = 0
    importance = compression.channel_importance(block)
    assert importance.shape == (8,)
    assert set(importance.argsort()[:2].tolist()) == {3, 5}


def test_removing_unused_channels_changes_no_answer_and_makes_the_network_smaller():
    model = small()
    with torch.no_grad():
        for block in model.blocks:
            block.conv2.weight[:, ::2] = 0
    smaller = compression.remove_channels(model, 0.5)
    with torch.no_grad():
        assert torch.allclose(smaller(X), model(X), atol=1e-5)
    for old, new in zip(model.blocks, smaller.blocks, strict=True):
        assert isinstance(new, ResidualBlock)
        assert new.conv1.out_channels == new.norm1.num_features == old.conv1.out_channels // 2
        assert new.conv2.in_channels == new.conv1.out_channels
        assert new.conv1.stride == old.conv1.stride
    assert measure.parameters(smaller) < 0.6 * measure.parameters(model)
    assert measure.flops(smaller, X) < 0.6 * measure.flops(model, X)


def test_removing_equals_silencing():
    model = small()
    smaller = compression.remove_channels(model, 0.25)
    with torch.no_grad():
        for block in model.blocks:
            gone = compression.channel_importance(block).argsort()[: block.conv1.out_channels // 4]
            block.conv2.weight[:, gone] = 0
        assert torch.allclose(smaller(X), model(X), atol=1e-5)


def test_the_original_is_not_changed_and_nothing_removed_is_the_same_network():
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    same = compression.remove_channels(model, 0)
    compression.remove_channels(model, 0.9)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(same(X), model(X))
    assert not any(module.training for module in same.modules())


def test_one_channel_is_kept_and_the_rest_trains():
    narrow = compression.remove_channels(small(), 0.99).train()
    assert [block.conv1.out_channels for block in narrow.blocks] == [1, 1]
    narrow(X).sum().backward()
    assert all(p.grad is not None for p in narrow.parameters())
    with pytest.raises(ValueError, match="choose 0 to less than 1"):
        compression.remove_channels(small(), 1.0)
