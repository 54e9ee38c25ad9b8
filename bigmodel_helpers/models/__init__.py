"""Networks, each in a file that reads from top to bottom."""

from bigmodel_helpers.models import convnet, resnet, speednet

__all__ = ["convnet", "resnet", "speednet"]
