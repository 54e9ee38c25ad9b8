import pytest
import torch
import torch.nn.functional as F

from bigmodel_helpers import measure
from bigmodel_helpers.data import text
from bigmodel_helpers.models import (
    ByteLM,
    ConvNet,
    ResidualBlock,
    ResNet,
    SpeedNet,
)
from bigmodel_helpers.models.speednet import Block


def test_convnet_has_the_closed_form_of_parameters_and_flops():
    model = ConvNet(channels=3, size=32, classes=10)
    convolutions = (3 * 9 + 1) * 32 + (32 * 9 + 1) * 64
    assert measure.parameters(model) == convolutions + (64 * 14 * 14 + 1) * 128 + (128 + 1) * 10
    products = 30 * 30 * 32 * 27 + 28 * 28 * 64 * 32 * 9 + 64 * 14 * 14 * 128 + 128 * 10
    assert measure.flops(model, torch.zeros(2, 3, 32, 32)) == 2 * 2 * products


@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 28, 10), (3, 32, 7), (3, 33, 2), (1, 6, 3)])
def test_convnet_computes_its_own_sizes(channels, size, classes):
    assert ConvNet(channels, size, classes)(torch.zeros(2, channels, size, size)).shape == (2, classes)


@pytest.mark.parametrize(
    ("blocks", "widths", "count", "shortcuts"),
    [
        ((3, 3, 3), (16, 32, 64), 269_722, 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64),
        ((9, 9, 9), (16, 32, 64), 853_018, 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64),
        ((2, 2, 2, 2), (64, 128, 256, 512), 11_173_962, 0),
    ],
    ids=["ResNet-20", "ResNet-56", "ResNet-18"],
)
def test_resnets_have_the_published_number_of_parameters(blocks, widths, count, shortcuts):
    """He et al. count the first two with shortcuts that only pad (option A)."""
    model = ResNet(blocks, widths)
    assert measure.parameters(model) - shortcuts == count
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_residual_block_equals_torchvision():
    torchvision = pytest.importorskip("torchvision")
    for channels_in, channels_out, stride in [(8, 8, 1), (8, 16, 2)]:
        ours = ResidualBlock(channels_in, channels_out, stride).eval()
        downsample = ours.shortcut if len(ours.shortcut) else None
        theirs = torchvision.models.resnet.BasicBlock(channels_in, channels_out, stride, downsample).eval()
        theirs.conv1, theirs.bn1, theirs.conv2, theirs.bn2 = ours.conv1, ours.norm1, ours.conv2, ours.norm2
        x = torch.randn(2, channels_in, 8, 8)
        assert torch.equal(ours(x), theirs(x))


def test_resnet_needs_a_width_for_each_stage():
    with pytest.raises(ValueError, match="2 block counts and 1 widths"):
        ResNet((1, 1), (16,))


def test_whitening_gives_uncorrelated_outputs_of_spread_one():
    torch.manual_seed(0)
    images = F.avg_pool2d(torch.randn(200, 3, 34, 34), 3, stride=1)  # neighboring pixels are alike
    model = SpeedNet()
    model.set_whitening(images, eps=0)
    outputs = F.conv2d(images, model.whiten.weight).transpose(0, 1).flatten(1)  # (24, N)
    covariance = outputs[:12] @ outputs[:12].T / outputs.shape[1]
    torch.testing.assert_close(covariance, torch.eye(12), rtol=0, atol=1e-3)
    torch.testing.assert_close(outputs[12:], -outputs[:12])
    assert not model.whiten.weight.requires_grad


@pytest.mark.parametrize("size", [17, 24, 32, 40])
def test_speednet_takes_every_size(size):
    assert SpeedNet((8, 8, 16), classes=5)(torch.randn(3, 3, size, size)).shape == (3, 5)


def test_a_block_starts_as_the_identity_and_halves_the_image():
    block = Block(24, 64)
    assert block(torch.randn(2, 24, 9, 8)).shape == (2, 64, 4, 4)
    x = torch.randn(1, 24, 8, 8)
    torch.testing.assert_close(block.conv1(x)[:, :24], x)
    assert not block.norm1.weight.requires_grad
    assert block.norm1.bias.requires_grad


def byte_lm(**arguments):
    torch.manual_seed(0)
    return ByteLM(**{"width": 32, "layers": 2, "heads": 4, "context": 16} | arguments)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [True, False])
def test_byte_lm_never_looks_ahead(mode, training):
    model = byte_lm().train(training)
    tokens = torch.randint(256, (3, 16), generator=torch.Generator().manual_seed(0))
    with mode():
        before = model(tokens)
        assert before.shape == (3, 16, 256)
        for place in range(16):
            changed = tokens.clone()
            changed[:, place] = (changed[:, place] + 1) % 256
            after = model(changed)
            assert torch.equal(after[:, :place], before[:, :place])
            assert not torch.isclose(after[:, place:], before[:, place:]).all(-1).any()
        torch.testing.assert_close(model(tokens[:, :5]), before[:, :5])


def test_byte_lm_has_the_closed_form_of_parameters():
    width, layers, context = 32, 3, 16
    block = 12 * width**2 + 13 * width  # four matrices of attention, two of the MLP, their biases, two norms
    outside = (256 + context + 2) * width + (width + 1) * 256
    assert measure.parameters(byte_lm(layers=layers)) == layers * block + outside


def test_byte_lm_starts_with_blocks_of_its_own_and_even_chances():
    model = byte_lm(width=64)
    first, second = (block.linear1.weight for block in model.blocks.layers)
    assert not torch.allclose(first, second)
    tokens = torch.randint(256, (64, 16), generator=torch.Generator().manual_seed(0))
    loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    assert abs(loss - torch.tensor(256.0).log()) < 0.2


def test_byte_lm_learns():
    model = byte_lm()
    sentence = torch.tensor(list(b"the cat sat on the mat. " * 20), dtype=torch.uint8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(60):
        x, y = text.windows(sentence, 16, 8, torch.Generator().manual_seed(step))
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5


def test_byte_lm_exports_and_compiles_whole():
    model = byte_lm().eval()
    tokens = torch.randint(256, (4, 16), generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (tokens,), dynamic_shapes={"tokens": {0: batch}})
    torch.testing.assert_close(program.module()(tokens[:3]), model(tokens[:3]))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens), model(tokens))


def test_byte_lm_calls_its_layers_in_inference_too():
    model = byte_lm().eval()
    seen = []
    model.blocks.layers[0].linear1.register_forward_hook(lambda *_: seen.append("linear1"))
    with torch.inference_mode():
        model(torch.zeros(1, 4, dtype=torch.int64))
        flops = measure.flops(model, torch.zeros(1, 4, dtype=torch.int64))
    assert seen
    matrices = 2 * 12 * 32**2 + 32 * 256
    assert flops >= 2 * 4 * matrices


def test_byte_lm_refuses_a_text_beyond_its_context():
    with pytest.raises(ValueError, match=r"^17 bytes do not fit a context of 16: cut the input$"):
        byte_lm()(torch.zeros(1, 17, dtype=torch.int64))
