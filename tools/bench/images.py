"""What chapters 5 and 6 claim, as ratios: inference on photos, and fine-tuning with few labels."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet50

from bigmodel_helpers import compression, data, evaluation, measure, runtime, training
from bigmodel_helpers.models import ResNet, pretrained
from bigmodel_helpers.training import optim, transfer
from tools.bench.figure import Figure, are_real, figure


def photos(train: data.ImageSet) -> Iterator[Figure]:
    """ResNet-50 on photos: the article's path (training mode, a graph, 32 bits) against that of chapter 5."""
    device = runtime.best_device()
    dtype = runtime.autocast_dtype(device) or torch.float32
    runtime.keep_freed_memory()  # for both: else the article's path pays for fresh memory, too
    article = resnet50().to(device)
    folded = compression.fold_batch_norm(resnet50().to(device).eval())
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
    """Chapter 5: what each mistake costs, as errors over those of the same network asked right."""
    if not are_real("mistakes", train):
        return
    test = data.load_cifar10()[1]
    model = pretrained.load("cifar10_resnet").model
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    ratios: dict[str, list[float]] = {}
    for seed in range(3):
        some = test.subset(1000, seed=seed)
        right = data.normalize(some.images)
        wide = F.pad(some.images.float(), (8, 8, 0, 0), mode="reflect")
        squeezed = F.interpolate(wide, (32, 32), mode="bilinear", antialias=True).round().to(torch.uint8)
        fewest = errors(model.eval(), right, some.labels)
        wrong = {
            "mean and spread 0.5": errors(model, some.images / 255 * 2 - 1, some.labels),
            "squeezed": errors(model, data.normalize(squeezed), some.labels),
            "swapped": errors(model, data.normalize(some.images.flip(1).contiguous()), some.labels),
            "single photos in training mode": errors(model.train(), right[:500], some.labels[:500], batch=1),
        }
        for name, share in wrong.items():
            ratios.setdefault(name, []).append(share / fewest)
    for name, (floor, goal) in MISTAKES.items():
        slug = f"mistake-{name.split()[0]}"
        yield figure(slug, f"errors, {name} over asked right", "x", ratios[name], floor=floor, goal=goal)


MISTAKES = {
    "mean and spread 0.5": (1.2, 1.5),
    "squeezed": (1.2, 1.5),
    "swapped": (1.2, 1.5),
    "single photos in training mode": (3, 6),
}


@torch.inference_mode()
def errors(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, batch: int = 250) -> float:
    """Return the share of wrong answers, in the mode the model is in."""
    logits = torch.cat([model(part) for part in x.split(batch)])
    return 1 - evaluation.accuracy(logits, labels).value


def graph_memory(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 5: peak memory of ResNet-50 on 16 photos, with a graph over without."""
    device = runtime.best_device()
    model = resnet50().to(device).eval()
    x = torch.rand(16, 3, 224, 224, device=device)
    ratios = []
    for _ in range(3):
        with_graph = measure.peak_memory(partial(model, x), device)
        ratios.append(with_graph / measure.peak_memory(torch.inference_mode()(partial(model, x)), device))
    what = "peak memory, ResNet-50 on 16 photos, with a graph over inference_mode"
    yield figure("graph_memory", what, "x", ratios, floor=1.7, goal=3)


NEW_CLASSES = ("deer", "dog", "horse", "truck")


def few_labels(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 6: fifty labels a class; networks from random numbers and trained ones; what is forgotten."""
    if not are_real("few_labels", train):
        return
    everything = data.load_cifar10()[1]
    old_names = pretrained.load("cifar6_resnet").classes
    new = batches(data.keep_classes(everything, NEW_CLASSES).subset(1000))
    old = batches(data.keep_classes(everything, old_names).subset(600))
    from_scratch, forgotten = [], []
    for seed in range(3):
        few = data.few_shot(data.keep_classes(train, NEW_CLASSES), 50, seed)
        body = pretrained.load("cifar6_resnet").model
        old_head = body.head
        known, labels = transfer.features(body, batches(few))
        probed = wrong(transfer.linear_probe(known, labels, 4), *transfer.features(body, new))
        before = wrong(old_head, *transfer.features(body, old))

        runtime.seed_everything(seed)
        fresh = learn(ResNet((2, 2, 2), (32, 64, 128), 4), few, seed)
        alone = 1 - evaluation.accuracy(*evaluation.predict(fresh, new)).value
        from_scratch.append(alone / probed)

        tuned = learn(transfer.new_head(body, 4), few, seed)
        forgotten.append(wrong(old_head, *transfer.features(tuned, old)) / before)
    what = "errors, from random numbers over a probe on trained features, 50 labels a class"
    yield figure("few_labels", what, "x", from_scratch, floor=1.5, goal=2)
    what = "errors on the old task, after training all weights over before, 50 labels a class"
    yield figure("forgetting", what, "x", forgotten, floor=1.5, goal=3)


def batches(images: data.ImageSet) -> data.Batches:
    """Return batches for evaluation."""
    return data.Batches(images, 250, device=runtime.best_device(), channels_last=True)


def wrong(head: nn.Module, features: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of features that the head names wrong."""
    return 1 - evaluation.accuracy(head(features).detach(), labels).value


def learn(model: nn.Module, few: data.ImageSet, seed: int) -> nn.Module:
    """Train all weights as chapter 6 does, and return the model."""
    device = runtime.best_device()
    model.to(device, memory_format=torch.channels_last)
    augment = data.Augment(flip=True, shift=2)
    seen = data.Batches(
        few, 32, shuffle=True, augment=augment, device=device, channels_last=True, seed=seed, drop_last=True
    )
    training.fit(
        model,
        seen,
        torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, nesterov=True),
        steps=8 * len(seen),
        schedule=optim.triangle(warmup=0.1),
        dtype=runtime.autocast_dtype(device),
        progress=False,
    )
    return model


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


def far_task(train: data.ImageSet) -> Iterator[Figure]:
    """Chapter 6: ten scanned digits of each kind, the features of a network for photos over the raw pixels."""
    scans, _ = data.load_digits()
    side = F.interpolate(scans.images.float(), (32, 32), mode="bilinear").round().to(torch.uint8)
    photo_like = data.ImageSet(side.expand(-1, 3, -1, -1).contiguous(), scans.labels, DIGITS, scans.source)
    some = photo_like.subset(min(len(photo_like), 1400))
    found, labels = transfer.features(pretrained.load("cifar6_resnet").model, batches(some))
    pixels = some.images[:, 0].flatten(1).float() / 255
    ratios = []
    for seed in range(3):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        known = torch.cat([order[labels[order] == digit][:10] for digit in range(10)])
        rest = order[~torch.isin(order, known)]
        fewest = [
            min(
                wrong(transfer.linear_probe(x[known], labels[known], 10, penalty=p), x[rest], labels[rest])
                for p in (1e-4, 0.1, 10.0, 1000.0)
            )
            for x in (found, pixels)
        ]
        ratios.append(fewest[0] / fewest[1])
    what = "errors on scanned digits, features of photos over raw pixels, 10 labels a digit"
    yield figure("far_task", what, "x", ratios, floor=1, goal=1.2)


DIGITS = tuple("0123456789")
