"""SpeedNet, a small convolutional network that learns CIFAR-10 in few passes (after Jordan 2024)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpeedNet(nn.Module):
    """Whitening layer, three blocks of two convolutions, one linear layer. Introduced in chapter 4.

    The first layer is not trained: `set_whitening` computes it from the training images, so that its outputs
    are uncorrelated. The other choices (frozen batch-norm scales, identity start, scaled logits) each save
    training steps; see "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (Jordan 2024, arXiv:2404.00498).

    The end takes the maximum over all places by `adaptive_max_pool2d`, whose gradient goes to one of several equal
    maxima. That of `amax` is split among them, and compiled in bfloat16 it is nan (pytorch/pytorch#186799).

    Args:
        widths: output channels of the three blocks.
        classes: number of logits.

    Input: float (B, 3, H, W), normalized, H and W at least 17. Output: logits (B, classes).

    >>> models.SpeedNet((8, 16, 16))(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, widths: tuple[int, int, int] = (64, 256, 256), classes: int = 10) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, kernel_size=2)
        self.whiten.weight.requires_grad_(False)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in zip((24, *widths[:2]), widths, strict=True)))
        self.head = nn.Linear(widths[-1], classes, bias=False)
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.std())

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(F.gelu(self.whiten(images)))  # (B, C, H/8, W/8)
        return self.head(F.adaptive_max_pool2d(features, 1).flatten(1)) / self.head.in_features

    @torch.no_grad()
    def set_whitening(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the first layer so that its outputs on `images`, float (N, 3, H, W), have unit covariance.

        The filters are the eigenvectors of the covariance of all 2x2 patches, each divided by the standard
        deviation along it; the negative of each filter is there too, because GELU keeps one sign only.
        """
        patches = F.unfold(images.float(), kernel_size=2).transpose(1, 2).flatten(0, 1)  # (N*L, 12)
        covariance = (patches.T @ patches / len(patches)).cpu()
        variance, direction = torch.linalg.eigh(covariance)
        filters = (direction / (variance + eps).sqrt()).T.reshape(-1, 3, 2, 2)
        self.whiten.weight.copy_(torch.cat((filters, -filters)))
        self.whiten.bias.zero_()


class Block(nn.Module):
    """Convolution, max pooling, convolution; batch norm and GELU after each. Halves height and width."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm1 = _batch_norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = _batch_norm(channels_out)
        for conv in (self.conv1, self.conv2):
            nn.init.dirac_(conv.weight[: conv.in_channels])

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm that tracks its statistics fast (few steps are all it gets) and has no trained scale."""
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm
