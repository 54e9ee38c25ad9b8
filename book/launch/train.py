"""Train a small classifier on one or several machines; a run that loses a process or a host goes on.

Start it with torchrun: torchrun.sh, slurm.sbatch and kubernetes.yaml show how. It needs only PyTorch 2.11 or
newer. Each start resumes from the last checkpoint. The batch of a step depends on the seed and the step alone,
and the gradient is the mean over all of it, so any number of processes comes to the same result.
"""

import argparse
import os
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer

SEED, EXAMPLES, FEATURES, CLASSES = 0, 4096, 20, 5


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps in total")
    parser.add_argument("--batch", type=int, default=64, help="examples of a step, all processes together")
    parser.add_argument("--save-every", type=int, default=20, help="steps between two checkpoints")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoint.pt"), help="on shared storage")
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds of pause per step, to watch it")
    return parser.parse_args()


def make_data() -> tuple[Tensor, Tensor]:
    """Return inputs and their classes, the same in every process and every run."""
    generator = torch.Generator().manual_seed(SEED)
    inputs = torch.randn(EXAMPLES, FEATURES, generator=generator)
    return inputs, (inputs @ torch.randn(FEATURES, CLASSES, generator=generator)).argmax(dim=1)


def batch_indices(step: int, batch: int) -> Tensor:
    """Return which examples make the global batch of `step`."""
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + step)
    return torch.randint(EXAMPLES, (batch,), generator=generator)


def save(path: Path, step: int, model: nn.Module, optimizer: Optimizer) -> None:
    """Write a checkpoint that is whole or absent: first under another name, then renamed."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: Path) -> dict | None:
    """Return in every process the checkpoint that rank 0 finds; None if there is none."""
    found = [None]
    if dist.get_rank() == 0 and path.exists():
        found = [torch.load(path, map_location="cpu", weights_only=True)]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def main() -> None:
    args = parse_arguments()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=5))  # the longest wait for a silent host
    rank, world, start = dist.get_rank(), dist.get_world_size(), 0

    torch.manual_seed(SEED)
    model = nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, CLASSES)).to(device)
    optimizer = AdamW(model.parameters(), lr=3e-3)
    if (state := load(args.checkpoint)) is not None:
        start = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    ddp = DistributedDataParallel(model)
    inputs, classes = (tensor.to(device) for tensor in make_data())

    for step in range(start + 1, args.steps + 1):
        share = batch_indices(step, args.batch)[rank::world].to(device)  # may be uneven, even empty
        total = cross_entropy(ddp(inputs[share]), classes[share], reduction="sum")
        optimizer.zero_grad()
        (total * world / args.batch).backward()  # DDP divides by `world`: what remains is the global mean
        optimizer.step()
        if step % args.save_every == 0 or step == args.steps:
            loss = total.detach() / args.batch
            dist.all_reduce(loss)
            if rank == 0:
                save(args.checkpoint, step, model, optimizer)
                attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
                print(f"step {step} loss {loss.item():.4f} world {world} attempt {attempt}", flush=True)
        time.sleep(args.sleep)

    if rank == 0:
        with torch.no_grad():
            loss = cross_entropy(model(inputs[:1024]), classes[:1024])
        print(f"final loss {loss.item():.9f} world {world}", flush=True)
    del ddp  # before the process group that it uses
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
