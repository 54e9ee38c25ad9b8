"""Measure on one NVIDIA card: a training step of GPT-2's shape, and the recipes for images; write `book/gpu.json`.

Run it as ``python -m tools.records.gpu``, with nothing else on the card. Each row gets a process of its own.
"""

import argparse
import datetime
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bigmodel_helpers import data, measure, models, runtime, training
from bigmodel_helpers.measure import budgets
from bigmodel_helpers.training import recipes

GPT2 = models.TransformerConfig(
    12, 768, 3072, 12, 12, 50_304, positions=1024, bias=True, gated=False, tied=True
)
STEPS = ((32, "nothing"), (32, "network"), (32, "network and loss"), (64, "network and loss"))
IMAGES = (
    ("train_speednet", 2000, None),
    ("train_speednet", 2000, "default"),
    ("train_resnet", 500, None),
    ("train_resnet", 500, "default"),
    ("train_resnet", 500, "reduce-overhead"),
    ("train_resnet", 2000, "default"),
)


def language_step(rows: int, compiled: str) -> dict[str, Any]:
    """Time a step of AdamW on `rows` rows of 1,024 tokens in bfloat16; `compiled` says what the compiler gets."""
    torch.manual_seed(0)
    model, loss_of = models.Transformer(GPT2).cuda(), training.cross_entropy
    if compiled == "network":
        model.compile()
    if compiled == "network and loss":
        loss_of = torch.compile(loss_of)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, fused=True)
    tokens = torch.randint(GPT2.vocabulary, (rows, GPT2.positions + 1), device="cuda")
    batch = tokens[:, :-1], tokens[:, 1:]

    def eight_steps() -> None:
        for _ in range(8):
            with torch.autocast("cuda", torch.bfloat16):
                loss = loss_of(model, batch) / batch[1].numel()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    timing = measure.time_call(eight_steps, repeats=4, warmup=1, device="cuda")
    return {
        "rows": rows,
        "compiled": compiled,
        "seconds": [seconds / 8 for seconds in timing.seconds],
        "peak_bytes": torch.cuda.max_memory_allocated(),
    }


def images(recipe: str, batch_size: int, mode: str | None) -> dict[str, Any]:
    """Return images a second in each pass of a recipe over CIFAR-10, the first passes, which compile, left out."""
    network = {"train_speednet": models.SpeedNet, "train_resnet": models.ResNet}[recipe]
    begin = network.__init__

    def compiled(self: torch.nn.Module, *arguments: Any) -> None:
        begin(self, *arguments)
        self.compile(mode=mode)

    if mode is not None:
        network.__init__ = compiled
    train, _ = data.load_cifar10()
    fit = partial(getattr(recipes, recipe), batch_size=batch_size, device="cuda", progress=False)
    fit(train.subset(12 * batch_size), epochs=4)
    run = fit(train, epochs=8 if recipe == "train_speednet" else 2)
    return {
        "recipe": recipe,
        "batch_size": batch_size,
        "compiled": mode,
        "images_per_second": [row["images_per_second"] for row in run.history],
    }


def alone(work: Any, *arguments: Any) -> dict[str, Any]:
    """Return what `work` returns in a process of its own, whose memory and compiled code go with it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def main() -> None:
    """Measure all rows and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("book", "gpu.json"))
    options = parser.parse_args()
    record = {
        "command": "python -m tools.records.gpu",
        "device": runtime.device_name("cuda"),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "parameters": budgets.parameters(GPT2),
        "flops_per_token": budgets.training_flops(GPT2, GPT2.positions),
        "bytes_by_formula": {
            str(rows): 16 * budgets.parameters(GPT2) + budgets.activation_bytes(GPT2, rows * GPT2.positions)
            for rows, _ in STEPS
        },
        "steps": [alone(language_step, *row) for row in STEPS],
        "images": [alone(images, *row) for row in IMAGES],
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
