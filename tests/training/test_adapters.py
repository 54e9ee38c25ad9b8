"""Adapters: nothing changes at first, little is trained, and merging changes nothing."""

import pytest
import torch
from torch import nn

from bigmodel_helpers.models import ResNet
from bigmodel_helpers.training import add_lora, lora_modules, lora_state, merge_lora
from bigmodel_helpers.training.adapters import LowRank


def small() -> ResNet:
    torch.manual_seed(0)
    return ResNet((1, 1), (8, 16), classes=4).eval()


def disturb(model: nn.Module) -> None:
    """Give every adapter and the head values that training might have given them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)


X = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_fresh_adapter_changes_nothing_and_only_adapters_and_head_are_trained() -> None:
    model = small()
    before = model(X)
    assert add_lora(model, rank=2) is model
    assert torch.equal(model(X), before)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"head.weight", "head.bias"} | {
        f"{layer}.parametrizations.weight.0.{part}" for layer in lora_modules(model) for part in "ab"
    }
    assert "head" not in lora_modules(model)
    model(X).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_the_update_is_the_scaled_product() -> None:
    layer = nn.Linear(6, 4)
    adapter = LowRank(layer.weight, rank=2, alpha=6.0)
    nn.init.normal_(adapter.b)
    assert torch.allclose(adapter(layer.weight), layer.weight + 3 * adapter.b @ adapter.a)
    assert torch.linalg.matrix_rank(adapter(layer.weight) - layer.weight) == 2


@pytest.mark.parametrize("alpha", [None, 8.0])
def test_merged_equals_unmerged(alpha: float | None) -> None:
    model = add_lora(small(), rank=3, alpha=alpha)
    disturb(model)
    unmerged = model(X)
    names = set(small().state_dict())
    assert merge_lora(model) is model
    assert lora_modules(model) == {}
    assert set(model.state_dict()) == names
    assert torch.allclose(model(X), unmerged, atol=1e-5)


def test_a_saved_adapter_comes_back() -> None:
    model = add_lora(small(), rank=2)
    disturb(model)
    model.train()(X)  # moves the statistics of batch norm, too
    model.eval()
    state = lora_state(model)
    assert sum(v.numel() for v in state.values()) < sum(p.numel() for p in small().parameters())
    again = add_lora(small(), rank=2)
    _, unknown = again.load_state_dict(state, strict=False)
    assert unknown == []
    assert torch.equal(again(X), model(X))


def test_small_weights_get_the_rank_that_fits() -> None:
    model = add_lora(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 9)), rank=4, skip=())
    assert [layer.parametrizations.weight[0].a.shape[0] for layer in lora_modules(model).values()] == [2, 2]


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="adapters already"):
        add_lora(add_lora(small()))
    with pytest.raises(ValueError, match="nothing to adapt"):
        add_lora(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="choose 1 to 2"):
        LowRank(torch.zeros(2, 5), rank=3, alpha=1.0)
