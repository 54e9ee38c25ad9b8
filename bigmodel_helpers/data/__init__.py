"""Pictures, digits and text, from wherever they are, and batches of them."""

from bigmodel_helpers.data import documents, synthetic, tasks, text, tokens
from bigmodel_helpers.data._cifar10 import CLASSES
from bigmodel_helpers.data._duplicates import perceptual_hash
from bigmodel_helpers.data.augmentation import MEAN, STD, Augment, cutout, flip, normalize, shift
from bigmodel_helpers.data.batches import Batches
from bigmodel_helpers.data.chats import ChatBatches, ChatTemplate
from bigmodel_helpers.data.cifar10 import load_cifar10
from bigmodel_helpers.data.digits import load_digits
from bigmodel_helpers.data.folders import ImageFolder, image_folder
from bigmodel_helpers.data.image_set import ImageSet, class_weights, few_shot, keep_classes
from bigmodel_helpers.data.images import ImageError, read_image, to_picture, to_pixels
from bigmodel_helpers.data.packing import Packed, PackedBatches, pack

__all__ = [
    "CLASSES",
    "MEAN",
    "STD",
    "Augment",
    "Batches",
    "ChatBatches",
    "ChatTemplate",
    "ImageError",
    "ImageFolder",
    "ImageSet",
    "Packed",
    "PackedBatches",
    "class_weights",
    "cutout",
    "documents",
    "few_shot",
    "flip",
    "image_folder",
    "keep_classes",
    "load_cifar10",
    "load_digits",
    "normalize",
    "pack",
    "perceptual_hash",
    "read_image",
    "shift",
    "synthetic",
    "tasks",
    "text",
    "to_picture",
    "to_pixels",
    "tokens",
]
