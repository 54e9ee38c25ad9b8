"""What a checkpoint of a run holds, which settings must be the same to go on, and how a run is put back."""

from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bigmodel_helpers.measure import Stopwatch
from bigmodel_helpers.training import checkpoint
from bigmodel_helpers.training._arguments import rate_at
from bigmodel_helpers.training._ranks import bare, from_all_ranks, like, load_weights, on_first_rank, plain
from bigmodel_helpers.training._run import Run, random_states, set_random_states

PLACE = ["step", "stop", "history", "passes", "batch", "loss_sum", "count", "row_seconds"]  # of `Run`
# Entries of a parameter group that change how a step is computed, not what it does.
HOW = {"params", "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable"}


class Folder:
    """The folder with the checkpoints of one run: `restore` once, then `save`. All ranks call both.

    Args:
        path: the folder; all ranks see the same one.
        keep: how many checkpoints to keep.
        settings: what decides the run, nested dicts and lists of plain values.
    """

    def __init__(self, path: str | Path, keep: int, settings: dict[str, Any]) -> None:
        self.path, self.keep, self.settings = Path(path), keep, settings
        self.known: set[str] = set()  # files that were there before, or that this run has written

    def save(self, run: Run) -> None:
        """Save everything that decides how the run goes on."""
        first = run.rank == 0
        own = {"random": random_states(run), "pass_random": run.pass_random, "batches": run.batches_state}
        own["settings"] = _batch_settings(run)
        state = {name: getattr(run, name) for name in PLACE} | {
            "settings": self.settings,
            "model": plain(bare(run.model).state_dict(), first),
            "optimizers": [plain(optimizer.state_dict(), first) for optimizer in run.optimizers],
            "callbacks": [plain(callback.state_dict(), first) for callback in _with_state(run)],
            "scaler": run.scaler.state_dict(),
            "stopwatch": run.stopwatch.state(),
            "ranks": from_all_ranks(own, run.ranks),
        }
        on_first_rank(partial(self._write, run.step, state), run.ranks)

    def _write(self, step: int, state: dict[str, Any]) -> None:
        foreign = {file.name for file in checkpoint.list_steps(self.path)} - self.known
        if foreign:
            raise checkpoint.CheckpointError(
                f"another run writes into {self.path} ({min(foreign)}): give each run a folder of its own"
            )
        self.known.add(checkpoint.save(checkpoint.step_path(self.path, step), state).name)
        checkpoint.prune(self.path, self.keep)

    def restore(self, run: Run) -> None:
        """Put `run` where its newest checkpoint left it, if there is one; say so if the run had ended.

        Raises:
            ValueError: the checkpoint is of a run with other settings; names the first difference.
            CheckpointError: no checkpoint is whole, or one is of a newer version of this package.
        """
        path = on_first_rank(self._choose, run.ranks)
        if path is None:
            return
        state = checkpoint.load(path)
        if "settings" not in state:
            raise ValueError(
                f"{path} was saved by an older version of fit, which did not save settings: {_cure(path)}"
            )
        _refuse_others(path, state["settings"], self.settings)
        _refuse_others(path, _shapes(state["model"]), _shapes(bare(run.model).state_dict()))
        own = state["ranks"][run.rank]
        _refuse_others(path, own["settings"], _batch_settings(run))
        for name in PLACE:
            setattr(run, name, state[name])
        load_weights(run.model, state["model"])
        for optimizer, saved in zip(run.optimizers, state["optimizers"], strict=True):
            _load_optimizer(optimizer, saved)
        for callback, saved in zip(_with_state(run), state["callbacks"], strict=True):
            callback.load_state_dict(saved)
        run.scaler.load_state_dict(state["scaler"])
        run.stopwatch = Stopwatch(**state["stopwatch"], device=run.device)
        run.pass_random, run.batches_state = own["pass_random"], own["batches"]
        set_random_states(run, own["random"])
        if run.rank == 0 and run.is_done:
            print(
                f"nothing to do: the run ended at step {run.step} of {run.steps}, loaded from {path}; "
                f"to train on, {_cure(path)}",
                flush=True,
            )

    def _choose(self) -> Path | None:
        """Return the newest whole checkpoint; set newer broken ones aside, delete unfinished ones."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise type(error)(
                f"checkpoints={str(self.path)!r} cannot be a folder ({error}): name another one"
            ) from None
        latest = checkpoint.latest(self.path)
        for file in checkpoint.list_steps(self.path):
            if latest is not None and file.name > latest.name:  # so that `prune` does not keep it
                file.replace(file.with_suffix(".broken"))
        for file in self.path.glob("step-*.partial"):
            file.unlink()
        self.known = {file.name for file in checkpoint.list_steps(self.path)}
        return latest


def run_settings(
    run: Run, loss: Callable, count: Callable, schedule: Callable[[float], float], **others: Any
) -> dict[str, Any]:
    """Return what decides a run, but for its model and its data, as plain values."""
    kept = [_name(c) for c in run.callbacks if is_dataclass(c) or hasattr(c, "state_dict")]
    return {
        "ranks": run.ranks,
        "steps": run.steps,
        "unit": run.unit,
        **others,
        "loss": _name(loss),
        "count": _name(count),
        "schedule at": {f"{i}/9 of the run": float(f"{rate_at(schedule, i / 9):.9g}") for i in range(9)},
        "optimizer": dict(enumerate(map(_optimizer_settings, run.optimizers))),
        "callback": dict(enumerate(kept)),
    }


def _optimizer_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    groups = {}
    for index, group in enumerate(optimizer.param_groups):
        groups[index] = {"parameters": len(group["params"]), "lr": float(group["initial_lr"])}
        for name in sorted(group.keys() - HOW):
            if type(group[name]) in (bool, int, float, str, tuple):
                groups[index][name] = group[name]
    return {"class": type(optimizer).__name__, "group": groups}


def _batch_settings(run: Run) -> dict[str, Any]:
    told = {"length of the batches": run.length}
    for name in ("batch_size", "seed"):
        if type(value := getattr(run.batches, name, None)) is int:
            told[f"{name} of the batches"] = value
    return told


def _name(thing: Any) -> str:
    """Return how a function or an object is called, with the plain options of a `partial`."""
    if isinstance(thing, partial):
        told = [f"{k}={v}" for k, v in sorted(thing.keywords.items()) if type(v) in (int, float, str)]
        return f"{_name(thing.func)}({', '.join(told)})"
    if is_dataclass(thing):
        return repr(thing)
    return getattr(thing, "__qualname__", type(thing).__qualname__)


def _shapes(weights: dict[str, Any]) -> dict[str, Any]:
    return {f"shape of {name}": tuple(value.shape) for name, value in weights.items()}


def _with_state(run: Run) -> list[Any]:
    return [callback for callback in run.callbacks if hasattr(callback, "state_dict")]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, value
        return
    for key, item in value.items():
        yield from _leaves(item, f"{name} {key}".strip())


def _refuse_others(path: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise a ValueError that names the first setting that differs."""
    old, new = dict(_leaves(saved)), dict(_leaves(now))
    for name in old | new:
        was, is_now = old.get(name, "nothing"), new.get(name, "nothing")
        if was != is_now:
            raise ValueError(
                f"{path} was saved with {name} {was}, this run has {is_now}: use the same, or {_cure(path)}"
            )


def _cure(path: Path) -> str:
    return f"start a new run in another folder, from the weights checkpoint.load({str(path)!r})['model']"


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    optimizer.load_state_dict(saved)
    for weight, values in optimizer.state.items():  # own memory, not the file's, laid out like the weight
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = like(value, weight) if value.shape == weight.shape else value.clone()
