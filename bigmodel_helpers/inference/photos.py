"""Pictures in, labels with probabilities out. Introduced in chapter 5."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import IO, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from bigmodel_helpers.data import ImageError, read_image
from bigmodel_helpers.data._paths import own_name, shown
from bigmodel_helpers.data.images import KINDS
from bigmodel_helpers.inference._sources import files_of
from bigmodel_helpers.models.pretrained import Pretrained, load

Picture: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes] | np.ndarray | Tensor | Image.Image
Named: TypeAlias = tuple[
    str | None, Picture | ImageError
]  # the error takes the place of a picture that is none
NESTED = 8  # lists in lists, at most


@dataclass(frozen=True)
class Prediction:
    """What the network says of one picture: the likeliest classes first, or why there is no answer.

    Attributes:
        name: the file, or the place in the input where there is none.
        labels: names of classes.
        probabilities: one per label, 0 to 1.
        problem: None, or one line that says why the picture could not be read.
    """

    name: str
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    problem: str | None = None

    def __str__(self) -> str:
        if self.problem is not None:
            return self.problem
        pairs = zip(self.labels, self.probabilities, strict=True)
        return ", ".join(f"{label} {100 * probability:.1f} %" for label, probability in pairs)


class Predictions(list[Prediction]):
    """The table that `classify` and `classify_speech` return: a list of `Prediction`, shown as a table.

    `source` names the network. `pandas.DataFrame(table.rows())` makes a data frame of it.
    """

    def __init__(self, predictions: Iterable[Prediction], source: str, kind: str = "picture") -> None:
        super().__init__(predictions)
        self.source, self.kind = source, kind

    def rows(self) -> list[dict[str, str | float | None]]:
        """Return one dict per picture: name, label, probability, problem (the likeliest class only)."""
        return [
            {
                "name": one.name,
                "label": one.labels[0] if one.labels else None,
                "probability": one.probabilities[0] if one.probabilities else None,
                "problem": one.problem,
            }
            for one in self
        ]

    def __str__(self) -> str:
        names = [shown(one.name) for one in self]
        width = max(map(len, names), default=0)
        lines = [
            one.problem if one.problem and name in one.problem else f"{name:{width}}  {one}"
            for name, one in zip(names, self, strict=True)
        ]
        return "\n".join([self.source, *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(shown(one.name))}</td><td>{escape(str(one))}</td></tr>" for one in self
        )
        head = f"<tr><th>{self.kind}</th><th>likeliest classes</th></tr>"
        return f"<p>{escape(self.source)}</p><table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def classify(
    pictures: Picture | Iterable[Picture],
    network: Pretrained | str = "auto",
    *,
    top: int = 5,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Predictions:
    """Say what is on each picture.

    A picture that cannot be read, a pattern that fits nothing or an empty folder among others ends nothing: it has a
    row that says why. What is no picture at all (a number, None, a dict) is a mistake in the program and is refused
    before any work.

    Args:
        pictures: one or many of: a file, a pattern such as ``"photos/*.jpg"``, a folder, the bytes of a file, a file
            object open in binary mode, a PIL image, an array (H, W, 3), (H, W, 4), (H, W) or (B, H, W, 3), a tensor
            (3, H, W) or (B, 3, H, W), uint8 or float in 0 to 1. ``~`` is the home folder.
        network: what `pretrained.load` returned, or a name for it.
        top: how many classes to name.
        batch_size: pictures that go through the network together.
        device: None for the device the network is on.
        progress: show a bar on a terminal.

    Returns:
        A table with a row for each picture; one that cannot be read has a row that says why.

    Raises:
        FileNotFoundError: `pictures` is one pattern, and no file fits it.
        ValueError: `top` or `batch_size` is not positive, or the network's classes do not name its outputs.
        TypeError: something among the pictures is none of the above; it is named with its place.

    >>> len(inference.classify(torch.zeros(2, 3, 32, 32), "cifar6_resnet", top=1))
    2
    """
    if top < 1 or batch_size < 1:
        raise ValueError(f"top and batch_size must be at least 1, not {top} and {batch_size}")
    named = [(name or f"image {index}", one) for index, (name, one) in enumerate(_expand(pictures))]
    network = load(network) if isinstance(network, str) else network
    if device is not None:
        network.model.to(device)
    found: list[Prediction] = []
    with tqdm(total=len(named), unit=" pictures", leave=False, disable=None if progress else True) as bar:
        items = iter(named)
        while chunk := list(islice(items, batch_size)):
            found += _classify_batch(chunk, network, top)
            bar.update(len(chunk))
    return Predictions(found, network.source)


def _classify_batch(
    chunk: list[tuple[str, Picture | ImageError]], network: Pretrained, top: int
) -> list[Prediction]:
    """Return a prediction for each picture of one batch."""
    inputs: list[Tensor] = []
    problems: list[str | None] = []
    for name, picture in chunk:
        try:
            if isinstance(picture, ImageError):
                raise picture
            inputs.append(network.prepare(read_image(picture)))
            problems.append(None)
        except ImageError as error:
            text = str(error)
            problems.append(text if shown(name) in text else f"{shown(name)}: {text}")
    rows: Iterator[tuple[list[float], list[int]]] = iter(())
    if inputs:
        values, places = _probabilities(network, torch.stack(inputs)).sort(descending=True)
        network.check_classes(values.shape[1])
        rows = iter(zip(values[:, :top].tolist(), places[:, :top].tolist(), strict=True))
    done = []
    for (name, _), why in zip(chunk, problems, strict=True):
        value, place = next(rows) if why is None else ([], [])
        done.append(Prediction(name, tuple(network.classes[i] for i in place), tuple(value), why))
    return done


@torch.inference_mode()
def _probabilities(network: Pretrained, images: Tensor) -> Tensor:
    """Return probabilities (B, C) of prepared images (B, 3, H, W), in evaluation mode."""
    network.model.eval()
    device = next(network.model.parameters()).device
    return network.model(images.to(device)).float().softmax(dim=1).cpu()


def _expand(pictures: Picture | Iterable[Picture], *place: int) -> Iterator[Named]:
    """Yield (name or None, picture) for each picture that `pictures`, at `place` in the input, stands for."""
    if isinstance(pictures, np.ndarray) and pictures.dtype.kind in "OU":  # names of files, or arrays
        pictures = pictures.tolist()
    if isinstance(pictures, np.ndarray | Tensor) and pictures.ndim == 4:
        yield from ((None, one) for one in pictures)
    elif isinstance(pictures, str | os.PathLike):
        yield from files_of(pictures, ImageError, alone=not place)
    elif isinstance(pictures, KINDS) or hasattr(pictures, "read"):
        yield own_name(pictures), pictures
    elif isinstance(pictures, Iterable) and not isinstance(pictures, Mapping) and len(place) < NESTED:
        for index, one in enumerate(pictures):
            yield from _expand(one, *place, index)
    else:
        where = "pictures" + "".join(f"[{index}]" for index in place)
        raise TypeError(
            f"{where}: a {type(pictures).__name__} is no picture: pass files, arrays, tensors or PIL images"
        )
