"""Batches made on the device from one uint8 tensor."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from bigmodel_helpers.data._seeds import mix, refuse_other_order, seeded
from bigmodel_helpers.data.augmentation import MEAN, STD, Augment, _three, mirror, normalize
from bigmodel_helpers.data.image_set import ImageSet


class Batches:
    """Batches of an image set, made on the device; iterate over it once per epoch. Introduced in chapter 4.

    The uint8 images are kept on `device`. Each batch is taken from them, augmented and normalized. Order and
    augmentation depend only on (seed, epoch, batch index): a resumed run sees the same batches.

    Yields (x, y): x (B, 3, H, W) in `dtype`, normalized; y int64 (B,).

    Args:
        image_set: the images.
        batch_size: images per batch; the last batch may be smaller unless `drop_last`.
        shuffle: a new order in each epoch, else the order of the set.
        augment: a function of (uint8 images, generator), for example `Augment()`.
        alternate_flip: mirror each image at random in epoch 0 and every second time after that, so that two
            epochs show both views (Jordan, 2024); use it with ``Augment(flip=False)``.
        channels_last: give x the memory format in which convolutions are faster.
        mean: what `normalize` subtracts, one number per color for pixels from 0 to 1; that of CIFAR-10 by default.
            A trained network brings its own: `Pretrained.batches`.
        std: what it then divides by.

    Attributes:
        size: pixels a side to which x is shrunk, None for whole images; `training.Grow` sets it.

    Raises:
        ValueError: the batch size is not positive, no batch would be left, images would be mirrored twice, or
            `mean` or `std` is not three such numbers.
        TypeError: `image_set` is something else.

    >>> images = data.ImageSet(*synthetic.shapes(100, seed=0), synthetic.CLASSES, "drawn")
    >>> [len(y) for x, y in data.Batches(images, 40)]
    [40, 40, 20]
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: Callable[[Tensor, Generator], Tensor] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        alternate_flip: bool = False,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        if not isinstance(image_set, ImageSet):
            raise TypeError(
                f"a {type(image_set).__name__} is no ImageSet: pass one, or the images of a folder"
            )
        full, rest = divmod(len(image_set), batch_size) if batch_size > 0 else (0, 0)
        self.length = full + bool(rest and not drop_last)
        if self.length == 0:
            raise ValueError(f"no batch of {batch_size} fits in {len(image_set)} images: change batch_size")
        if alternate_flip and isinstance(augment, Augment) and augment.flip:
            raise ValueError("alternate_flip and Augment(flip=True) undo each other: use Augment(flip=False)")
        self.batch_size = batch_size
        self.samples = full * batch_size if drop_last else len(image_set)
        self.images = image_set.images.to(device)
        self.labels = image_set.labels.to(device)
        self.shuffle, self.augment, self.dtype, self.seed = shuffle, augment, dtype, seed
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.alternate_flip = alternate_flip
        self.mean, self.std = _three("mean", mean), _three("std", std)
        self.size: int | None = None
        self.set_epoch(0)

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration show `epoch` from its first batch on.

        Without it, iterations show epochs 0, 1, 2 and so on; one that was left early is shown again.
        """
        if epoch < 0:
            raise ValueError(f"epoch {epoch} does not exist: count from 0")
        self.epoch, self.first_batch, self.position = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Return the place in the order (batches that were yielded), and what decides the order."""
        return {"epoch": self.epoch, "position": self.position, **self._order()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration go on from a place that `state_dict` returned.

        Raises:
            ValueError: the place is in another order.
        """
        refuse_other_order(state, self._order())
        self.set_epoch(state["epoch"])
        self.first_batch = self.position = state["position"]

    def _order(self) -> dict[str, int]:
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "images": len(self.images),
            "shuffle": self.shuffle,
        }

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, first, count = self.epoch, self.first_batch, len(self.images)
        self.first_batch = 0  # only one iteration goes on from a place
        order = torch.arange(count)
        if self.shuffle:
            order = torch.randperm(count, generator=seeded(self.seed, epoch))
        mirrored = torch.rand(count, generator=seeded(self.seed)) < 0.5  # in epoch 0, per image
        mirrored = (mirrored ^ bool(epoch % 2)).to(self.images.device)
        order = order.to(self.images.device)
        generator = Generator(self.images.device)
        for index in range(first, len(self)):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            images = self.images[chosen]
            if self.alternate_flip:
                images = mirror(images, mirrored[chosen])
            if self.augment:
                generator.manual_seed(mix(self.seed, epoch, index))
                images = self.augment(images, generator)
            x = normalize(images, self.dtype, mean=self.mean, std=self.std)
            if self.size is not None:
                x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True)
            self.epoch, self.position = epoch, index + 1  # another iteration may have changed them
            yield x.contiguous(memory_format=self.memory_format), self.labels[chosen]
        self.set_epoch(epoch + 1)
