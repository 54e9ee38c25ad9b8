"""Residual networks for 32x32 images (He et al. 2016, arXiv:1512.03385). Introduced in chapter 4."""

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose output is added to the input.

    Input (B, I, H, W), output (B, O, H/stride, W/stride). Where the shape changes, a 1x1 convolution with batch
    norm takes the input to the new shape.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """A first convolution, stages of residual blocks, global average pooling, one linear layer.

    Args:
        blocks: residual blocks in each stage; every stage but the first halves height and width.
        widths: channels of each stage.
        classes: number of logits.

    Input: float (B, 3, H, W), normalized. Output: logits (B, classes).

    >>> models.ResNet((1, 1), (8, 16))(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, blocks: tuple[int, ...], widths: tuple[int, ...], classes: int = 10) -> None:
        super().__init__()
        if len(blocks) != len(widths):
            raise ValueError(
                f"ResNet got {len(blocks)} block counts and {len(widths)} widths: give one of each a stage"
            )
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        stages: list[nn.Module] = []
        channels = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                stages.append(ResidualBlock(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean(dim=(2, 3)))
