"""Networks, each in a file that reads from top to bottom."""

from bigmodel_helpers.models import byte_lm, convnet, resnet, speednet

__all__ = ["byte_lm", "convnet", "resnet", "speednet"]
