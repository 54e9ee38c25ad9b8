"""Callbacks of `training.fit`: early stopping, an average of the weights, pictures that grow.

A callback is called with the `Run` after each row of the history. It may have methods `before_step(run)` and
`after_step(run)`, which are called at each optimizer step, and `state_dict` and `load_state_dict`: its state is in
the checkpoint then.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bigmodel_helpers.training._ranks import bare, like, load_weights
from bigmodel_helpers.training._run import Run


@dataclass(eq=False)
class EarlyStopping:
    """End the run when a metric has stopped rising, and keep the best weights. Introduced in chapter 6.

    After the run, `restore` puts the best weights back. All this is in the checkpoint: a run that was killed and
    resumed ends at the same step with the same weights.

    Args:
        metric: name of a metric that `evaluate` returned; higher is better.
        patience: rows of the history without a new best before the run ends.

    Attributes:
        best: the best value so far.
        best_step: the optimizer step it was found at.
        waited: rows since then.
    """

    metric: str
    patience: int = 3
    best: float = field(default=float("-inf"), init=False, repr=False)
    best_step: int = field(default=0, init=False, repr=False)
    waited: int = field(default=0, init=False, repr=False)
    weights: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, not {self.patience}")

    def __call__(self, run: Run) -> None:
        row = run.history[-1]
        if self.metric not in row:
            raise ValueError(
                f"no metric {self.metric!r} to watch: let `evaluate` return it; there is {', '.join(row)}"
            )
        self.waited += 1
        if row[self.metric] > self.best:
            self.best, self.best_step, self.waited = row[self.metric], run.step, 0
            self.weights = {name: v.detach().clone() for name, v in bare(run.model).state_dict().items()}
        if self.waited >= self.patience:
            run.stop = True

    def restore(self, model: nn.Module) -> nn.Module:
        """Load the weights of the best row into `model` and return it.

        Raises:
            ValueError: there was no row yet.
        """
        if not self.weights:
            raise ValueError("no row has been made, so there are no best weights: train first")
        load_weights(model, self.weights)
        return model

    def state_dict(self) -> dict[str, Any]:
        """Return what the checkpoint keeps."""
        return {name: getattr(self, name) for name in ("best", "best_step", "waited", "weights")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value)


@dataclass(eq=False)
class WeightAverage:
    """Keep an exponential moving average of weights and buffers. Introduced in chapter 4.

    It starts as the weights after the first step. Integer buffers are copied. Let `evaluate` use it by
    ``with average.applied(): ...``, and save what you keep of the run so, too.

    Args:
        model: the model that is trained; plain, in DistributedDataParallel, or sharded by FSDP2.
        decay: share of the average that is kept at each step, 0 to 1.
    """

    model: nn.Module = field(repr=False)
    decay: float
    weights: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be from 0 to below 1, not {self.decay}")

    @torch.no_grad()
    def after_step(self, run: Run) -> None:
        """Move the average towards the weights."""
        for name, value in bare(self.model).state_dict().items():
            if name in self.weights and value.is_floating_point():
                self.weights[name].lerp_(value, 1 - self.decay)
            else:
                self.weights[name] = value.detach().clone()

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """Let the model have the averaged weights inside a ``with`` block; yields the model."""
        own = {name: value.detach().clone() for name, value in bare(self.model).state_dict().items()}
        load_weights(self.model, self.weights)
        try:
            yield self.model
        finally:
            load_weights(self.model, own)

    def state_dict(self) -> dict[str, Any]:
        """Return what the checkpoint keeps."""
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        own = bare(self.model).state_dict()
        self.weights = {name: like(value, own[name]) for name, value in state["weights"].items()}


@dataclass(eq=False)
class Grow:
    """Let pictures be small at first: `data.Batches` shrinks them up to a share of the run. Introduced in chapter 4.

    Args:
        size: pixels a side of the small pictures.
        until: share of the steps from which on pictures are whole, 0 to 1.
    """

    size: int
    until: float

    def before_step(self, run: Run) -> None:
        """Set the size of the next pictures.

        Raises:
            ValueError: the batches have no size to set.
        """
        if not hasattr(run.batches, "size"):
            raise ValueError(
                f"{type(run.batches).__name__} cannot shrink its pictures: train on data.Batches"
            )
        run.batches.size = self.size if run.progress < self.until else None


@dataclass(eq=False)
class KeepStatistics:
    """Let every batch norm use its remembered statistics and not change them. Introduced in chapter 6.

    For small batches of new data, whose own statistics are noise, and where an old network must stay what it was.
    Scale and shift stay trainable.
    """

    def before_step(self, run: Run) -> None:
        """Put the batch norms into evaluation mode, which `model.train()` has ended."""
        for module in run.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
