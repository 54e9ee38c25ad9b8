"""A training run, and its endless stream of batches."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bigmodel_helpers.measure import Stopwatch
from bigmodel_helpers.runtime import random_state, set_random_state
from bigmodel_helpers.training._ranks import on_first_rank, wrappers


@dataclass
class Run:
    """A training run: what `fit` works on, what callbacks get, and what `fit` returns. Introduced in chapter 4.

    `history` is the table of metrics, one dict per row: step, epoch (passes over the batches, where they have a
    length), seconds (of training only), images_per_second (or another unit), learning_rate, train_loss (the mean
    since the row before), and what `evaluate` returned. `pandas.DataFrame(run.history)` shows it.
    """

    model: nn.Module
    batches: Iterable[Any]
    optimizers: list[torch.optim.Optimizer]
    callbacks: Sequence[Any]
    scaler: torch.amp.GradScaler
    stopwatch: Stopwatch
    steps: int  # optimizer steps in all
    unit: str
    step: int = 0  # optimizer steps done
    stop: bool = False  # a callback sets it to end the run after this step
    history: list[dict[str, float]] = field(default_factory=list)
    passes: int = 0  # whole passes over the batches
    batch: int = 0  # batches taken in this pass
    loss_sum: float = 0.0  # over the targets since the last row
    count: float = 0.0  # targets since the last row
    row_seconds: float = 0.0  # what the stopwatch showed at the last row
    unread: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # loss and count of the latest steps
    pass_random: dict[str, Any] | None = None  # the random state this pass began with
    batches_state: dict[str, Any] | None = None  # of batches with a `state_dict`, for the checkpoint

    def __post_init__(self) -> None:
        self.parallel = wrappers(self.model)
        self.ranks = dist.get_world_size() if self.parallel else 1
        self.rank = dist.get_rank() if self.parallel else 0
        try:
            self.length = len(self.batches)
        except (TypeError, NotImplementedError):  # a `DataLoader` over a stream has the method, but no length
            self.length = None
        self.length = on_first_rank(lambda: self.length, self.ranks)  # all ranks have to make rows at once

    @property
    def device(self) -> torch.device:
        """The device the parameters are on."""
        return next(self.model.parameters()).device

    @property
    def is_done(self) -> bool:
        """Whether all steps are done, or a callback has stopped the run."""
        return self.stop or self.step == self.steps

    @property
    def progress(self) -> float:
        """The share of the steps that is done, 0 to 1."""
        return self.step / self.steps

    @property
    def epoch(self) -> float | None:
        """Passes over the batches so far, a whole number at the end of a pass; None where they have no length."""
        if self.length is None:
            return None
        batches = self.passes * self.length + self.batch
        return batches / self.length if batches % self.length else batches // self.length


def stream(run: Run) -> Iterator[Any]:
    """Yield the batches of pass after pass without end, from where `run` is; `run` keeps count.

    Raises:
        ValueError: a pass has no batch, because there is none or an iterator was used up.
    """
    while True:
        for batch in _begin_pass(run):
            run.batch, run.batches_state = run.batch + 1, None
            yield batch
        if run.batch == 0:
            raise ValueError(
                f"no batch is left for step {run.step + 1} of {run.steps}, pass {run.passes + 1} of the batches has "
                "none: give batches that can be read again, such as data.Batches, a DataLoader or a list"
            )
        run.passes, run.batch = run.passes + 1, 0


def _begin_pass(run: Run) -> Iterator[Any]:
    """Return an iterator at batch `run.batch` of this pass."""
    for place in _places(run):
        if hasattr(place, "set_epoch"):
            place.set_epoch(run.passes)
    if run.batch == 0:
        run.pass_random = random_states(run)
        return iter(run.batches)
    now = random_states(run)  # a resumed run begins the pass as it began, then goes on with the state of now
    set_random_states(run, run.pass_random)
    if run.batches_state is not None:
        run.batches.load_state_dict(run.batches_state)
        iterator = iter(run.batches)
    else:
        iterator = iter(run.batches)
        next(islice(iterator, run.batch - 1, run.batch), None)
    set_random_states(run, now)
    return iterator


def random_states(run: Run) -> dict[str, Any]:
    """Return the states of the global generators and of the loader's own."""
    return random_state(run.device) | {"loader": [own.get_state() for own in _loader_generators(run)]}


def set_random_states(run: Run, state: dict[str, Any]) -> None:
    """Put the generators back to what `random_states` returned."""
    set_random_state(state, run.device)
    for own, saved in zip(_loader_generators(run), state["loader"], strict=True):
        own.set_state(saved)


def _loader_generators(run: Run) -> list[torch.Generator]:
    own = (getattr(place, "generator", None) for place in _places(run))
    return [generator for generator in own if isinstance(generator, torch.Generator)]


def _places(run: Run) -> list[Any]:
    """Return the batches and, of a `DataLoader`, the samplers: what may have an epoch or a generator."""
    sampler, groups = (getattr(run.batches, name, None) for name in ("sampler", "batch_sampler"))
    return [run.batches, sampler, groups, getattr(groups, "sampler", None)]
