"""Measure what the book promises about speed, and print each figure with its spread, floor and goal.

``python tools/bench.py [NAME ...]`` runs all of them or those named; ``--record FILE`` also writes them as JSON for
the results page. A figure below its floor makes the exit status 1.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import resnet50

from bigmodel_helpers import (
    data,
    evaluation,
    inference,
    measure,
    optim,
    pretrained,
    recipes,
    runtime,
    training,
    transfer,
)
from bigmodel_helpers.models.convnet import ConvNet
from bigmodel_helpers.models.resnet import ResNet


@dataclass(frozen=True)
class Figure:
    """One promise: what was measured, its median and range, and what it must reach."""

    name: str
    what: str
    unit: str
    median: float
    low: float
    high: float
    runs: int
    floor: float
    goal: float
    less_is_better: bool = False

    @property
    def holds(self) -> bool:
        """Say whether the median reaches the floor."""
        return self.median <= self.floor if self.less_is_better else self.median >= self.floor

    def __str__(self) -> str:
        spread = f"{self.median:.3g} {self.unit} ({self.low:.3g}-{self.high:.3g}, runs: {self.runs})"
        verdict = "holds" if self.holds else "BELOW THE FLOOR"
        return f"{self.what}: {spread}; floor {self.floor:g}, goal {self.goal:g}: {verdict}"


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
        training.fit(ours, batches, our_optimizer, epochs=1, dtype=dtype, progress=False)

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
        training.fit(model, batches, optimizer, epochs=1, progress=False)

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
    logits, labels = evaluation.predict(run.eval_model, test, dtype=runtime.autocast_dtype(device))
    accuracy = evaluation.accuracy(logits, labels)
    low, high = (100 * end for end in accuracy.interval())
    yield Figure(
        "accuracy", "test accuracy of the laptop run", "%", 100 * accuracy.value, low, high, 1, 86, 88
    )
    minutes = run.stopwatch.seconds / 60
    yield Figure(
        "minutes", "training time of the laptop run", "min", minutes, minutes, minutes, 1, 8, 5, True
    )


def are_real(name: str, images: data.ImageSet) -> bool:
    """Say whether these are the real images, and print that the benchmark needs them where they are not."""
    real = images.source.startswith("CIFAR-10")
    if not real:
        print(f"{name}: needs the real images; set BIGMODEL_DATA", flush=True)
    return real


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


def photos(train: data.ImageSet) -> Iterator[Figure]:
    """ResNet-50 on photos: the article's path (training mode, a graph, 32 bits) against that of chapter 5."""
    device = runtime.best_device()
    dtype = runtime.autocast_dtype(device) or torch.float32
    runtime.keep_freed_memory()  # for both: else the article's path pays for fresh memory, too
    article = resnet50().to(device)
    folded = inference.fold_batch_norm(resnet50().to(device).eval())
    torch._inductor.config.freezing = True
    ours = torch.compile(folded.to(dtype, memory_format=torch.channels_last), dynamic=False)
    for batch, floor, goal in ((1, 2.5, 2.7), (16, 2.8, 3.6)):
        x = torch.rand(batch, 3, 224, 224, device=device)
        x_ours = x.to(dtype, memory_format=torch.channels_last)
        run_ours = torch.inference_mode()(partial(ours, x_ours))
        ratio = measure.compare(run_ours, partial(article, x), repeats=9, warmup=2, device=device)
        what = f"photos/s, ResNet-50, chapter 5 over the article's path, batch {batch}"
        yield figure(f"photos-{batch}", what, "x", list(ratio.values), floor=floor, goal=goal)


def mistakes(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 5: what training mode costs when photos come one by one."""
    if not are_real("mistakes", train):
        return
    test = data.load_cifar10()[1]
    model = pretrained.load("cifar10_resnet").model
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    ratios = []
    for seed in range(3):
        some = test.subset(500, seed=seed)
        x = data.normalize(some.images)
        errors = {}
        for training_mode in (False, True):
            model.train(training_mode)
            with torch.inference_mode():
                logits = torch.cat([model(one) for one in x.split(1 if training_mode else 250)])
            errors[training_mode] = 1 - evaluation.accuracy(logits, some.labels).value
        ratios.append(errors[True] / errors[False])
    what = "errors, single photos in training mode over evaluation mode"
    yield figure("mistakes", what, "x", ratios, floor=3, goal=6)


NEW_CLASSES = ("deer", "dog", "horse", "truck")


def few_labels(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 6: twenty labels a class, a network from random numbers against a probe on a trained one."""
    if not are_real("few_labels", train):
        return
    device = runtime.best_device()
    dtype = runtime.autocast_dtype(device)
    test = transfer.keep_classes(data.load_cifar10()[1], NEW_CLASSES).subset(1000)
    test_batches = data.Batches(test, 250, device=device, channels_last=True)
    trained = pretrained.load("cifar6_resnet").model.to(device)
    found, labels = transfer.features(trained, test_batches, dtype)
    ratios = []
    for seed in range(3):
        few = transfer.few_shot(transfer.keep_classes(train, NEW_CLASSES), 20, seed)
        known, known_labels = transfer.features(trained, data.Batches(few, 80), dtype)
        head = transfer.linear_probe(known, known_labels, 4)
        probed = evaluation.accuracy(head(found).detach(), labels).value

        runtime.seed_everything(seed)
        fresh = ResNet((2, 2, 2), (32, 64, 128), 4).to(device, memory_format=torch.channels_last)
        augment = data.Augment(flip=True, shift=2)
        batches = data.Batches(few, 32, shuffle=True, augment=augment, device=device, channels_last=True)
        optimizer = torch.optim.SGD(fresh.parameters(), lr=0.03, momentum=0.9, nesterov=True)
        schedule = optim.triangle(warmup=0.1)
        training.fit(fresh, batches, optimizer, epochs=21, schedule=schedule, dtype=dtype, progress=False)
        alone = evaluation.accuracy(*evaluation.predict(fresh, test_batches, dtype=dtype)).value
        ratios.append((1 - alone) / (1 - probed))
    what = "errors, from random numbers over a probe on trained features, 20 labels a class"
    yield figure("few_labels", what, "x", ratios, floor=1.5, goal=2)


def freezing(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 6: a training step of the last stage against one of all weights."""
    device = runtime.best_device()
    dtype = runtime.autocast_dtype(device)
    runtime.keep_freed_memory()
    x = torch.randn(64, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    y = torch.arange(64, device=device) % 4

    def step(model: nn.Module) -> None:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        model.zero_grad(set_to_none=True)

    def new() -> nn.Module:
        model = transfer.new_head(pretrained.load("cifar6_resnet").model, 4)
        return model.to(device, memory_format=torch.channels_last).train()

    last_stage = transfer.train_only(new(), "blocks.4", "blocks.5", "head")
    ratio = measure.compare(partial(step, last_stage), partial(step, new()), repeats=9, device=device)
    what = "steps/s, last stage trained over all weights trained"
    yield figure("freezing", what, "x", list(ratio.values), floor=1.5, goal=2)


def figure(
    name: str, what: str, unit: str, values: list[float], *, floor: float, goal: float, less: bool = False
) -> Figure:
    """Return the median and the range of `values` as a `Figure`."""
    return Figure(
        name, what, unit, statistics.median(values), min(values), max(values), len(values), floor, goal, less
    )


BENCHES: dict[str, Callable[[data.ImageSet], Iterator[Figure]]] = {
    "imports": imports,
    "overhead": overhead,
    "article": article,
    "photos": photos,
    "mistakes": mistakes,
    "few_labels": few_labels,
    "freezing": freezing,
    "train": train,
}


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
        record = {**facts, "figures": [asdict(f) | {"holds": f.holds} for f in figures]}
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if all(f.holds for f in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
