"""Maps that show where a network looks."""

import pytest
import torch
from torch import nn

from bigmodel_helpers.inference import grad_cam, occlusion


class Corner(nn.Module):
    """Class 1 is the brightness of the top left quarter, class 0 that of the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        nn.init.constant_(self.conv.weight, 1.0)
        self.unused = nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        half = x.shape[-1] // 2
        first = maps[:, 1, :half, :half].mean((1, 2))
        return torch.stack((maps[:, 0].mean((1, 2)) * 0.1, first), dim=1)


@pytest.fixture
def image() -> torch.Tensor:
    image = torch.zeros(3, 16, 16)
    image[:, :8, :8] = 1.0
    return image


def test_grad_cam_finds_the_evidence(image: torch.Tensor) -> None:
    model = Corner()
    evidence = grad_cam(model, model.conv, image)
    assert evidence.shape == (16, 16)
    assert evidence[:8, :8].min() == 1
    assert evidence[8:].max() == 0
    assert model.training, "the mode of the model was changed"
    assert all(p.grad is None for p in model.parameters())


def test_grad_cam_by_its_formula(image: torch.Tensor) -> None:
    torch.manual_seed(0)
    conv, head = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 4)
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    weights = head.weight[2] / 16**2  # the derivative of logit 2 by each place of each channel
    expected = (weights.view(5, 1, 1) * conv(image[None])[0]).sum(0).relu()
    assert torch.allclose(grad_cam(model, conv, image, label=2), expected / expected.max(), atol=1e-5)


def test_grad_cam_refuses_a_layer_that_is_not_used(image: torch.Tensor) -> None:
    model = Corner()
    with pytest.raises(ValueError, match="uses once"):
        grad_cam(model, model.unused, image)


def test_occlusion_finds_the_evidence(image: torch.Tensor) -> None:
    model = Corner().eval()
    lost = occlusion(model, image, 1, window=4, stride=4, batch_size=3)
    assert lost.shape == (4, 4)
    assert lost[:2, :2].min() > 0.04
    assert lost[2:].abs().max() < 0.01
    hidden = image.clone()
    hidden[:, 4:8, 0:4] = 0
    change = model(image[None]).softmax(1)[0, 1] - model(hidden[None]).softmax(1)[0, 1]
    assert lost[1, 0].item() == pytest.approx(change.item(), abs=1e-6)


def test_occlusion_refuses_wrong_calls(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        occlusion(Corner(), image, 1)
    with pytest.raises(ValueError, match="17 pixels does not fit"):
        occlusion(Corner().eval(), image, 1, window=17)
