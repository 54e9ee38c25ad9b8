"""Pictures in, labels with probabilities out. Introduced in chapter 5."""

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from bigmodel_helpers.data import ImageError, read_image, to_picture
from bigmodel_helpers.models.pretrained import Pretrained, load

Picture = str | Path | Image.Image | Tensor


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
    """The table that `classify` returns: a list of `Prediction`, shown as a table.

    `source` names the network. `pandas.DataFrame(table.rows())` makes a data frame of it.
    """

    def __init__(self, predictions: Iterable[Prediction], source: str) -> None:
        super().__init__(predictions)
        self.source = source

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
        width = max((len(one.name) for one in self), default=0)
        lines = [
            one.problem if one.problem and one.name in one.problem else f"{one.name:{width}}  {one}"
            for one in self
        ]
        return "\n".join([self.source, *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{escape(one.name)}</td><td>{escape(str(one))}</td></tr>" for one in self)
        head = "<tr><th>picture</th><th>likeliest classes</th></tr>"
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

    Args:
        pictures: one or many of: a file, a pattern such as ``"photos/*.jpg"``, a folder, a PIL image, a tensor
            (3, H, W) or (B, 3, H, W), uint8 or float in 0 to 1.
        network: what `pretrained.load` returned, or a name for it.
        top: how many classes to name.
        batch_size: pictures that go through the network together.
        device: None for the device the network is on.
        progress: show a bar on a terminal.

    Returns:
        A table with a row for each picture; one that cannot be read has a row that says why.

    Raises:
        FileNotFoundError: no file fits a pattern.
        ValueError: `top` or `batch_size` is not positive, or the network's classes do not name its outputs.
        TypeError: something among the pictures is none of the above.

    >>> len(inference.classify(torch.zeros(2, 3, 32, 32), "cifar6_resnet", top=1))
    2
    """
    if top < 1 or batch_size < 1:
        raise ValueError(f"top and batch_size must be at least 1, not {top} and {batch_size}")
    network = load(network) if isinstance(network, str) else network
    if device is not None:
        network.model.to(device)
    named = list(_expand(pictures))
    found: list[Prediction] = []
    with tqdm(total=len(named), unit=" pictures", leave=False, disable=None if progress else True) as bar:
        items = iter(named)
        while chunk := list(islice(items, batch_size)):
            found += _classify_batch(chunk, network, top)
            bar.update(len(chunk))
    return Predictions(found, network.source)


def _classify_batch(chunk: list[tuple[str, Picture]], network: Pretrained, top: int) -> list[Prediction]:
    """Return a prediction for each picture of one batch."""
    inputs: list[Tensor] = []
    problems: list[str | None] = []
    for name, picture in chunk:
        try:
            rgb = to_picture(picture) if isinstance(picture, Tensor) else read_image(picture)
            inputs.append(network.prepare(rgb))
            problems.append(None)
        except ImageError as error:
            text = str(error)
            problems.append(text if name in text else f"{name}: {text}")
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


def _expand(pictures: Picture | Iterable[Picture]) -> Iterator[tuple[str, Picture]]:
    """Yield (name, picture) for each picture that `pictures` stands for."""
    if isinstance(pictures, str | Path):
        yield from ((str(file), file) for file in _files(pictures))
    elif isinstance(pictures, Image.Image):
        yield getattr(pictures, "filename", "") or "picture", pictures
    elif isinstance(pictures, Tensor):
        batch = pictures[None] if pictures.ndim == 3 else pictures
        yield from ((f"image {index}", one) for index, one in enumerate(batch))
    elif isinstance(pictures, Iterable):
        for index, one in enumerate(pictures):
            for name, picture in _expand(one):
                generic = name in ("picture", "image 0")
                yield (f"image {index}" if generic else name), picture
    else:
        raise TypeError(f"a {type(pictures).__name__} is no picture: pass files, PIL images or tensors")


def _files(source: str | Path) -> list[Path]:
    """Return the file itself, the files of a folder, or those that fit a pattern, in order of their names."""
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        return files or [path]
    if path.exists() or not glob.has_magic(str(source)):
        return [path]
    found = glob.glob(str(source), recursive=True)  # noqa: PTH207  (Path.glob takes no absolute pattern)
    files = sorted(Path(name) for name in found if Path(name).is_file())
    if not files:
        raise FileNotFoundError(f"{source}: no file fits the pattern: check it")
    return files
