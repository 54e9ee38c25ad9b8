"""The source article's network, cured. Introduced in chapter 3."""

from torch import Tensor, nn


class ConvNet(nn.Module):
    """Two convolutions, max pooling, two linear layers.

    Args:
        channels: of the input images.
        size: height and width of the input images, at least 6.
        classes: number of logits.
        dropout: fraction of activations set to zero in training; half of it before the first linear layer.

    Input: float (B, channels, size, size), normalized. Output: logits (B, classes), for `F.cross_entropy`.

    >>> models.ConvNet(channels=1, size=8)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self, channels: int = 3, size: int = 32, classes: int = 10, dropout: float = 0.5) -> None:
        super().__init__()
        pooled = (size - 4) // 2  # each 3x3 convolution takes 2 pixels, pooling takes half
        self.features = nn.Sequential(
            nn.Conv2d(channels, 32, kernel_size=3),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(dropout / 2),
            nn.Flatten(),
            nn.Linear(64 * pooled * pooled, 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))
