"""The training loop: one function that reads from top to bottom. Introduced in chapter 4."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bigmodel_helpers.measure import Stopwatch
from bigmodel_helpers.training._arguments import (
    as_list,
    metrics_of,
    one_sum,
    rate_at,
    refuse_functions,
    refuse_model,
    refuse_numbers,
)
from bigmodel_helpers.training._progress import Report, interrupt_after_step
from bigmodel_helpers.training._ranks import gradient_sync, on_first_rank, sum_over_ranks
from bigmodel_helpers.training._resume import Folder, run_settings
from bigmodel_helpers.training._run import Run, stream
from bigmodel_helpers.training.losses import count_targets, cross_entropy
from bigmodel_helpers.training.optim import Schedule, constant

Loss = Callable[[nn.Module, Any], Tensor]
Count = Callable[[Any], Tensor | float]


def fit(
    model: nn.Module,
    batches: Iterable[Any],
    optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    *,
    steps: int,
    loss: Loss = cross_entropy,
    count: Count = count_targets,
    unit: str = "images",
    schedule: Schedule = constant,
    accumulate: int = 1,
    clip_norm: float | None = None,
    dtype: torch.dtype | None = None,
    every: int | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    callbacks: Sequence[Callable[[Run], None] | Any] = (),
    checkpoints: str | Path | None = None,
    keep: int = 2,
    progress: bool = True,
) -> Run:
    """Train `model` in place on the device that its parameters are on, and return the `Run`.

    The model is plain, in `DistributedDataParallel`, or sharded by FSDP2 (`fully_shard`). In the last two cases
    all ranks of the default process group call `fit` with batches of their own, and a step is what one process
    would do on all their batches together. For a compiled model, call ``model.compile()`` before.

    Args:
        batches: any iterable, such as `data.Batches`, `text.Windows` or a `DataLoader`. It is read again and again,
            pass after pass; a pass is announced by ``set_epoch(epoch)`` to the batches or their sampler where they
            have that method. Batches are nested tuples, lists and dicts of tensors.
        optimizers: one or several, over the parameters of `model`; their learning rates are the peak ones.
        steps: optimizer steps in all; ``epochs * len(batches)`` for so many passes.
        loss: (model, batch) -> the *sum* of the losses over the targets of the batch, a 0-d tensor.
        count: batch -> the number of its targets (or the sum of their weights): a step goes down the mean over all
            targets of the step. A step without any is an error.
        unit: what is counted, a word; the history tells how many a second.
        schedule: progress from 0 to below 1 -> multiplier of all learning rates, set before each step.
        accumulate: batches per step and rank; the step equals one on all their targets together.
        clip_norm: largest allowed norm of all gradients together.
        dtype: None for the parameters' own format; `torch.bfloat16` or `torch.float16` for mixed precision
            (autocast; float16 with a gradient scaler, which makes an accelerator wait at each step).
        every: steps from one row of the history to the next; None for one a pass, where the batches have a length,
            else one at the end. Evaluation, callbacks and checkpoints happen there, and an accelerator is waited
            for only there.
        evaluate: model -> metrics; its time is not counted as training. All ranks call it, the first one's count.
        callbacks: called with the `Run` after each row; see `training.callbacks` for what else they may do.
        checkpoints: a folder; the run is saved there, and goes on from the newest whole checkpoint found there, if
            its settings are the same. On the same machine the resumed run is bit for bit the undisturbed one, if
            its operations are deterministic (on a GPU: `torch.use_deterministic_algorithms`) and a `DataLoader`
            has no worker processes. A run that is complete, or that a callback has stopped, is only loaded: more
            steps are a new run, whose schedule begins again, from these weights and in another folder.
        keep: how many checkpoints to keep.
        progress: a line per row, on a terminal with a bar.

    Raises:
        ValueError: a number is out of range, batches or targets ran out, the checkpoint has other settings.
        FloatingPointError: the loss or a weight is not finite; names the step. Nothing of that step is saved.
        KeyboardInterrupt: after Ctrl-C, once the step is done and the run is saved; a second one, or one of a
            model on several ranks: at once.
    """
    optimizers = [optimizers] if isinstance(optimizers, torch.optim.Optimizer) else list(optimizers)
    callbacks = as_list(callbacks)
    counts = {"steps": steps, "accumulate": accumulate, "every": 1 if every is None else every, "keep": keep}
    refuse_numbers(clip_norm, **counts)
    refuse_model(model, optimizers)
    refuse_functions(loss, schedule, dtype, callbacks, batches)
    device = next(model.parameters()).device
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    run = Run(model, batches, optimizers, callbacks, scaler, Stopwatch(device=device), steps, unit)
    _set_rates(run, 1.0)
    folder = None
    if checkpoints is not None:
        others = {"accumulate": accumulate, "clip_norm": clip_norm, "dtype": str(dtype)}
        folder = Folder(checkpoints, keep, run_settings(run, loss, count, schedule, **others))
        folder.restore(run)

    mixed = partial(torch.autocast, device.type, dtype) if dtype is not None else nullcontext
    coming = stream(run)
    model.zero_grad(set_to_none=True)
    visible = progress and run.rank == 0
    with interrupt_after_step(run.ranks == 1) as interrupted, Report(run.step, steps, visible) as report:
        while True:
            due = _row_is_due(run, every, accumulate)
            if due or interrupted():
                run.stopwatch.pause()
                _read_losses(run)
                _check_weights(run)
                if folder is not None and run.batches_state is None and hasattr(run.batches, "state_dict"):
                    # Before `evaluate`, which may read the same batches.
                    run.batches_state = run.batches.state_dict()
                try:
                    if due:
                        run.history.append(_row(run, evaluate))
                        report.row(run.history[-1])
                        _call(run, "__call__")
                except BaseException:
                    if folder is not None and run.ranks == 1:  # other ranks may be well, and would wait
                        folder.save(run)
                    raise
                if folder is not None:
                    folder.save(run)
                if interrupted():
                    raise KeyboardInterrupt
            if run.is_done:
                return run

            model.train()
            run.stopwatch.resume()
            _call(run, "before_step")
            parts = [_to_device(batch, device, copy=accumulate > 1) for batch in islice(coming, accumulate)]
            _set_rates(run, rate_at(schedule, run.progress))
            run.unread.append(_backward(run, parts, loss, count, mixed))
            _update(run, clip_norm)
            run.step += 1
            _call(run, "after_step")
            if device.type == "cpu":  # reading a loss makes an accelerator wait
                _read_losses(run)
            report.step()


def _row_is_due(run: Run, every: int | None, accumulate: int) -> bool:
    if run.step == 0 or (run.history and run.history[-1]["step"] == run.step):
        return False
    if run.is_done:
        return True
    if every is not None:
        return run.step % every == 0
    batches = run.step * accumulate
    return run.length is not None and batches // run.length > (batches - accumulate) // run.length


def _to_device(batch: Any, device: torch.device, copy: bool) -> Any:
    """Return a batch on `device`; `copy` for batches that are kept, because a loader may use their memory again."""
    if isinstance(batch, Tensor):
        return batch.to(device, copy=copy)
    if isinstance(batch, dict):
        return {name: _to_device(part, device, copy) for name, part in batch.items()}
    if isinstance(batch, list | tuple):
        moved = [_to_device(part, device, copy) for part in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch


def _set_rates(run: Run, multiplier: float) -> None:
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * multiplier


def _call(run: Run, hook: str) -> None:
    for callback in run.callbacks:
        if hasattr(callback, hook):
            getattr(callback, hook)(run)


def _backward(
    run: Run, parts: list[Any], loss: Loss, count: Count, mixed: Callable[[], Any]
) -> tuple[Tensor, Tensor]:
    """Add up the gradients of the mean over all targets of the step; return sum of this rank, targets of all."""
    total = sum(count(part) for part in parts)
    if not isinstance(total, Tensor):
        total = torch.full(
            (), float(total), device=run.device
        )  # a copy from the CPU would wait for an accelerator
    total = total.to(run.device, torch.float32)
    sum_over_ranks(total, run.ranks)
    summed = torch.zeros((), device=run.device)
    for index, part in enumerate(parts):
        with gradient_sync(run.parallel, index == len(parts) - 1):
            with mixed():
                value = one_sum(loss(run.model, part))
            run.scaler.scale(value * run.ranks / total).backward()  # gradients are averaged over the ranks
        summed += value.detach()
    return summed, total


def _update(run: Run, clip_norm: float | None) -> None:
    if clip_norm is not None:
        for optimizer in run.optimizers:
            run.scaler.unscale_(optimizer)
        groups = (group for optimizer in run.optimizers for group in optimizer.param_groups)
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], clip_norm)
    for optimizer in run.optimizers:
        run.scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    run.scaler.update()


def _read_losses(run: Run) -> None:
    """Add the losses of the latest steps to the sum of the row, or stop at the first that is not finite."""
    if not run.unread:
        return
    sums, totals = (torch.stack(values) for values in zip(*run.unread, strict=True))
    sum_over_ranks(sums, run.ranks)
    first = run.step - len(run.unread) + 1
    run.unread.clear()
    for step, (value, total) in enumerate(zip(sums.tolist(), totals.tolist(), strict=True), first):
        if total == 0:
            raise ValueError(
                f"step {step} of {run.steps} has no target: leave out batches whose targets are all masked"
            )
        if not math.isfinite(value):
            raise FloatingPointError(_not_finite(run, f"the loss is {value} at step {step} of {run.steps}"))
        run.loss_sum += value
        run.count += total


def _check_weights(run: Run) -> None:
    """Stop before weights that are not finite are saved: no later run could go on from them."""
    weights = [p.to_local() if hasattr(p, "to_local") else p for p in run.model.parameters()]
    bad = (~torch.stack([weight.detach().isfinite().all() for weight in weights])).sum()
    if sum_over_ranks(bad, run.ranks):
        raise FloatingPointError(
            _not_finite(run, f"weights are not finite after step {run.step} of {run.steps}")
        )


def _not_finite(run: Run, what: str) -> str:
    return f"{what}: lower the learning rate, set clip_norm, or train in float32 (dtype=None)"


def _row(run: Run, evaluate: Callable[[nn.Module], dict[str, float]] | None) -> dict[str, float]:
    """Return the row of this step, the same on every rank, and start counting the next one."""
    seconds = run.stopwatch.seconds
    row = {"step": run.step} if run.epoch is None else {"step": run.step, "epoch": run.epoch}
    row |= {
        "seconds": seconds,
        f"{run.unit}_per_second": run.count / (seconds - run.row_seconds),
        "learning_rate": float(run.optimizers[0].param_groups[0]["lr"]),
        "train_loss": run.loss_sum / run.count,
    }
    row |= metrics_of(evaluate(run.model)) if evaluate is not None else {}
    run.loss_sum, run.count, run.row_seconds = 0.0, 0.0, seconds
    return on_first_rank(lambda: row, run.ranks)
