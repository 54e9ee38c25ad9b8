"""To merge what computes a weight leaves every copy of the network as it was."""

import copy

import pytest
import torch
from torch import nn

from bigmodel_helpers import compression, training


def masked(model: nn.Module) -> nn.Module:
    return compression.add_masks(model, compression.magnitude_masks(model, 0.5))


CASES = {
    "masks": (masked, compression.merge_masks),
    "adapters": (lambda model: training.add_lora(model, rank=2), training.merge_lora),
    "rounding": (lambda model: compression.add_fake_quantize(model, 4), compression.merge_fake_quantize),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_copy_that_is_merged_leaves_the_original_alone(kind):
    add, merge = CASES[kind]
    torch.manual_seed(0)
    model = add(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))
    x = torch.randn(3, 8)
    before, again = model(x), copy.deepcopy(model)
    merge(again)
    torch.testing.assert_close(model(x), before)
    torch.testing.assert_close(again(x), before)
    assert [type(layer) for layer in again] == [nn.Linear, nn.ReLU, nn.Linear]
    merge(model)
    torch.testing.assert_close(model(x), before)
    assert {*model.state_dict()} == {"0.weight", "0.bias", "2.weight", "2.bias"}
