"""Batch norm folded into convolutions: the same answers, in fewer layers."""

import pytest
import torch
from torchvision.models import resnet18

from bigmodel_helpers.compression import fold_batch_norm
from bigmodel_helpers.models.pretrained import Pretrained, load


@pytest.fixture(scope="module")
def network() -> Pretrained:
    return load("cifar6_resnet")


def test_folded_networks_compute_the_same(network: Pretrained) -> None:
    x = torch.randn(4, 3, 32, 32)
    with pytest.raises(ValueError, match="evaluation mode only"):
        fold_batch_norm(network.model.train())
    before = {name: value.clone() for name, value in network.model.eval().state_dict().items()}
    for model, images_in in ((network.model, x), (resnet18().eval(), torch.randn(2, 3, 64, 64))):
        folded = fold_batch_norm(model)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
        with torch.inference_mode():
            assert torch.allclose(folded(images_in), model(images_in), atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in network.model.state_dict().items())
