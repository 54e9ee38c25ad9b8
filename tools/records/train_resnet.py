"""Train one of the CIFAR ResNets that the package ships, resumable, and write its weights and model card.

Run it as ``python -m tools.records.train_resnet cifar10_resnet --checkpoints DIR --out bigmodel_helpers/weights``;
called again after an interruption, it goes on from its last checkpoint.
"""

import argparse
import hashlib
import json
from pathlib import Path

from safetensors.torch import save_file

from bigmodel_helpers import data, evaluation, measure, runtime
from bigmodel_helpers.training import Run, recipes

NETWORKS = {
    "cifar10_resnet": {"classes": data.CLASSES, "widths": (48, 96, 192), "epochs": 20},
    "cifar6_resnet": {
        "classes": ("airplane", "automobile", "bird", "cat", "frog", "ship"),
        "widths": (32, 64, 128),
        "epochs": 14,
    },
}
LIMITS = (
    "Sees 32x32 pixels and only these classes: any other picture gets one of them too. Trained on JPEG copies of the "
    "images. Its probabilities were not calibrated."
)


def main(arguments: list[str] | None = None) -> Run:
    """Train, evaluate and write weights and card; returns the run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("--epochs", type=int, help="default: what the shipped weights got")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=Path, help="folder to save in and to go on from")
    parser.add_argument("--out", type=Path, help="folder for the weights and the card")
    parser.add_argument("--subset", type=int, help="train on so many images only (a test of this script)")
    options = parser.parse_args(arguments)

    network = NETWORKS[options.name]
    epochs = options.epochs or network["epochs"]
    train, test = (data.keep_classes(part, network["classes"]) for part in data.load_cifar10())
    if options.subset is not None:
        train, test = train.subset(options.subset), test.subset(min(len(test), options.subset))
    print(train.source, flush=True)
    device = runtime.best_device()
    dtype = runtime.autocast_dtype(device)
    test_batches = data.Batches(test, 500, device=device, channels_last=True)
    run = recipes.train_resnet(
        train,
        epochs=epochs,
        widths=network["widths"],
        batch_size=min(500, len(train)),
        seed=options.seed,
        evaluate=lambda model: {
            "test_accuracy": evaluation.accuracy(*evaluation.predict(model, test_batches, dtype=dtype)).value
        },
        checkpoints=options.checkpoints,
    )
    if options.out is not None:
        write(options.out, options.name, run, train, test, options.seed)
    return run


def write(
    folder: Path, name: str, run: Run, train: data.ImageSet, test: data.ImageSet, seed: int
) -> dict[str, object]:
    """Write NAME.safetensors in half precision and NAME.json, its card, measured on what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.safetensors"
    state = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in run.model.cpu().state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    save_file(state, file)
    run.model.load_state_dict(state, strict=False)
    batches = data.Batches(test, 500)
    plain = evaluation.accuracy(*evaluation.predict(run.model, batches))
    mirrored = evaluation.accuracy(*evaluation.predict(run.model, batches, mirror=True))
    facts = runtime.provenance(runtime.get_profile(), data=train.source).facts
    card = {
        "name": name,
        "architecture": "bigmodel_helpers.models.resnet.ResNet",
        "blocks": [2, 2, 2],
        "widths": list(NETWORKS[name]["widths"]),
        "classes": list(train.classes),
        "input": "RGB, 32x32 pixels, normalized with bigmodel_helpers.data.normalize",
        "size": 32,
        "mean": list(data.MEAN),
        "std": list(data.STD),
        "parameters": measure.parameters(run.model),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "data": train.source,
        "train_images": len(train),
        "recipe": f"bigmodel_helpers.training.recipes.train_resnet, {run.epoch} passes; "
        f"python -m tools.records.train_resnet {name}",
        "seed": seed,
        "train_seconds": round(run.stopwatch.seconds, 1),
        **{key: facts[key] for key in ("device", "torch", "date")},
        "test_images": plain.total,
        "test_accuracy": plain.value,
        "test_interval": [round(end, 4) for end in plain.interval()],
        "test_mirror": mirrored.value,
        "limits": LIMITS,
    }
    file.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(f"{file}: test accuracy {plain}, with the mirrored view {mirrored}")
    return card


if __name__ == "__main__":
    main()
