"""Trained networks: small ones that come with the package, and torchvision's ResNet-50. Introduced in chapter 5."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from bigmodel_helpers.data import normalize, to_pixels
from bigmodel_helpers.data._download import fetch
from bigmodel_helpers.models.resnet import ResNet
from bigmodel_helpers.runtime import data_folder

SHIPPED = ("cifar10_resnet", "cifar6_resnet")
NAMES = (*SHIPPED, "resnet50")


@dataclass(frozen=True)
class Pretrained:
    """A trained network and what belongs to it.

    Attributes:
        model: in evaluation mode; maps images (B, 3, H, W) as `prepare` makes them to logits (B, C).
        prepare: one RGB picture -> float (3, H, W), with the size and the normalization of the training.
        classes: the name of each logit.
        source: one sentence that names the network and where its weights came from.
    """

    model: nn.Module
    prepare: Callable[[Image.Image], Tensor]
    classes: tuple[str, ...]
    source: str


def load(name: str = "auto", *, download: bool = True) -> Pretrained:
    """Return a trained network.

    Args:
        name: `cifar10_resnet` or `cifar6_resnet`, which come with the package; `resnet50` of torchvision, 1,000
            classes; `auto` for `resnet50` where its weights can be had, else `cifar10_resnet`. `source` says
            which one it is.
        download: fetch the weights of `resnet50` (98 MB, checked) where no file holds them.

    Raises:
        ValueError: there is no network of that name.
        FileNotFoundError: `resnet50` was asked for by name and its weights cannot be had.

    >>> pretrained.load("cifar6_resnet").classes
    ('airplane', 'automobile', 'bird', 'cat', 'frog', 'ship')
    """
    if name == "auto":
        try:
            return load("resnet50", download=download)
        except (FileNotFoundError, ImportError) as why:
            fallback = load("cifar10_resnet")
            return Pretrained(
                fallback.model, fallback.prepare, fallback.classes, f"{fallback.source}, because {why}"
            )
    if name not in NAMES:
        raise ValueError(f"no network {name!r}: choose from auto, {', '.join(NAMES)}")
    return _resnet50(download) if name == "resnet50" else _shipped(name)


def card(name: str) -> dict[str, Any]:
    """Return the model card of a network that comes with the package: data, recipe, accuracy, limits.

    Raises:
        ValueError: no such network comes with the package.
    """
    if name not in SHIPPED:
        raise ValueError(f"no card for {name!r}: choose from {', '.join(SHIPPED)}")
    return json.loads(_file(f"{name}.json").read_text(encoding="utf-8"))


def _resnet50_file(download: bool = True) -> Path:
    """Return the file with the weights of torchvision's ResNet-50 (`IMAGENET1K_V2`), checked by its hash.

    It is sought in ``$BIGMODEL_DATA/checkpoints``, then in the cache of `torch.hub`, then fetched into that cache.

    Raises:
        FileNotFoundError: it is nowhere and was not to be, or could not be, fetched.
        ValueError: a file of that name holds something else.
    """
    url = _resnet50_weights().url
    name = url.rsplit("/", 1)[-1]
    digest = name.removesuffix(".pth").rsplit("-", 1)[-1]
    target = Path(torch.hub.get_dir()) / "checkpoints" / name
    for file in (data_folder("checkpoints", name), target):
        if file is not None and file.is_file():
            with file.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if not found.startswith(digest):
                raise ValueError(f"{file} has SHA-256 {found[:8]}..., not {digest}...: delete it")
            return file
    if not download:
        raise FileNotFoundError(f"{name} is not on this machine and was not to be downloaded")
    try:
        fetch(url, target, digest)
    except (OSError, HTTPException) as error:
        raise FileNotFoundError(
            f"{name} is not on this machine and could not be downloaded ({error})"
        ) from None
    return target


def _prepare_small(picture: Image.Image, size: int = 32) -> Tensor:
    """Return an RGB picture as the CIFAR networks want it: shorter side to `size`, middle cut out, normalized.

    Returns:
        float32 (3, size, size).
    """
    pixels = to_pixels(_middle(picture)).float()[None]
    height, width = pixels.shape[-2:]
    scale = size / min(height, width)
    shape = (max(size, round(height * scale)), max(size, round(width * scale)))
    if shape != (height, width):
        pixels = F.interpolate(pixels, shape, mode="bilinear", antialias=True)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    cut = pixels[:, :, top : top + size, left : left + size]
    return normalize(cut.round().clamp(0, 255).to(torch.uint8))[0]


def _middle(picture: Image.Image) -> Image.Image:
    """Cut very long pictures to the middle, which alone is looked at: 1 x 5000 pixels would grow to gigabytes."""
    width, height = picture.size
    side = 3 * min(width, height)
    left, top = max(0, (width - side) // 2), max(0, (height - side) // 2)
    return picture.crop((left, top, left + min(width, side), top + min(height, side)))


def _file(name: str) -> Path:
    return Path(str(resources.files("bigmodel_helpers").joinpath("weights", name)))


def _shipped(name: str) -> Pretrained:
    facts = card(name)
    file = _file(f"{name}.safetensors")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != facts["sha256"]:
        raise ValueError(f"{file.name} is not the file of its card: install the package again")
    classes = tuple(facts["classes"])
    model = ResNet(tuple(facts["blocks"]), tuple(facts["widths"]), len(classes))
    missing, unknown = model.load_state_dict(load_file(file), strict=False)
    if unknown or any(not key.endswith("num_batches_tracked") for key in missing):
        raise ValueError(f"{file.name} does not fit its architecture: install the package again")
    source = (
        f"{name}, {facts['parameters'] / 1e6:.1f} M parameters, trained for this book, {len(classes)} classes"
    )
    return Pretrained(model.eval(), _prepare_small, classes, source)


def _resnet50_weights() -> Any:
    from torchvision.models import ResNet50_Weights

    return ResNet50_Weights.IMAGENET1K_V2


def _resnet50(download: bool) -> Pretrained:
    from torchvision.models import resnet50

    weights, file = _resnet50_weights(), _resnet50_file(download)
    model = resnet50()
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    transforms = weights.transforms()
    return Pretrained(
        model.eval(),
        lambda picture: transforms(_middle(picture)),
        tuple(weights.meta["categories"]),
        "ResNet-50 of torchvision, 25.6 M parameters, trained on ImageNet, 1,000 classes",
    )
