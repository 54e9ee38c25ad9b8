"""What chapter 11 claims about training a language model: CPU-seconds to nanoGPT's loss, against nanoGPT's recipe."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigmodel_helpers import data, runtime
from bigmodel_helpers.models import Transformer, TransformerConfig
from bigmodel_helpers.training import optim
from tools.bench.figure import Figure, figure

LENGTH, CHARACTERS = 64, 65
TRAIN_SHARE = 0.9
Step = tuple[Tensor, Tensor]
Schedule = Callable[[float], float]


def nanogpt(images: data.ImageSet) -> Iterator[Figure]:
    """Chapter 11: CPU-seconds to the loss, about 1.90, at which nanoGPT's published run ends, its recipe and ours.

    Both train on the characters of tinyshakespeare in rows of 64, on one thread, in networks of 0.8 million
    parameters. The loss is that of the whole last tenth of the text.
    """
    file = runtime.data_folder("tinyshakespeare.txt")
    if file is None or not file.is_file():
        print("nanogpt: needs tinyshakespeare.txt; put it into BIGMODEL_DATA", flush=True)
        return
    signs = file.read_text(encoding="utf-8")
    numbers = {sign: number for number, sign in enumerate(sorted({*signs}))}
    text = torch.tensor([numbers[sign] for sign in signs])
    cut = int(TRAIN_SHARE * len(text))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    runtime.keep_freed_memory()
    try:
        ratios = []
        for seed in range(3):
            theirs, goal = run(_theirs(seed), text[:cut], text[cut:], 12, 2000, seed)
            ours, loss = run(_ours(seed), text[:cut], text[cut:], 24, 220, seed)
            print(f"seed {seed}: nanoGPT's recipe {goal:.3f} after {theirs:.0f} CPU-seconds", flush=True)
            print(f"seed {seed}: chapter 11's recipe {loss:.3f} after {ours:.0f}", flush=True)
            if loss > goal:
                raise RuntimeError(
                    f"our run ends at {loss:.3f}, nanoGPT's at {goal:.3f}: it needs more steps"
                )
            ratios.append(ours / theirs)
    finally:
        torch.set_num_threads(threads)
    what = "CPU-seconds to the loss of nanoGPT's run on tinyshakespeare, chapter 11's recipe over nanoGPT's"
    yield figure("nanogpt", what, "x", ratios, floor=0.33, goal=0.25, less=True)


def _theirs(seed: int) -> tuple[nn.Module, list[torch.optim.Optimizer], Schedule, float | None]:
    """Return nanoGPT's network, optimizer, schedule and clipping, as its README has them for a CPU."""
    torch.manual_seed(seed)
    sizes = {"layers": 4, "width": 128, "hidden": 512, "heads": 4, "kv_heads": 4, "vocabulary": CHARACTERS}
    parts = {"positions": LENGTH, "bias": True, "gated": False, "tied": True}
    model = Transformer(TransformerConfig(**sizes, **parts))
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.bias = None
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.normal_(parameter, std=0.02 / math.sqrt(8))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    return model, [adamw], optim.cosine(warmup=0.05, end=0.1), 1.0


def _ours(seed: int) -> tuple[nn.Module, list[torch.optim.Optimizer], Schedule, float | None]:
    """Return the network, optimizers and schedule of chapter 11, with an output layer of its own."""
    torch.manual_seed(seed)
    model = Transformer(TransformerConfig(4, 128, 344, 4, 4, CHARACTERS))
    nn.init.zeros_(model.lm_head.weight)
    matrices, others = optim.split_parameters(model)
    muon = optim.Muon(matrices, 0.02, momentum=0.95, rescale=False)
    adamw = torch.optim.AdamW(others, lr=0.006, betas=(0.9, 0.95), weight_decay=0, fused=True)
    return model, [muon, adamw], optim.warmup_stable_decay(warmup=0.05, decay=0.5), None


def run(
    parts: tuple[nn.Module, list[torch.optim.Optimizer], Schedule, float | None],
    train: Tensor,
    valid: Tensor,
    rows: int,
    steps: int,
    seed: int,
) -> tuple[float, float]:
    """Train, and return the CPU-seconds of it and the loss on `valid` at its end."""
    model, optimizers, schedule, clip = parts
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    start = time.process_time()
    for step, (inputs, targets) in enumerate(itertools.islice(_windows(train, rows, seed), steps)):
        for optimizer, full in zip(optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, full, strict=True):
                group["lr"] = rate * schedule((step + 1) / (steps + 1))
        F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return time.process_time() - start, _mean_loss(model, valid)


def _windows(text: Tensor, rows: int, seed: int) -> Iterator[Step]:
    chance = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(text) - LENGTH, (rows, 1), generator=chance)
        window = text[starts + torch.arange(LENGTH + 1)]
        yield window[:, :-1], window[:, 1:]


@torch.no_grad()
def _mean_loss(model: nn.Module, text: Tensor) -> float:
    model.eval()
    count = (len(text) - 1) // LENGTH
    inputs, targets = (text[shift : shift + count * LENGTH].view(count, LENGTH) for shift in (0, 1))
    pairs: Iterable[Step] = zip(inputs.split(256), targets.split(256), strict=True)
    total = partial(F.cross_entropy, reduction="sum")
    loss = sum(float(total(model(x).flatten(0, 1), y.flatten())) for x, y in pairs)
    model.train()
    return loss / (count * LENGTH)
