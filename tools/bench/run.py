"""Measure what the book promises about speed, and print each figure with its spread, floor and goal.

``python -m tools.bench.run [NAME ...]`` runs all of them or those named; ``--record FILE`` also writes them as JSON
for the results page. A figure below its floor makes the exit status 1.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bigmodel_helpers import data, evaluation, measure, runtime, training
from bigmodel_helpers.models import ConvNet
from bigmodel_helpers.training import recipes
from tools.bench import foundations, judged, language, serving
from tools.bench import images as bench_images
from tools.bench.figure import Figure, are_real, figure


class Photos(Dataset):
    """The article's way to a batch: one PIL image at a time."""

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])

    def __init__(self, images: data.ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        photo = Image.fromarray(self.images.images[index].permute(1, 2, 0).numpy())
        return self.transform(photo), int(self.images.labels[index])


def article(train: data.ImageSet) -> Iterator[Figure]:
    """The article's loop (batch 4, PIL, two workers, the loss read each step) against ours, the same network."""
    device, dtype = runtime.best_device(), runtime.autocast_dtype(runtime.best_device())
    runtime.keep_freed_memory()
    theirs, ours = ConvNet().to(device), ConvNet().to(device, memory_format=torch.channels_last)
    their_optimizer = torch.optim.SGD(theirs.parameters(), lr=0.001, momentum=0.9)
    our_optimizer = torch.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9, fused=True)
    some, more = train.subset(min(len(train), 4000)), train.subset(min(len(train), 20_000))
    loader = DataLoader(Photos(some), 4, shuffle=True, num_workers=2, persistent_workers=True)
    augment = data.Augment(flip=True, shift=2)
    batches = data.Batches(more, 512, shuffle=True, augment=augment, device=device, channels_last=True)

    def their_loop() -> None:
        for images, labels in loader:
            their_optimizer.zero_grad()
            loss = F.cross_entropy(theirs(images.to(device)), labels.to(device))
            loss.backward()
            their_optimizer.step()
            loss.item()

    def our_loop() -> None:
        training.fit(ours, batches, our_optimizer, steps=len(batches), dtype=dtype, progress=False)

    ratios = []
    for run in range(6):
        their_rate = measure.throughput(their_loop, len(some), repeats=1, warmup=int(run == 0)).median
        our_rate = measure.throughput(our_loop, len(more), repeats=1, warmup=0).median
        if run > 0:
            ratios.append(our_rate / their_rate)
    yield figure(
        "article", "images/s, our loop over the article's, its network", "x", ratios, floor=4, goal=6.5
    )


def overhead(train: data.ImageSet) -> Iterator[Figure]:
    """`training.fit` against the same steps written bare."""
    device = runtime.best_device()
    runtime.keep_freed_memory()
    small = train.subset(min(len(train), 5120))
    batches = data.Batches(small, 128, shuffle=True, device=device, channels_last=True)

    def new() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = ConvNet().to(device, memory_format=torch.channels_last)
        return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    bare_model, bare_optimizer = new()
    model, optimizer = new()

    def bare() -> None:
        for images, labels in batches:
            F.cross_entropy(bare_model(images), labels).backward()
            bare_optimizer.step()
            bare_optimizer.zero_grad()

    def packaged() -> None:
        training.fit(model, batches, optimizer, steps=len(batches), progress=False)

    ratio = measure.compare(bare, packaged, repeats=9)
    yield figure(
        "overhead", "time, packaged loop over bare loop", "x", ratio.values, floor=1.03, goal=1.01, less=True
    )


def train(images: data.ImageSet) -> Iterator[Figure]:
    """The laptop run of chapter 4 on the real images: accuracy and minutes."""
    if not are_real("train", images):
        return
    device = runtime.best_device()
    test = data.Batches(data.load_cifar10()[1], 500, device=device, channels_last=True)
    run = recipes.train_speednet(images, epochs=4)
    logits, labels = evaluation.predict(run.model, test, dtype=runtime.autocast_dtype(device))
    accuracy = evaluation.accuracy(logits, labels)
    low, high = (100 * end for end in accuracy.interval())
    yield Figure(
        "accuracy", "test accuracy of the laptop run", "%", 100 * accuracy.value, low, high, 1, 86, 88
    )
    minutes = run.stopwatch.seconds / 60
    yield Figure(
        "minutes", "training time of the laptop run", "min", minutes, minutes, minutes, 1, 8, 5, True
    )


def imports(train: data.ImageSet) -> Iterator[Figure]:
    """What `import bigmodel_helpers` costs once torch is there."""
    code = (
        "import torch, time; start = time.perf_counter(); import bigmodel_helpers; "
        "print(1000 * (time.perf_counter() - start))"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(7)
    ]
    yield figure("import", "import bigmodel_helpers beyond torch", "ms", times, floor=100, goal=20, less=True)


BENCHES: dict[str, Callable[[data.ImageSet], Iterator[Figure]]] = {
    "imports": imports,
    "fused": foundations.fused,
    "training_memory": foundations.training_memory,
    "checkpointing": foundations.checkpointing,
    "convolution": foundations.convolution,
    "moved_pixels": foundations.moved_pixels,
    "overhead": overhead,
    "article": article,
    "photos": bench_images.photos,
    "graph_memory": bench_images.graph_memory,
    "mistakes": bench_images.mistakes,
    "few_labels": bench_images.few_labels,
    "far_task": bench_images.far_task,
    "freezing": bench_images.freezing,
    "smaller": judged.smaller,
    "half_channels": judged.half_channels,
    "pairing": judged.pairing,
    "twins": judged.twins,
    "nanogpt": language.nanogpt,
    "serving": serving.serving,
    "train": train,
}


def record(path: Path, facts: dict[str, str], figures: list[Figure]) -> None:
    """Write `figures` into the JSON file `path`; those that it holds under other names stay, with their dates.

    Raises:
        ValueError: the file holds figures of another machine, torch or data set.
    """
    made = {key: value for key, value in facts.items() if key != "date"}
    kept: dict[str, dict[str, object]] = {}
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        kept = {each["name"]: each for each in old.pop("figures")}
        if kept.keys() - {figure.name for figure in figures} and old != made:
            raise ValueError(
                f"{path.name} holds figures of other facts ({old}): name a new file, or measure all"
            )
    kept |= {f.name: asdict(f) | {"holds": f.holds, "date": facts["date"]} for f in figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**made, "figures": list(kept.values())}, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Run the benchmarks named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(BENCHES)}; default: all")
    parser.add_argument("--record", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}: choose from {', '.join(BENCHES)}")
    images, _ = data.load_cifar10(download=False)
    facts = runtime.provenance(runtime.get_profile(), data=images.source).facts
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    figures = []
    for name in options.names or BENCHES:
        for result in BENCHES[name](images):
            print(result, flush=True)
            figures.append(result)
    if options.record is not None:
        try:
            record(options.record, facts, figures)
        except ValueError as error:
            parser.error(str(error))
    return 0 if all(f.holds for f in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
