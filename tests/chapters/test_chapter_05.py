"""Chapter 5: its hand-written code against torchvision's and the package's, in settings that it does not show."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from awkward_files import make_all
from chapter_code import chapter_namespace
from PIL import Image, ImageOps
from torch import nn
from torchvision.models.resnet import BasicBlock

from bigmodel_helpers import compression, data, inference
from bigmodel_helpers.models import pretrained

NETWORK = pretrained.load("cifar6_resnet")
CELLS = ["block", "stack", "read-by-hand", "ex-05-letterbox-solution", "ex-05-unsure-solution"]
NAMES = {
    "torch": torch,
    "nn": nn,
    "F": F,
    "np": np,
    "io": io,
    "Image": Image,
    "ImageOps": ImageOps,
    "data": data,
    "inference": inference,
    "compression": compression,
    "network": NETWORK,
    "pretrained": pretrained,
    "x": NETWORK.prepare(Image.new("RGB", (40, 30), (200, 30, 90)))[None],
    "photo": Image.new("RGB", (40, 30), (200, 30, 90)),
    "right_x": torch.zeros(2, 3, 32, 32),
    "some": SimpleNamespace(labels=torch.tensor([0, 1])),
    "answers_of": lambda x, batch_size: NETWORK.model(x),
    "check_letterbox": lambda: None,
    "check_unsure": lambda: None,
}
CHAPTER = chapter_namespace("05_resnet_inference", CELLS, **NAMES)
BY_HAND = ["batch-norm-by-hand", "prepare-by-hand", "gradcam-by-hand", "fold-by-hand"]


@pytest.mark.parametrize(("channels", "stride"), [((8, 8), 1), ((8, 8), 2), ((8, 24), 1), ((8, 24), 2)])
@pytest.mark.parametrize("training", [False, True])
def test_block_equals_torchvision(channels: tuple[int, int], stride: int, training: bool) -> None:
    wide = stride != 1 or channels[0] != channels[1]
    downsample = None
    if wide:
        convolution = nn.Conv2d(*channels, 1, stride, bias=False)
        downsample = nn.Sequential(convolution, nn.BatchNorm2d(channels[1]))
    theirs = BasicBlock(*channels, stride, downsample).train(training)
    ours = CHAPTER["Block"](*channels, stride).train(training)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, channels[0], 10, 10)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


def test_a_cut_shortcut_changes_the_block() -> None:
    block = CHAPTER["Block"](8, 8)
    x = torch.randn(2, 8, 6, 6)
    whole = block(x)
    block.shortcut = False
    assert not torch.allclose(block(x), whole)


def test_gradients_reach_every_convolution() -> None:
    batch = torch.randn(4, 3, 32, 32), torch.arange(4)
    for shortcut in (False, True):
        sizes = CHAPTER["gradient_sizes"](CHAPTER["stack"](2, shortcut), *batch)
        assert len(sizes) == 13
        assert sizes.min() > 0


def test_files_are_read_as_the_package_reads_them(tmp_path: Path) -> None:
    compared = 0
    make_all(tmp_path)
    for name in sorted(file.name for file in tmp_path.iterdir() if file.is_file()):
        content = (tmp_path / name).read_bytes()
        try:
            expected = np.asarray(data.read_image(content))
        except data.ImageError:
            continue
        with Image.open(io.BytesIO(content)) as opened:
            usual = opened.mode in ("RGB", "RGBA", "L", "CMYK", "P", "I;16")
        if usual:
            np.testing.assert_array_equal(np.asarray(CHAPTER["read"](content)), expected, err_msg=name)
            compared += 1
    assert compared >= 15


def test_hand_written_versions_equal_the_packaged_ones(capsys: pytest.CaptureFixture[str]) -> None:
    chapter_namespace("05_resnet_inference", BY_HAND, **(NAMES | {"network": NETWORK}))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6
    assert all("the same" in line for line in printed)


@pytest.mark.parametrize("shape", [(300, 100), (100, 300), (50, 50), (7, 90)])
def test_prepare_by_hand_equals_the_package(shape: tuple[int, int]) -> None:
    chapter = chapter_namespace("05_resnet_inference", ["prepare-by-hand"], **NAMES)
    noise = np.random.default_rng(0).integers(0, 256, (shape[1], shape[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    if max(shape) <= 3 * min(shape):  # longer ones are cut first by the package
        torch.testing.assert_close(chapter["prepare"](picture), NETWORK.prepare(picture), rtol=0, atol=0)


def test_threshold_is_infinite_when_no_answer_is_good() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.7, 0.3]])
    assert CHAPTER["threshold_for"](probabilities, torch.tensor([1, 1]), 0.5) == float("inf")


def test_letterbox_keeps_all_of_the_picture() -> None:
    boxed = np.asarray(CHAPTER["letterbox"](Image.new("RGB", (200, 50), (0, 255, 0)), 40))
    green = (boxed == (0, 255, 0)).all(axis=2)
    assert green.sum() == 40 * 10
