"""Networks, each in a file that reads from top to bottom.

Trained ones: `pretrained.load`, `published.load`, `load_listener`.
"""

from bigmodel_helpers.models import pretrained, published
from bigmodel_helpers.models.byte_lm import ByteLM
from bigmodel_helpers.models.convnet import ConvNet
from bigmodel_helpers.models.listeners import listener_card, load_listener
from bigmodel_helpers.models.resnet import ResidualBlock, ResNet
from bigmodel_helpers.models.speech import KeywordNet, Listening, SpeechEncoder
from bigmodel_helpers.models.speednet import SpeedNet
from bigmodel_helpers.models.transformer import Cache, Transformer, TransformerConfig

__all__ = [
    "ByteLM",
    "Cache",
    "ConvNet",
    "KeywordNet",
    "Listening",
    "ResNet",
    "ResidualBlock",
    "SpeechEncoder",
    "SpeedNet",
    "Transformer",
    "TransformerConfig",
    "listener_card",
    "load_listener",
    "pretrained",
    "published",
]
