"""Low rank: the best approximation, and layers that compute it."""

import pytest
import torch
from torch import nn

from bigmodel_helpers import compression, measure
from bigmodel_helpers.compression import low_rank
from bigmodel_helpers.models import ByteLM, ResNet


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "columns"), [(12, 30), (30, 12), (9, 9)])
def test_error_is_what_was_cut_and_nothing_of_that_rank_is_nearer(rows, columns):
    matrix = random(rows, columns)
    values = torch.linalg.svdvals(matrix)
    for rank in (1, 5, min(rows, columns)):
        b, a = compression.truncated_svd(matrix, rank)
        assert b.shape == (rows, rank)
        assert a.shape == (rank, columns)
        error = (matrix - b @ a).norm()
        assert torch.isclose(error, values[rank:].norm(), atol=1e-4)
        for seed in range(5):
            moved = (b + 0.01 * random(rows, rank, seed=seed)) @ (
                a + 0.01 * random(rank, columns, seed=seed + 9)
            )
            assert (matrix - moved).norm() > error


@pytest.mark.parametrize("rank", [0, 7])
def test_impossible_rank(rank):
    with pytest.raises(ValueError, match="choose 1 to 6"):
        compression.truncated_svd(random(6, 9), rank)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(10, 7), (3, 4, 10)),
        (nn.Linear(10, 7, bias=False), (2, 10)),
        (nn.Conv2d(5, 8, 3, stride=2, padding=1), (2, 5, 9, 9)),
        (nn.Conv2d(5, 8, (1, 3), padding=(0, 2), dilation=(1, 2), bias=False), (2, 5, 8, 8)),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 8, 8)),
    ],
)
def test_full_rank_is_the_same_layer_and_low_rank_is_the_layer_of_the_product(layer, shape):
    x = random(*shape)
    rows, columns = layer.weight.flatten(1).shape
    with torch.no_grad():
        assert torch.allclose(compression.factorize(layer, min(rows, columns))(x), layer(x), atol=1e-5)
        pair = compression.factorize(layer, 2)
        b, a = compression.truncated_svd(layer.weight.flatten(1), 2)
        layer.weight.copy_((b @ a).view_as(layer.weight))
        assert torch.allclose(pair(x), layer(x), atol=1e-5)
    bias = 0 if layer.bias is None else rows
    assert measure.parameters(pair) == 2 * (rows + columns) + bias


def test_grouped_convolution_is_refused():
    with pytest.raises(ValueError, match="groups"):
        compression.factorize(nn.Conv2d(4, 4, 3, groups=2), 2)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_rank_is_the_largest_that_fits(share):
    weight = random(24, 16, 3, 3)
    rank = low_rank._rank_for(weight, share)
    assert rank * (24 + 144) <= share * 24 * 144 < (rank + 1) * (24 + 144)
    assert low_rank._rank_for(random(2, 2), 0.1) == 1


@pytest.mark.parametrize("share", [0, 1, 1.5])
def test_impossible_share(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        compression.factorize_layers(nn.Linear(8, 8), share)


def test_a_network_shrinks_to_about_its_share_and_still_runs_and_learns():
    torch.manual_seed(0)
    model = ResNet((1, 1), (16, 32), classes=4)
    before = measure.parameters(model)
    stem = model.stem[0]
    assert compression.factorize_layers(model, 0.5, skip=["stem.0", "head"]) is model
    assert 0.45 * before < measure.parameters(model) < 0.6 * before
    assert model.stem[0] is stem
    assert isinstance(model.head, nn.Linear)
    model(random(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_layer_that_would_not_shrink_is_left_alone():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(32, 32), nn.Conv2d(8, 8, 3, groups=2)).eval()
    compression.factorize_layers(model, 0.5)
    assert isinstance(model[0], nn.Linear)
    assert isinstance(model[2], nn.Conv2d)
    assert not any(module.training for module in model.modules())
    assert isinstance(model[1], nn.Sequential)


def test_a_language_model_keeps_its_attention():
    model = ByteLM(32, 2, 2, 16).eval()
    tokens = torch.arange(16)[None]
    compression.factorize_layers(model, 0.5)
    layer = model.blocks.layers[1]
    assert isinstance(layer.linear1, nn.Sequential)
    assert isinstance(layer.self_attn.out_proj, nn.Linear)
    with torch.no_grad():
        assert model(tokens).shape == (1, 16, 256)
