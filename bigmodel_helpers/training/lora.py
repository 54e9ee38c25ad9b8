"""Low-rank adapters of linear layers that work on what passes through. Introduced in chapter 12.

`training.add_lora` of chapter 6 changes the weight itself, which serves convolutions, too. Here the frozen layer
stays what it is, and may be rounded to 4 bits.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bigmodel_helpers.data._files import save_tensors
from bigmodel_helpers.data._paths import expanded, shown
from bigmodel_helpers.models import _lora_files
from bigmodel_helpers.models._lora_files import CONFIG, LARGEST, PREFIX, WEIGHTS
from bigmodel_helpers.models._parametrized import refuse_shared_weight
from bigmodel_helpers.models._safetensors import Stored, open_file, read_json
from bigmodel_helpers.models.transformer import Transformer

_FORMATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_KNOWN = {**_lora_files.KNOWN, "init_lora_weights": (True, False, "gaussian", None)}


class _LowRank(torch.autograd.Function):
    """y + scale * (x @ A.T) @ B.T for y (N, O) and x (N, I), with gradients whose products are quick.

    What matters is the order of two factors of which one is thin: (g.T @ s) takes up to five times as long as
    (s.T @ g).T on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        x, a, b = (tensor.to(y.dtype) for tensor in (x, a, b))
        ctx.scale = scale
        with torch.autocast(y.device.type, enabled=False):
            small = x @ a.T
            ctx.save_for_backward(x, a, b, small)
            return torch.addmm(y, small, b.T, alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, small = ctx.saved_tensors
        back = F.linear(g, b.T.contiguous()).mul_(ctx.scale)
        for_x = back @ a if ctx.needs_input_grad[1] else None
        return g, for_x, back.T @ x, (small.T @ g).T.mul(ctx.scale), None


class LoRALinear(nn.Module):
    """A frozen linear layer, plus scale * B @ A (Hu et al. 2021, arXiv:2106.09685): A (rank, I), B (O, rank).

    A begins as a linear layer does, B at zero, so at first nothing changes.

    Args:
        base: maps (..., I) to (..., O), with ``in_features`` and ``out_features``: `nn.Linear`, or one of 4 bits.
        rank: number of directions that can change.
        alpha: the update is scaled by alpha / rank.

    Raises:
        ValueError: `rank` does not fit the layer.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float) -> None:
        super().__init__()
        outputs, inputs = base.out_features, base.in_features
        if not 1 <= rank <= min(outputs, inputs):
            raise ValueError(
                f"rank {rank} does not fit a weight of {outputs} x {inputs}: choose 1 to {min(outputs, inputs)}"
            )
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        weight = getattr(base, "weight", None)
        like = next(base.buffers()) if weight is None else weight
        dtype = torch.float32 if weight is None else weight.dtype
        self.lora_A = nn.Parameter(torch.empty(rank, inputs, dtype=dtype, device=like.device))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank, dtype=dtype, device=like.device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        return _LowRank.apply(
            y.flatten(0, -2), x.flatten(0, -2), self.lora_A, self.lora_B, self.scale
        ).view_as(y)

    def update(self) -> Tensor:
        """Return what the adapter adds to the weight, (O, I)."""
        return self.scale * (self.lora_B @ self.lora_A)


def add(model: nn.Module, rank: int = 8, *, alpha: float | None = None, targets: Iterable[str]) -> nn.Module:
    """Freeze `model` and put a `LoRALinear` in the place of each layer whose last name is in `targets`.

    Args:
        model: changed in place and returned.
        rank: of each adapter.
        alpha: see `LoRALinear`; None for `rank`, a scale of 1.
        targets: such as ``["q_proj", "v_proj"]``; peft calls them target_modules.

    Raises:
        ValueError: the model has adapters already, a target names no layer, or one to which no adapter of this rank
            fits, or that shares its weight with another. Nothing has been changed then.

    >>> model = models.Transformer(models.TransformerConfig(1, 8, 16, 2, 1, vocabulary=10))
    >>> [*training.lora.modules(training.lora.add(model, 2, targets=["q_proj"]))]
    ['layers.0.self_attn.q_proj']
    """
    if isinstance(targets, str):
        raise TypeError(f"targets is one text: pass a list, such as [{targets!r}]")
    targets = [*targets]
    layers = {name: layer for name, layer in model.named_modules() if name.split(".")[-1] in targets}
    for target in targets or ["nothing"]:
        if not any(name.split(".")[-1] == target for name in layers):
            raise ValueError(f"no layer is called {target!r:.99}: look at the names in named_modules()")
    return _put(model, layers, rank, rank if alpha is None else alpha)


def _put(model: nn.Module, layers: Mapping[str, nn.Module], rank: int, alpha: float) -> nn.Module:
    """Freeze `model` and put adapters over `layers`; whatever is wrong with one of them is an error before that."""
    _refuse_adapters(model)
    for name, layer in layers.items():
        if not hasattr(layer, "in_features"):
            raise ValueError(f"{name} is a {type(layer).__name__}, no linear layer: leave it out")
        refuse_shared_weight(model, name, layer)
        outputs, inputs = layer.out_features, layer.in_features
        if type(rank) is not int or not 1 <= rank <= min(outputs, inputs):
            fits = f"choose 1 to {min(outputs, inputs)}"
            raise ValueError(f"rank {rank!r:.99} does not fit {name}, {outputs} x {inputs}: {fits}")
    if type(alpha) not in (int, float) or not 0 < abs(alpha) < LARGEST:
        raise ValueError(f"alpha is {alpha!r:.99}: take a number other than 0, such as the rank")
    adapters = {name: LoRALinear(layer, rank, alpha) for name, layer in layers.items()}
    model.requires_grad_(False)
    for name, adapter in adapters.items():
        model.set_submodule(name, adapter)
    return model


def _refuse_adapters(model: nn.Module) -> None:
    if modules(model):
        raise ValueError("the model has adapters already: merge or remove them first")


def modules(model: nn.Module) -> dict[str, LoRALinear]:
    """Return the adapters of `model` by the names of the layers that they stand for."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def remove(model: nn.Module) -> nn.Module:
    """Take all adapters off: the layers compute what they computed before, and stay frozen."""
    for name, adapter in modules(model).items():
        model.set_submodule(name, adapter.base)
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add each adapter to the weight of its layer and remove it; the model computes the same at its old speed.

    Raises:
        ValueError: a layer is rounded to 4 bits, whose weight cannot take it.
    """
    for name, adapter in modules(model).items():
        if not isinstance(adapter.base, nn.Linear):
            raise ValueError(
                f"{name} is a {type(adapter.base).__name__}: only the weight of nn.Linear can take it"
            )
    for adapter in modules(model).values():
        adapter.base.weight += adapter.update()
    return remove(model)


def save(model: Transformer, path: str | Path) -> None:
    """Write the adapters into a folder as peft does: ``adapter_model.safetensors`` and ``adapter_config.json``.

    The names are those of the published network, so peft puts the adapters on it in `transformers` (Llama, Qwen).

    Raises:
        ValueError: the model has no adapters, or such of several ranks or scales, or is no bare `Transformer`.
    """
    adapters = modules(model)
    kinds = {(len(adapter.lora_A), adapter.scale) for adapter in adapters.values()}
    if len(kinds) != 1:
        raise ValueError(f"{len(kinds)} kinds of adapters in the model: one rank and one scale can be saved")
    rank, scale = kinds.pop()
    tensors = {
        f"{_published(name)}.lora_{part}.weight": getattr(adapter, f"lora_{part}").detach().cpu().contiguous()
        for name, adapter in adapters.items()
        for part in "AB"
    }
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": scale * rank,
        "target_modules": sorted({name.split(".")[-1] for name in adapters}),
        "bias": "none",
    }
    folder = expanded(path)
    if hasattr(model, "_orig_mod") or not isinstance(model, Transformer):
        raise ValueError(f"a {type(model).__name__} wraps the network: save the Transformer itself")
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def load(model: Transformer, path: str | Path) -> Transformer:
    """Freeze `model` and put the adapters of a folder on it that `save` or peft wrote; returns the model.

    Nothing in the files is run or unpickled, and nothing is changed before all names and shapes fit.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is damaged, of another kind than plain LoRA, or does not fit the model; names what. Or the
            model has adapters already.
    """
    _refuse_adapters(model)
    folder = expanded(path)
    config, tensors = read_json(folder / CONFIG), open_file(folder / WEIGHTS)
    rank, alpha = _rank_and_alpha(config)
    pairs, layers = _lora_files.pairs(tensors), dict(model.named_modules())
    for name, pair in pairs.items():
        layer = layers.get(name)
        if not hasattr(layer, "in_features"):
            raise _lora_files.no_layer(name)
        _lora_files.refuse_shape(name, pair, "A", (rank, layer.in_features), f"r={rank}")
        _lora_files.refuse_shape(name, pair, "B", (layer.out_features, rank), f"r={rank}")
    values = {name: {part: _read(stored) for part, stored in pair.items()} for name, pair in pairs.items()}
    _put(model, {name: layers[name] for name in pairs}, rank, alpha)
    for name, adapter in modules(model).items():
        adapter.lora_A.copy_(values[name]["A"])
        adapter.lora_B.copy_(values[name]["B"])
    return model


def _read(stored: Stored) -> Tensor:
    values = _lora_files.read(stored, f"{shown(stored.name):.99}")
    if values.dtype not in _FORMATS or values.shape != stored.shape or not values.isfinite().all():
        kind = f"{values.dtype} of shape {tuple(values.shape)}"
        raise ValueError(
            f"{shown(stored.name):.99} is {kind}, or not finite: adapters are finite floating numbers"
        )
    return values


def _published(name: str) -> str:
    """Return the name of a layer in a file of peft."""
    return f"{PREFIX}{name}" if name == "lm_head" else f"{PREFIX}model.{name}"


def _rank_and_alpha(config: Mapping[str, Any]) -> tuple[int, float]:
    key = _lora_files.beyond_plain(config, _KNOWN)
    if key in _KNOWN:
        raise ValueError(f"{CONFIG} has {key} = {config[key]!r:.99}, which plain LoRA does not have")
    if key is not None:
        raise ValueError(f"{CONFIG} has {key!r:.99} = {config[key]!r:.99}, which is not plain LoRA")
    rank, alpha = _lora_files.rank_and_alpha(config)
    if not 1 <= rank < LARGEST:
        raise _lora_files.wrong_numbers(config)
    return rank, alpha
