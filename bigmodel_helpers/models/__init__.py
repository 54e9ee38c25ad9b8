"""Networks, each in a file that reads from top to bottom, and trained ones (`pretrained.load`)."""

from bigmodel_helpers.models import pretrained
from bigmodel_helpers.models.byte_lm import ByteLM
from bigmodel_helpers.models.convnet import ConvNet
from bigmodel_helpers.models.resnet import ResidualBlock, ResNet
from bigmodel_helpers.models.speednet import SpeedNet
from bigmodel_helpers.models.transformer import TransformerConfig

__all__ = ["ByteLM", "ConvNet", "ResNet", "ResidualBlock", "SpeedNet", "TransformerConfig", "pretrained"]
