"""Chapter 3: its hand-written layers against PyTorch's and the package's, in settings that it does not show."""

import math

import pytest
import torch
import torch.nn.functional as F
from chapter_code import chapter_namespace
from torch import nn

from bigmodel_helpers import models

CELLS = ["rnn-cell", "lstm-cell", "conv-loops", "conv-unfold", "size-field", "cured"]
CHAPTER = chapter_namespace("03_cnn", CELLS, torch=torch, nn=nn, F=F, math=math)


@pytest.mark.parametrize("version", ["conv_loops", "conv_unfold"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 1), (5, 3, 2), (4, 4, 0)]
)
@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (2, 3, 11, 7)])
def test_convolution_equals_torch(version: str, kernel: int, stride: int, padding: int, shape: tuple) -> None:
    x, layer = torch.randn(shape), nn.Conv2d(shape[1], 4, kernel, stride, padding)
    ours = CHAPTER[version](x, layer.weight, layer.bias, stride, padding)
    torch.testing.assert_close(ours, layer(x))


def test_convolution_sees_a_wrong_stride() -> None:
    x, layer = torch.randn(1, 2, 9, 9), nn.Conv2d(2, 3, 3, 2)
    assert CHAPTER["conv_unfold"](x, layer.weight, layer.bias, 1).shape != layer(x).shape


@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize("bias", [0.0, 3.0])
def test_recurrent_cells_equal_torch(length: int, bias: float) -> None:
    x, zeros = torch.randn(3, length, 5), torch.zeros(3, 6)
    for kind, ours in ((nn.RNN, "rnn_by_hand"), (nn.LSTM, "lstm_by_hand")):
        layer = kind(5, 6, batch_first=True)
        with torch.no_grad():
            layer.bias_hh_l0 += bias
        states = [zeros] * (2 if kind is nn.LSTM else 1)
        torch.testing.assert_close(CHAPTER[ours](x, list(layer.parameters()), *states), layer(x)[0])


def test_lstm_has_its_gates_in_the_order_of_torch() -> None:
    x, zeros, layer = torch.randn(3, 4, 5), torch.zeros(3, 6), nn.LSTM(5, 6, batch_first=True)
    exchanged = [p.roll(6, dims=0) for p in layer.parameters()]
    with pytest.raises(AssertionError):
        torch.testing.assert_close(CHAPTER["lstm_by_hand"](x, exchanged, zeros, zeros), layer(x)[0])


@pytest.mark.parametrize("size", [6, 8, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_network_of_the_chapter_is_that_of_the_package(size: int, channels: int) -> None:
    by_hand = CHAPTER["ConvNet"](channels=channels, size=size).eval()
    packaged = models.ConvNet(channels=channels, size=size).eval()
    packaged.load_state_dict(by_hand.state_dict())
    images = torch.rand(2, channels, size, size)
    torch.testing.assert_close(packaged(images), by_hand(images))


@pytest.mark.parametrize(
    ("layers", "field", "size"),
    [
        ([(3, 1, 1)], 3, 32),
        ([(3, 1, 1), (3, 1, 1)], 5, 32),
        ([(7, 2, 3), (3, 2, 1)], 11, 8),  # how ResNet begins
        ([(2, 2, 0)] * 3, 8, 4),
    ],
)
def test_size_and_receptive_field_of_known_stacks(layers: list, field: int, size: int) -> None:
    assert CHAPTER["receptive_field"](layers) == field
    assert CHAPTER["output_size"](32, layers) == size
