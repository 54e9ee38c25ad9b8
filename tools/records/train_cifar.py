"""Train the speedrun network on CIFAR-10, resumable, and write the record that the results page shows.

Run it as ``python -m tools.records.train_cifar --epochs 16 --record book/records/cifar10_long.json``; called again
after an interruption, it goes on from its last checkpoint.
"""

import argparse
import json
from pathlib import Path

from bigmodel_helpers import data, evaluation, measure, runtime
from bigmodel_helpers.training import Run, checkpoint, recipes


def main(arguments: list[str] | None = None) -> Run:
    """Train, evaluate and, if asked to, write the record; returns the run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--widths", type=int, nargs=3, default=(64, 256, 256))
    parser.add_argument("--small-until", type=float, default=0.4, help="share of training on 24x24 pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=Path, help="folder to save in and to go on from")
    parser.add_argument("--record", type=Path, help="JSON file to write")
    parser.add_argument("--title", default="SpeedNet on CIFAR-10")
    parser.add_argument("--note", help="one line for the record, such as what else ran on the machine")
    parser.add_argument("--subset", type=int, help="train on so many images only (a test of this script)")
    options = parser.parse_args(arguments)

    train, test = data.load_cifar10()
    if options.subset is not None:
        train, test = train.subset(options.subset), test.subset(min(len(test), options.subset))
    print(train.source, flush=True)
    device = runtime.best_device()
    dtype = runtime.autocast_dtype(device)
    test_batches = data.Batches(test, 500, device=device, channels_last=True)

    run = recipes.train_speednet(
        train,
        epochs=options.epochs,
        batch_size=options.batch_size,
        widths=tuple(options.widths),
        small_until=options.small_until,
        seed=options.seed,
        evaluate=lambda model: {
            "test_accuracy": evaluation.accuracy(*evaluation.predict(model, test_batches, dtype=dtype)).value
        },
        checkpoints=options.checkpoints,
    )
    plain = evaluation.accuracy(*evaluation.predict(run.model, test_batches, dtype=dtype))
    mirrored = evaluation.accuracy(*evaluation.predict(run.model, test_batches, dtype=dtype, mirror=True))
    print(
        f"test accuracy {plain}, with the mirrored view {mirrored}, {run.stopwatch.seconds:.0f} s of training"
    )
    if options.record is not None:
        write_record(options, run, train, plain, mirrored)
    if options.checkpoints is not None:
        checkpoint.save(options.checkpoints / "final.safetensors", {"model": run.model.state_dict()})
    return run


def write_record(
    options: argparse.Namespace,
    run: Run,
    train: data.ImageSet,
    plain: evaluation.Proportion,
    mirrored: evaluation.Proportion,
) -> None:
    """Write what was run, where, on which data, and what came out."""
    chosen = {"epochs": options.epochs, "batch-size": options.batch_size, "small-until": options.small_until}
    chosen |= {"widths": " ".join(map(str, options.widths)), "seed": options.seed}
    facts = runtime.provenance(runtime.get_profile(), data=train.source).facts
    record = {
        "name": options.record.stem,
        "title": options.title,
        "chapter": "04_cifar_training",
        "command": " ".join(
            ["python -m tools.records.train_cifar", *(f"--{key} {value}" for key, value in chosen.items())]
        ),
        **{name: facts[name] for name in ("profile", "device", "torch", "python", "date", "data")},
        "seed": options.seed,
        "parameters": measure.parameters(run.model),
        "epochs": run.epoch,
        "batch_size": options.batch_size,
        "train_seconds": round(run.stopwatch.seconds, 1),
        "train_cpu_seconds": round(run.stopwatch.cpu_seconds, 1),
        "test_images": plain.total,
        "test_accuracy": plain.value,
        "test_interval": [round(end, 4) for end in plain.interval()],
        "test_mirror": mirrored.value,
        **({"note": options.note} if options.note else {}),
        "history": [
            {name: round(row[name], 4) for name in ("epoch", "seconds", "train_loss", "test_accuracy")}
            for row in run.history
        ],
    }
    options.record.parent.mkdir(parents=True, exist_ok=True)
    options.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
