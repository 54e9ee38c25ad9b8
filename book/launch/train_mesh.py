"""Train a small transformer that tensor parallelism and FSDP2 split over a mesh of processes.

Start it with torchrun, as train.py: PROGRAM=train_mesh.py PROCESSES=4 bash torchrun.sh --tp 2. It needs only
PyTorch 2.11 or newer. Each start resumes from the last checkpoint, also from one that a mesh of another shape wrote.
The batch of a step depends on the seed and the step alone, and the gradient is the mean over all of it, so every
mesh comes to the same result, up to rounding.
"""

import argparse
import logging
import os
import shutil
import time
from concurrent.futures import Future
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.distributed.tensor.parallel as tp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.optim import AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

SEED, VOCABULARY, HEAD_WIDTH = 0, 64, 16


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tp", type=int, default=1, help="processes that share a layer; dp is all / tp")
    parser.add_argument("--layers", type=int, default=2, help="blocks of the transformer")
    parser.add_argument("--heads", type=int, default=4, help=f"heads of attention, each {HEAD_WIDTH} wide")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of a row")
    parser.add_argument("--batch", type=int, default=16, help="rows of a step, all processes together")
    parser.add_argument("--clip", type=float, default=0.5, help="largest norm of the gradient")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps in total")
    parser.add_argument("--save-every", type=int, default=20, help="steps between two checkpoints")
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("checkpoints"), help="folder, on shared storage"
    )
    parser.add_argument("--async-save", action="store_true", help="train on while a checkpoint is written")
    parser.add_argument("--checkpoint-activations", action="store_true", help="compute twice, to save memory")
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds of pause per step, to watch it")
    args = parser.parse_args()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    for count, things in (world, "processes"), (args.heads, "heads"), (args.tokens, "tokens"):
        if args.tp < 1 or count % args.tp:
            raise SystemExit(
                f"train_mesh.py: --tp {args.tp} does not divide {count} {things}: take a divisor"
            )
    return args


# The model knows nothing of processes: it works with as many heads as its weights have.


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(2, (-1, HEAD_WIDTH)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


def rotate(x: Tensor) -> Tensor:
    """Turn pairs of numbers of each head, (batch, heads, tokens, width), by angles that grow with the position."""
    first, second = x.chunk(2, dim=-1)
    speeds = 1000 ** -torch.linspace(0, 1, HEAD_WIDTH // 2, device=x.device)
    angles = torch.arange(x.shape[2], device=x.device)[:, None] * speeds
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class SwiGLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(width, 3 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(3 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, width: int, twice: bool) -> None:
        super().__init__()
        self.norm1, self.attention = nn.RMSNorm(width), Attention(width)
        self.norm2, self.mlp = nn.RMSNorm(width), SwiGLU(width)
        self.twice = twice  # compute the activations again in the backward pass, instead of keeping them

    def compute(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.compute, x, use_reentrant=False) if self.twice else self.compute(x)


class Transformer(nn.Module):
    def __init__(self, layers: int, width: int, twice: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.Sequential(*(Block(width, twice) for _ in range(layers)))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the cross-entropy of each next token, summed, for rows (batch, tokens + 1)."""
        scores = self.head(self.norm(self.blocks(self.embedding(rows[:, :-1]))))
        return F.cross_entropy(scores.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")


def split(model: Transformer, mesh: DeviceMesh) -> None:
    """Split each layer over the axis tp, and what a process has then over the axis dp.

    Where the norms and the residual stream are, each process of tp has its part of the tokens: Shard(1).
    """
    gather = tp.PrepareModuleInput(input_layouts=Shard(1), desired_input_layouts=Replicate())
    columns, scatter = tp.ColwiseParallel(), tp.RowwiseParallel(output_layouts=Shard(1))
    block = {"norm1": tp.SequenceParallel(), "norm2": tp.SequenceParallel()}
    block |= {"attention": gather, "attention.[qkv]": columns, "attention.out": scatter}
    block |= {"mlp": gather, "mlp.gate": columns, "mlp.up": columns, "mlp.down": scatter}
    plan = {
        "embedding": tp.RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        **{f"blocks.*.{name}": style for name, style in block.items()},
        "norm": tp.SequenceParallel(),
        "head": tp.ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }
    tp.parallelize_module(model, mesh["tp"], plan)
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh["dp"])


class Checkpoints:
    """A folder of checkpoints, one folder each, whole or absent: written as .partial, then renamed. Two stay."""

    def __init__(self, folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
        self.folder, self.model, self.optimizer = folder, model, optimizer
        self.group = dist.new_group(
            backend="gloo"
        )  # of its own, since a thread may write while training goes on
        self.writing: tuple[int, Future] | None = None

    def path(self, step: int, suffix: str = "") -> Path:
        return self.folder / f"step-{step:05}{suffix}"

    def steps(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*[0-9]"))

    def state(self) -> dict:
        return dict(zip(("model", "optimizer"), get_state_dict(self.model, self.optimizer), strict=True))

    def load(self) -> int:
        """Load the last checkpoint, whichever mesh wrote it, and return its step; 0 if there is none."""
        last = [0]
        if dist.get_rank() == 0:  # decides for all
            for path in self.folder.glob("*.partial"):  # of a run that was lost
                shutil.rmtree(path)
            last = [0, *self.steps()][-1:]
        dist.broadcast_object_list(last, src=0, group=self.group)
        if last[0]:
            state = self.state()
            dcp.load(state, checkpoint_id=self.path(last[0]), process_group=self.group)
            new = {"model_state_dict": state["model"], "optim_state_dict": state["optimizer"]}
            set_state_dict(self.model, self.optimizer, **new)
        return last[0]

    def save(self, step: int, in_background: bool) -> None:
        self.finish()
        place = {"checkpoint_id": self.path(step, ".partial"), "process_group": self.group}
        if in_background:
            self.writing = step, dcp.async_save(self.state(), **place)  # returns when the state is copied
        else:
            dcp.save(self.state(), **place)
            self.publish(step)

    def finish(self, wait: bool = True) -> None:
        """Publish what is written in the background, if it is done or after waiting for it."""
        if self.writing is not None and (wait or self.writing[1].done()):
            step, future = self.writing
            future.result()  # raises the error of a save that failed
            self.writing = None
            self.publish(step)

    def publish(self, step: int) -> None:
        """Give a checkpoint its name, now that all processes have written their part; keep the last two."""
        if dist.get_rank() == 0:
            self.path(step, ".partial").rename(self.path(step))
            for old in self.steps()[:-2]:
                shutil.rmtree(self.path(old).rename(self.path(old, ".partial")))


def make_rows(step: int, batch: int, tokens: int) -> Tensor:
    """Return the global batch of `step`, (batch, tokens + 1): each row counts on by a stride of its own."""
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + step)
    first = torch.randint(VOCABULARY, (batch, 1), generator=generator)
    stride = torch.randint(1, 16, (batch, 1), generator=generator)
    return (first + stride * torch.arange(tokens + 1)) % VOCABULARY


def main() -> None:
    args = parse_arguments()
    logging.getLogger("torch.distributed.tensor").setLevel(logging.ERROR)  # no advice from each process
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    dp = world // args.tp
    mesh = init_device_mesh(device.type, (dp, args.tp), mesh_dim_names=("dp", "tp"))  # tp: ranks side by side

    torch.manual_seed(SEED)  # all processes make the same weights, and keep their part
    model = Transformer(args.layers, args.heads * HEAD_WIDTH, args.checkpoint_activations).to(device)
    split(model, mesh)
    optimizer = AdamW(model.parameters(), lr=3e-3)
    checkpoints = Checkpoints(args.checkpoint, model, optimizer)

    def loss_part(step: int) -> Tensor:
        """Return the part of this process in the mean loss of a step; the parts along dp add up to the loss."""
        rows = make_rows(step, args.batch, args.tokens)[
            mesh.get_local_rank("dp") :: dp
        ]  # may be uneven, even empty
        return model(rows.to(device)) / (args.batch * args.tokens)

    for step in range(checkpoints.load() + 1, args.steps + 1):
        loss = loss_part(step)
        optimizer.zero_grad()
        (loss * dp).backward()  # FSDP divides by `dp`: what remains is the global mean
        nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        checkpoints.finish(wait=False)
        if step % args.save_every == 0 or step == args.steps:
            checkpoints.save(step, args.async_save)
            dist.all_reduce(loss.detach_(), group=mesh.get_group("dp"))
            if rank == 0:
                attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
                print(f"step {step} loss {loss.item():.4f} world {world} attempt {attempt}", flush=True)
        time.sleep(args.sleep)
    checkpoints.finish()

    with torch.no_grad():
        loss = loss_part(0)  # rows of no training step
    dist.all_reduce(loss, group=mesh.get_group("dp"))
    if rank == 0:
        print(f"final loss {loss.item():.9f} world {world} mesh {dp}x{args.tp}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
