"""Trained networks: small ones that come with the package, and torchvision's ResNet-50. Introduced in chapter 5."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from bigmodel_helpers.data import Batches, ImageSet, normalize, to_pixels
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
        prepare: one RGB picture -> float (3, H, W), with the size and the normalization of the training. Like the
            transforms of torchvision, it has the attributes `resize_size`, `crop_size`, `mean` and `std`.
        classes: the name of each logit. They belong to the last linear layer that the model has now; after
            `transfer.new_head` ask `with_classes` for a network with new ones.
        source: one sentence that names the network and where its weights came from.
    """

    model: nn.Module
    prepare: Callable[[Image.Image], Tensor]
    classes: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "_named_head", _last_linear(self.model))

    @property
    def size(self) -> int:
        """Pixels a side of the pictures that `batches` takes.

        >>> pretrained.load("cifar6_resnet").size
        32
        """
        return self._preparation()[0]

    def batches(self, image_set: ImageSet, batch_size: int = 32, **options: Any) -> Batches:
        """Return batches of an image set as this network wants them: with the numbers that `prepare` makes.

        Args:
            image_set: pictures of `size` x `size` pixels; ``data.image_folder(path, size=network.size)`` reads such.
            batch_size: pictures per batch.
            options: further arguments of `data.Batches`, such as `shuffle`, `augment`, `device`, `channels_last`.

        Raises:
            ValueError: the pictures have another size, or `prepare` does not say how it normalizes.
            TypeError: `image_set` is something else.
        """
        size, side, mean, std = self._preparation()
        if not isinstance(image_set, ImageSet):
            raise TypeError(
                f"a {type(image_set).__name__} is no ImageSet: pass one, or the images of a folder"
            )
        height, width = image_set.images.shape[-2:]
        if (height, width) != (size, size):
            raise ValueError(
                f"pictures of {width} x {height} pixels, but the network takes {size} x {size}: use size={size}"
            )
        edge = round((size - side) / 2)
        middle = image_set.images[:, :, edge : edge + side, edge : edge + side].contiguous()
        return Batches(replace(image_set, images=middle), batch_size, mean=mean, std=std, **options)

    def with_classes(self, names: Sequence[str], source: str | None = None) -> "Pretrained":
        """Return this network with names for the outputs of the head that it has now, see `transfer.new_head`.

        Args:
            names: the name of each logit.
            source: one sentence that names the new network; None for the old one and the number of classes.

        Raises:
            ValueError: `names` is no list of strings, or has another length than the head has outputs.
        """
        listed = isinstance(names, Sequence) and not isinstance(names, str) and len(names) > 0
        if not listed or not all(isinstance(name, str) for name in names):
            raise ValueError("names must be a list of strings: pass one for each output of the head")
        head = _last_linear(self.model)
        if head is not None and head.out_features != len(names):
            raise ValueError(
                f"{len(names)} names for {head.out_features} outputs of the head: pass one for each"
            )
        source = source or f"{self.source}; now with {len(names)} classes of its user"
        return replace(self, classes=tuple(names), source=source)

    def check_classes(self, outputs: int) -> None:
        """Refuse answers that `classes` do not name.

        Args:
            outputs: number of logits of an answer.

        Raises:
            ValueError: the model has got another last linear layer since, or another number of outputs.
        """
        if _last_linear(self.model) is not self._named_head:
            raise ValueError(
                "the network has a new head, its classes are those of the old one: with_classes(names)"
            )
        if outputs != len(self.classes):
            raise ValueError(
                f"{outputs} outputs, but {len(self.classes)} classes: name each output, with_classes(names)"
            )

    def _preparation(self) -> tuple[int, int, Sequence[float], Sequence[float]]:
        """Return the size before the middle is cut out, and that after it, the mean and the standard deviation."""
        try:
            size, side = self.prepare.resize_size[0], self.prepare.crop_size[0]
            mean, std = self.prepare.mean, self.prepare.std
        except (AttributeError, TypeError):
            raise ValueError(
                "prepare has no resize_size, crop_size, mean and std: take transforms of torchvision, or data.Batches"
            ) from None
        if side > size:
            raise ValueError(f"prepare cuts {side} pixels out of {size}: make crop_size the smaller one")
        return size, side, mean, std


@dataclass(frozen=True)
class _Prepare:
    """The way of a picture to a network; the attributes are named as those of torchvision's transforms."""

    transforms: Callable[[Image.Image], Tensor]
    resize_size: Sequence[int]
    crop_size: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, picture: Image.Image) -> Tensor:
        return self.transforms(_middle(picture))


def _last_linear(model: nn.Module) -> nn.Linear | None:
    return next((layer for layer in reversed([*model.modules()]) if isinstance(layer, nn.Linear)), None)


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
            return replace(fallback, source=f"{fallback.source}, because {why}")
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


def _prepare_small(picture: Image.Image, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return an RGB picture as the CIFAR networks want it: shorter side to `size`, middle cut out, normalized.

    Returns:
        float32 (3, size, size).
    """
    pixels = to_pixels(picture).float()[None]
    height, width = pixels.shape[-2:]
    scale = size / min(height, width)
    shape = (max(size, round(height * scale)), max(size, round(width * scale)))
    if shape != (height, width):
        pixels = F.interpolate(pixels, shape, mode="bilinear", antialias=True)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    cut = pixels[:, :, top : top + size, left : left + size]
    return normalize(cut.round().clamp(0, 255).to(torch.uint8), mean=mean, std=std)[0]


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
    size, mean, std = facts["size"], facts["mean"], facts["std"]
    small = partial(_prepare_small, size=size, mean=mean, std=std)
    return Pretrained(model.eval(), _Prepare(small, [size], [size], mean, std), classes, source)


def _resnet50_weights() -> Any:
    from torchvision.models import ResNet50_Weights

    return ResNet50_Weights.IMAGENET1K_V2


def _resnet50(download: bool) -> Pretrained:
    from torchvision.models import resnet50

    weights, file = _resnet50_weights(), _resnet50_file(download)
    model = resnet50()
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    own = weights.transforms()
    return Pretrained(
        model.eval(),
        _Prepare(own, own.resize_size, own.crop_size, own.mean, own.std),
        tuple(weights.meta["categories"]),
        "ResNet-50 of torchvision, 25.6 M parameters, trained on ImageNet, 1,000 classes",
    )
