"""Train small language models of several sizes on several amounts of text, and fit how their loss falls.

Run it as ``python -m tools.records.scaling``: it takes one core for about 40 minutes. Each finished run is a line of
``runs/scaling.jsonl``; called again, the program goes on with what is missing. At the end it fits the scaling laws
(`scaling_fit`) and writes ``book/scaling.json``, which the outlook shows.
"""

import argparse
import json
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bigmodel_helpers import measure, runtime, training
from bigmodel_helpers.data import text
from bigmodel_helpers.models import ByteLM
from bigmodel_helpers.training.optim import cosine
from tools.records.scaling_fit import summarize

Run = dict[str, Any]

CONTEXT, BATCH = 64, 16  # bytes per window, windows per step
SIZES = {16: 2, 32: 2, 48: 3, 64: 3, 96: 4, 128: 4}  # width: layers; 16 numbers per attention head
HELD_OUT = 128  # the width whose loss is predicted from the others
GRID = [  # (bytes, seeds, widths), in the order in which they are run
    (2**18, 1, [*SIZES]),
    (2**19, 1, [*SIZES]),
    (2**20, 1, [*SIZES]),
    (2**21, 1, [*SIZES]),
    (2**22, 1, [16, 32, 48, 64]),
    (2**19, 3, [*SIZES]),
    (2**22, 1, [96]),
    (2**18, 3, [*SIZES]),
]
SWEEP_BYTES, SWEEP_WIDTHS, SWEEP_RATES = 2**19, [16, 48, 96], [2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2]


def main(arguments: list[str] | None = None) -> None:
    """Do the missing runs, then fit and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/scaling.jsonl"))
    parser.add_argument("--record", type=Path, default=Path("book/scaling.json"))
    parser.add_argument("--fit-only", action="store_true", help="take the runs that are there")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)  # the matrices are too small to share
    corpus = text.standard_library()
    runtime.keep_freed_memory()
    runs = read(options.runs)
    missing = [] if options.fit_only else plan(runs)
    for width, rate, size, seed, kind in missing:
        run = train(corpus, width, rate, size, seed) | {"kind": kind}
        runs.append(run)
        options.runs.parent.mkdir(parents=True, exist_ok=True)
        with options.runs.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(run) + "\n")
        print(
            f"{kind} width {width}, {size:,} bytes, seed {seed}, rate {rate:.4f}: {run['loss']:.4f}",
            flush=True,
        )

    record = {
        "title": "Loss of small language models against parameters and text",
        "command": "python -m tools.records.scaling",
        "device": runtime.device_name("cpu"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "data": corpus.source,
        "context": CONTEXT,
        "batch_size": BATCH,
        "train_seconds": sum(run["seconds"] for run in runs),
        "train_cpu_seconds": sum(run["cpu_seconds"] for run in runs),
    }
    record |= {"held_out_width": HELD_OUT, "fit": summarize(runs, HELD_OUT), "runs": runs}
    options.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")


def read(path: Path) -> list[Run]:
    """Return the runs that are done."""
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


def plan(runs: list[Run]) -> Iterator[tuple[int, float, int, int, str]]:
    """Yield (width, learning rate, bytes, seed, kind) of what is missing; `runs` grows meanwhile."""

    def done(kind: str, *key: float) -> bool:
        names = ["width", "bytes", "seed"] + ["rate"] * (kind == "sweep")
        return any(run["kind"] == kind and tuple(run[name] for name in names) == key for run in runs)

    for width in SWEEP_WIDTHS:
        for rate in SWEEP_RATES:
            if not done("sweep", width, SWEEP_BYTES, 0, rate):
                yield width, rate, SWEEP_BYTES, 0, "sweep"
    for size, seeds, widths in GRID:
        for width in widths:
            for seed in range(seeds):
                if not done("grid", width, size, seed):
                    yield width, learning_rate(width, runs), size, seed, "grid"


def learning_rate(width: int, runs: list[Run]) -> float:
    """Return the rate for a width: a line in log-log scale through the best rate of each swept width.

    The best rate is the lowest point of a parabola through the losses, within the rates that were tried.
    """
    best = []
    for swept in SWEEP_WIDTHS:
        points = [(np.log(r["rate"]), r["loss"]) for r in runs if (r["kind"], r["width"]) == ("sweep", swept)]
        bend, slope, _ = np.polyfit(*zip(*points, strict=True), 2)
        lowest = -slope / (2 * bend) if bend > 0 else min(points, key=lambda point: point[1])[0]
        best.append(np.clip(lowest, np.log(SWEEP_RATES[0]), np.log(SWEEP_RATES[-1])))
    line = np.polyfit(np.log(SWEEP_WIDTHS), best, 1)
    return float(np.exp(np.polyval(line, np.log(width))))


def train(corpus: text.Corpus, width: int, rate: float, size: int, seed: int) -> Run:
    """Train one model on `size` different bytes, each seen once, and return what came out."""
    runtime.seed_everything(seed)
    model = ByteLM(width, SIZES[width], width // 16, CONTEXT)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    steps, windows = size // (CONTEXT * BATCH), (len(corpus.train) - 1) // CONTEXT
    if steps * BATCH > windows:
        raise ValueError(f"{len(corpus.train):,} bytes of text are too few for {size:,}: use a larger corpus")
    starts = torch.randperm(windows)[: steps * BATCH] * CONTEXT
    run = training.fit(
        model,
        (windows_at(corpus.train, places) for places in starts.split(BATCH)),
        optimizer,
        steps=steps,
        unit="tokens",
        schedule=lambda done: cosine(warmup=0.1)((done * steps + 1) / (steps + 1)),  # neither end is zero
        clip_norm=1.0,
        every=max(1, steps - 1),  # the last row is that of the last step
        progress=False,
    )
    return {
        "width": width,
        "layers": SIZES[width],
        "parameters": measure.parameters(model),
        "block_parameters": measure.parameters(model.blocks),
        "bytes": size,
        "seed": seed,
        "rate": rate,
        "loss": validation_loss(model, corpus.valid),
        "last_train_loss": run.history[-1]["train_loss"],
        "seconds": run.stopwatch.seconds,
        "cpu_seconds": run.stopwatch.cpu_seconds,
    }


def windows_at(data: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs and targets (B, CONTEXT) of the windows that begin at `places`."""
    tokens = data[places[:, None] + torch.arange(CONTEXT + 1)].long()
    return tokens[:, :-1], tokens[:, 1:]


@torch.inference_mode()
def validation_loss(model: ByteLM, valid: Tensor, windows: int = 2048) -> float:
    """Return the loss in nats per byte on windows at even distances over the whole text, the same for all models."""
    model.eval()
    places = torch.linspace(0, len(valid) - CONTEXT - 1, windows).long()
    batches = [windows_at(valid, part) for part in places.split(128)]
    losses = [training.cross_entropy(model, batch) / training.count_targets(batch) for batch in batches]
    return torch.stack(losses).mean().item()


if __name__ == "__main__":
    main()
