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
from bigmodel_helpers.data.sound_changes import SoundChanges, add_noise, pad_sounds
from bigmodel_helpers.data.sounds import SoundError, read_sound, record_sound
from bigmodel_helpers.data.spectrograms import log_mel, mask_frames, mel_filters
from bigmodel_helpers.data.speech import COMMANDS, DIGITS, WORDS, SpeechSet, load_speech, speech_folder
from bigmodel_helpers.data.speech_batches import (
    LETTERS,
    join_words,
    keyword_batches,
    steps_of,
    string_batches,
)

__all__ = [
    "CLASSES",
    "COMMANDS",
    "DIGITS",
    "LETTERS",
    "MEAN",
    "STD",
    "WORDS",
    "Augment",
    "Batches",
    "ChatBatches",
    "ChatTemplate",
    "ImageError",
    "ImageFolder",
    "ImageSet",
    "Packed",
    "PackedBatches",
    "SoundChanges",
    "SoundError",
    "SpeechSet",
    "add_noise",
    "class_weights",
    "cutout",
    "documents",
    "few_shot",
    "flip",
    "image_folder",
    "join_words",
    "keep_classes",
    "keyword_batches",
    "load_cifar10",
    "load_digits",
    "load_speech",
    "log_mel",
    "mask_frames",
    "mel_filters",
    "normalize",
    "pack",
    "pad_sounds",
    "perceptual_hash",
    "read_image",
    "read_sound",
    "record_sound",
    "shift",
    "speech_folder",
    "steps_of",
    "string_batches",
    "synthetic",
    "tasks",
    "text",
    "to_picture",
    "to_pixels",
    "tokens",
]
