"""The training loop: one function that reads from top to bottom. Introduced in chapter 4."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bigmodel_helpers.measure import Stopwatch
from bigmodel_helpers.runtime import random_state, set_random_state
from bigmodel_helpers.training import checkpoint
from bigmodel_helpers.training._progress import Report, interrupt_after_step
from bigmodel_helpers.training.optim import Schedule, constant

Batch = tuple[Tensor, Tensor]  # images (B, C, H, W), labels (B,)
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Run:
    """A training run: what `fit` works on, what callbacks get, and what `fit` returns.

    `history` is the table of metrics: one dict per epoch with epoch, step, seconds (training only),
    images_per_second, learning_rate, train_loss and what `evaluate` returned. `pandas.DataFrame(run.history)`
    shows it.
    """

    model: nn.Module
    batches: Iterable[Batch]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    stopwatch: Stopwatch
    total_steps: int
    epoch: int = 0
    batch: int = 0  # batches done in this epoch
    step: int = 0  # optimizer steps done in all
    loss_sum: float = 0.0  # over the images of this epoch so far
    images: int = 0  # in this epoch so far
    epoch_seconds: float = 0.0  # what the stopwatch showed when this epoch began
    epoch_random: dict[str, Any] | None = None  # the random state this epoch began with; None between epochs
    history: list[dict[str, float]] = field(default_factory=list)
    stop: bool = False  # a callback sets it to end the run after this epoch

    @property
    def device(self) -> torch.device:
        """The device the parameters are on."""
        return next(self.model.parameters()).device

    @property
    def eval_model(self) -> nn.Module:
        """The model to evaluate and keep: the weight average where there is one, else the model itself."""
        return self.model if self.average is None else self.average.module


Callback = Callable[[Run], None]


def fit(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    schedule: Schedule = constant,
    loss: Loss | None = None,
    label_smoothing: float = 0.0,
    dtype: torch.dtype | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    average_decay: float | None = None,
    compile: bool = False,
    prepare: Callable[[Tensor, float], Tensor] | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoints: str | Path | None = None,
    checkpoint_every: int | None = None,
    keep: int = 2,
    progress: bool = True,
) -> Run:
    """Train `model` in place on the device that its parameters are on, and return the `Run`.

    Args:
        batches: yields (images, labels); `data.Batches`, a `DataLoader`, or anything with a length like them.
        optimizer: any optimizer over the parameters of `model`; its learning rates are the peak ones.
        epochs: passes over `batches`.
        schedule: progress from 0 to 1 -> multiplier of all learning rates, set before each step.
        loss: (logits, labels) -> mean loss of the batch; default cross-entropy with `label_smoothing`.
        dtype: None for the parameters' own format; `torch.bfloat16` or `torch.float16` for mixed precision
            (autocast; float16 with a gradient scaler).
        accumulate: batches per optimizer step; the step equals one on all their images together.
        clip_norm: largest allowed norm of all gradients together.
        average_decay: keep an exponential moving average of weights and buffers with this decay per step.
        compile: run the model through `torch.compile`.
        prepare: (images, progress) -> images, applied to each batch on the device (say, a growing size).
        evaluate: model -> metrics, after each epoch; its time is not counted as training.
        callbacks: plain functions called with the `Run` after each epoch.
        checkpoints: a folder; the run is saved there after each epoch, and goes on from the newest whole
            checkpoint found there. On the same machine the resumed run is bit for bit the undisturbed one, if
            its operations are deterministic (on a GPU: `torch.use_deterministic_algorithms`) and a `DataLoader`
            has no worker processes.
        checkpoint_every: save after so many steps, too.
        keep: how many checkpoints to keep.
        progress: a bar on a terminal, else a line per epoch.

    Raises:
        FloatingPointError: the loss or a weight is not finite; names the step. Nothing of that step is saved.
        KeyboardInterrupt: after Ctrl-C, once the step is done and the run is saved; a second one: at once.
    """
    device = next(model.parameters()).device
    steps_per_epoch = -(-len(batches) // accumulate)
    run = Run(
        model,
        batches,
        optimizer,
        torch.amp.GradScaler(device.type, enabled=dtype is torch.float16),
        _moving_average(model, average_decay),
        Stopwatch(device=device),
        total_steps=epochs * steps_per_epoch,
    )
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    if checkpoints is not None:
        _resume(run, checkpoints)

    forward = torch.compile(model) if compile else model
    loss = loss or (lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=label_smoothing))
    mixed = torch.autocast(device.type, dtype) if dtype is not None else nullcontext()
    check_every = 1 if device.type == "cpu" else 50  # reading a loss makes an accelerator wait

    model.zero_grad(set_to_none=True)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    with interrupt_after_step() as interrupted, Report(run, epochs, progress) as report:
        while run.epoch < epochs and not run.stop:
            run.epoch_random = run.epoch_random or _random_state(run)
            unread: list[tuple[Tensor, int]] = []  # mean loss and images of each step not yet checked
            model.train()
            run.stopwatch.resume()
            for step_batches in _steps(run, accumulate):
                done = run.step / run.total_steps
                _set_learning_rate(optimizer, schedule(done))
                step_images = sum(len(labels) for _, labels in step_batches)
                step_loss = torch.zeros((), device=device)
                for images, labels in step_batches:
                    images, labels = images.to(device), labels.to(device)
                    if prepare is not None:
                        images = prepare(images, done)
                    with mixed:
                        part = loss(forward(images), labels) * (len(labels) / step_images)
                    run.scaler.scale(part).backward()
                    step_loss += part.detach()
                if clip_norm is not None:
                    run.scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(trained, clip_norm)
                run.scaler.step(optimizer)
                run.scaler.update()
                optimizer.zero_grad(set_to_none=True)
                if run.average is not None:
                    _update_average(run.average, model)

                run.step += 1
                run.batch += len(step_batches)
                unread.append((step_loss, step_images))
                stop = interrupted()
                save = stop or (checkpoint_every is not None and run.step % checkpoint_every == 0)
                if save or run.step % check_every == 0:
                    _read_losses(run, unread)
                    report.step()
                if save and checkpoints is not None:
                    _check_weights(run)
                    _save(run, checkpoints, keep)
                if stop:
                    raise KeyboardInterrupt
            _read_losses(run, unread)
            run.stopwatch.pause()
            _check_weights(run)
            try:
                _end_epoch(run, evaluate)
                report.epoch()
                for callback in callbacks:
                    callback(run)
            finally:
                if checkpoints is not None:
                    _save(run, checkpoints, keep)
        if interrupted():
            raise KeyboardInterrupt
    return run


def _steps(run: Run, accumulate: int) -> Iterator[list[Batch]]:
    """Yield the batches of each optimizer step of this epoch, from batch `run.batch` on."""
    if hasattr(run.batches, "set_epoch"):
        run.batches.set_epoch(run.epoch, run.batch)
        iterator = iter(run.batches)
    else:  # begin the epoch as it began, pass over what is done, then go on with the random state of now
        now = _random_state(run)
        _set_random_state(run, run.epoch_random)
        iterator = iter(run.batches)
        if run.batch:
            next(islice(iterator, run.batch - 1, run.batch), None)
            _set_random_state(run, now)
    while step_batches := list(islice(iterator, accumulate)):
        yield step_batches


def _set_learning_rate(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * multiplier


def _read_losses(run: Run, unread: list[tuple[Tensor, int]]) -> None:
    """Add the losses of the latest steps to the epoch's sum, or stop at the first that is not finite."""
    values = torch.stack([loss for loss, _ in unread]).tolist() if unread else []
    for index, value in enumerate(values):
        if not math.isfinite(value):
            step = run.step - len(values) + index + 1
            raise FloatingPointError(
                f"the loss is {value} at step {step} of {run.total_steps} (epoch {run.epoch + 1}): "
                "lower the learning rate, set clip_norm, or train in float32 (dtype=None)"
            )
        run.loss_sum += value * unread[index][1]
        run.images += unread[index][1]
    unread.clear()


def _end_epoch(run: Run, evaluate: Callable[[nn.Module], dict[str, float]] | None) -> None:
    """Append this epoch's row to the table and start counting the next one."""
    seconds = run.stopwatch.seconds
    row = {
        "epoch": run.epoch + 1,
        "step": run.step,
        "seconds": seconds,
        "images_per_second": run.images / (seconds - run.epoch_seconds),
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "train_loss": run.loss_sum / run.images,
    }
    metrics = evaluate(run.eval_model) if evaluate is not None else {}
    run.history.append(row | {name: float(value) for name, value in metrics.items()})
    run.epoch, run.batch = run.epoch + 1, 0
    run.loss_sum, run.images, run.epoch_seconds, run.epoch_random = 0.0, 0, seconds, None


def _moving_average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _update_average(average: AveragedModel, model: nn.Module) -> None:
    """Move the average towards the model; integer buffers, which have no average, are copied."""
    average.update_parameters(model)
    for kept, now in zip(average.module.buffers(), model.buffers(), strict=True):
        if not kept.is_floating_point():
            kept.copy_(now)


def _check_weights(run: Run) -> None:
    """Stop before weights that are not finite are saved: no later run could go on from them."""
    if not torch.stack([p.detach().isfinite().all() for p in run.model.parameters()]).all():
        raise FloatingPointError(
            f"step {run.step} of {run.total_steps} made weights that are not finite: lower the learning rate, "
            "set clip_norm, or train in float32 (dtype=None)"
        )


COUNTS = ["epoch", "batch", "step", "loss_sum", "images", "epoch_seconds", "epoch_random", "history", "stop"]


def _save(run: Run, directory: str | Path, keep: int) -> None:
    """Save everything that decides how the run goes on; the time it takes is not counted as training."""
    running = run.stopwatch.running
    run.stopwatch.pause()
    state = {name: getattr(run, name) for name in COUNTS} | {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "average": run.average.state_dict() if run.average is not None else None,
        "stopwatch": run.stopwatch.state(),
        "random": _random_state(run),
    }
    checkpoint.save(checkpoint.step_path(directory, run.step), state)
    checkpoint.prune(directory, keep)
    if running:
        run.stopwatch.resume()


def _resume(run: Run, directory: str | Path) -> None:
    """Put `run` where its newest checkpoint left it, if there is one."""
    latest = checkpoint.load_latest(directory)
    if latest is None:
        return
    path, state = latest
    if (state["average"] is None) != (run.average is None):
        raise ValueError(f"{path} was saved with another average_decay: use the same, or another folder")
    for name in COUNTS:
        setattr(run, name, state[name])
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    for weight, values in run.optimizer.state.items():  # own memory, not the file's, laid out like the weight
        for name, value in values.items():
            if isinstance(value, Tensor):
                alike = value.shape == weight.shape
                values[name] = (
                    torch.empty_like(weight, dtype=value.dtype).copy_(value) if alike else value.clone()
                )
    run.scaler.load_state_dict(state["scaler"])
    if run.average is not None:
        run.average.load_state_dict(state["average"])
    run.stopwatch = Stopwatch(**state["stopwatch"], device=run.device)
    _set_random_state(run, state["random"])
    for newer in (file for file in checkpoint.list_steps(directory) if file.name > path.name):
        newer.replace(
            newer.with_suffix(".broken")
        )  # so that `prune` does not keep it in place of a whole one


def _random_state(run: Run) -> dict[str, Any]:
    """Return the states of the global generators and of the loader's own, where it has one."""
    generator = _loader_generator(run)
    return random_state(run.device) | {"loader": None if generator is None else generator.get_state()}


def _loader_generator(run: Run) -> torch.Generator | None:
    sampler = getattr(run.batches, "sampler", None)
    return getattr(run.batches, "generator", None) or getattr(sampler, "generator", None)


def _set_random_state(run: Run, state: dict[str, Any]) -> None:
    set_random_state(state, run.device)
    if state["loader"] is not None:
        _loader_generator(run).set_state(state["loader"])
