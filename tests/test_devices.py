"""What must hold on the accelerator as on the CPU. Compiled training on it: `models/test_compile.py`."""

import pytest
import torch
from devices import devices
from torch import nn

from bigmodel_helpers import measure
from bigmodel_helpers.data import Batches, ImageSet, synthetic
from bigmodel_helpers.models import SpeedNet
from bigmodel_helpers.training import fit, optim

pytestmark = pytest.mark.parametrize("device", devices())


def image_set():
    return ImageSet(*synthetic.shapes(64, seed=3), synthetic.CLASSES, "shapes for a test")


def test_batches_are_made_on_the_device_and_are_those_of_the_cpu(device):
    options = {"shuffle": True, "alternate_flip": True, "channels_last": True, "seed": 4}
    there, here = (Batches(image_set(), 20, device=d, **options) for d in (device, "cpu"))
    for (x, y), (expected_x, expected_y) in zip(there, here, strict=True):
        assert x.device.type == y.device.type == device
        assert x.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(x.cpu(), expected_x)
        assert torch.equal(y.cpu(), expected_y)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_muon_steps_as_on_the_cpu(device, memory_format):
    def train(device):
        generator = torch.Generator().manual_seed(0)
        shapes = [(16, 4, 3, 3), (16, 4, 3, 3), (16, 8, 1, 1), (8, 2, 3, 3)]
        starts = [torch.randn(shape, generator=generator) for shape in shapes]
        weights = [nn.Parameter(w.to(device, memory_format=memory_format)) for w in starts]
        muon = optim.Muon(weights, lr=0.1, weight_decay=0.1)
        for _ in range(4):
            for weight in weights:
                gradient = torch.randn(weight.shape, generator=generator)
                weight.grad = gradient.to(device, memory_format=memory_format)
            muon.step()
        return weights

    for weight, expected in zip(train(device), train("cpu"), strict=True):
        assert weight.device.type == device
        torch.testing.assert_close(weight.detach().cpu(), expected.detach(), rtol=0, atol=0.02)


def test_fit_learns_as_on_the_cpu(device):
    def losses(device):
        torch.manual_seed(0)
        model = SpeedNet((8, 8, 16), classes=10).to(device)
        batches = Batches(image_set(), 16, shuffle=True, device=device, seed=1)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        run = fit(model, batches, sgd, steps=8, progress=False)
        return [row["train_loss"] for row in run.history]

    assert losses(device) == pytest.approx(losses("cpu"), rel=0.01)


def test_peak_memory_sees_the_tensors_of_the_device(device):
    megabytes = 64

    def need():
        for _ in range(20):  # long enough to be sampled
            torch.ones(megabytes * 2**18, device=device).sum().item()

    peak = min(
        measure.peak_memory(need, device) for _ in range(3)
    )  # threads of earlier tests may allocate, too
    assert 0.9 * megabytes <= peak / 2**20 <= 2.5 * megabytes
