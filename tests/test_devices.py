"""What must hold on the accelerator as on the CPU. Compiled training on it: `models/test_compile.py`."""

import pytest
import torch
from devices import devices, has_compiler, mixed_dtype
from tiny_transformers import CONFIGS, network
from torch import nn

from bigmodel_helpers import inference, measure
from bigmodel_helpers.data import Batches, ImageSet, synthetic
from bigmodel_helpers.models import SpeedNet, Transformer, TransformerConfig
from bigmodel_helpers.training import cross_entropy, fit, optim

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


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_transformer_scores_and_writes_as_on_the_cpu(device, kind):
    def text(device):
        model, tokens = network(CONFIGS[kind]).to(device), torch.arange(36, device=device).reshape(3, 12)
        real = torch.arange(12, device=device) >= torch.tensor([[3], [0], [8]], device=device)
        generator = torch.Generator(device).manual_seed(0)
        options = {"temperature": 0.7, "top_p": 0.9, "generator": generator}
        sampled = next(inference.generate(model, tokens, most=1, real=real, **options))
        assert sampled.device.type == device
        greedy = torch.stack([*inference.generate(model, tokens, most=8, real=real)], dim=1)
        return model(tokens, real=real)[real].cpu(), greedy.cpu()

    (scores, words), (expected, expected_words) = text(device), text("cpu")
    torch.testing.assert_close(scores, expected, atol=0.02, rtol=0)
    assert torch.equal(words, expected_words)


@pytest.mark.parametrize("compiled", [False, True] if has_compiler() else [False])
def test_gradients_of_packed_documents_are_finite_where_scores_are_far_below_zero(device, compiled):
    """As they were not with cuDNN's attention: 64 tokens, a mask, 16 bits (pytorch/pytorch#196678)."""
    torch.manual_seed(0)
    config = TransformerConfig(1, 128, 128, 2, 1, vocabulary=50, positions=64, bias=True, gated=False)
    model = Transformer(config)
    attention = model.layers[0].self_attn
    with torch.no_grad():
        for projection, value in ((attention.q_proj, 1.0), (attention.k_proj, -30.0)):
            projection.bias.fill_(value)  # scores near 64 * -30 / 8 = -240
        attention.o_proj.weight.normal_(std=0.02)
    model.to(device)
    tokens = torch.randint(50, (2, 64), device=device)
    documents = torch.arange(64, device=device).expand(2, 64) // 20
    if compiled:
        model.compile()
    with torch.autocast(device, mixed_dtype(device)):
        cross_entropy(model, (tokens, tokens, documents)).backward()
    for name, weight in model.named_parameters():
        assert weight.grad.isfinite().all(), name
    assert attention.q_proj.weight.grad.abs().max() > 0


def test_peak_memory_sees_the_tensors_of_the_device(device):
    megabytes = 64

    def need():
        for _ in range(20):  # long enough to be sampled
            torch.ones(megabytes * 2**18, device=device).sum().item()

    peak = min(
        measure.peak_memory(need, device) for _ in range(3)
    )  # threads of earlier tests may allocate, too
    assert 0.9 * megabytes <= peak / 2**20 <= 2.5 * megabytes
