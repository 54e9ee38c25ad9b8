"""Networks, each in a file that reads from top to bottom, and trained ones (`pretrained.load`, `published.load`)."""

from bigmodel_helpers.models import pretrained, published
from bigmodel_helpers.models.byte_lm import ByteLM
from bigmodel_helpers.models.convnet import ConvNet
from bigmodel_helpers.models.resnet import ResidualBlock, ResNet
from bigmodel_helpers.models.speednet import SpeedNet
from bigmodel_helpers.models.transformer import Cache, Transformer, TransformerConfig

__all__ = [
    "ByteLM",
    "Cache",
    "ConvNet",
    "ResNet",
    "ResidualBlock",
    "SpeedNet",
    "Transformer",
    "TransformerConfig",
    "pretrained",
    "published",
]
