"""Budgets on paper against real modules, and against numbers that others published."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
import torchvision
from chapter_code import chapter_namespace
from tiny_transformers import CONFIGS
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from bigmodel_helpers import measure, models
from bigmodel_helpers.measure import budgets

GPT2 = models.TransformerConfig(
    12, 768, 3072, 12, 12, 50257, positions=1024, bias=True, gated=False, tied=True
)
GPT2_XL = models.TransformerConfig(
    48, 1600, 6400, 25, 25, 50257, positions=1024, bias=True, gated=False, tied=True
)
LLAMA_8B = models.TransformerConfig(32, 4096, 14336, 32, 8, 128256)
LLAMA_70B = models.TransformerConfig(80, 8192, 28672, 64, 8, 128256)
SMALL = [
    models.TransformerConfig(3, 64, 96, 4, 2, 300),
    models.TransformerConfig(2, 32, 128, 4, 4, 500, positions=40, bias=True, gated=False, tied=True),
]
CHAPTER = chapter_namespace(
    "01_concepts", ["attention", "block", "transformer"], torch=torch, nn=nn, F=nn.functional
)


@pytest.mark.parametrize(
    ("dims", "published"),
    [(GPT2, 124_439_808), (GPT2_XL, 1_557_611_200), (LLAMA_8B, 8_030_261_248), (LLAMA_70B, 70_553_706_496)],
)
def test_parameters_are_the_published_ones(dims: models.TransformerConfig, published: int) -> None:
    assert budgets.parameters(dims) == published


@pytest.mark.parametrize("dims", [*SMALL, GPT2, LLAMA_8B])
def test_parameters_and_flops_are_those_of_the_module(dims: models.TransformerConfig) -> None:
    with torch.device("meta"):
        model = CHAPTER["Transformer"](dims)
        tokens = torch.zeros(2, 24, dtype=torch.int64)
    assert measure.parameters(model) == budgets.parameters(dims)
    if dims.heads == dims.kv_heads:  # the counter does not know grouped queries on meta tensors
        assert measure.flops(model, tokens) == 48 * budgets.forward_flops(dims, 24)
        assert measure.flops(model, tokens, backward=True) == 48 * budgets.training_flops(dims, 24)


@pytest.mark.parametrize("kind", CONFIGS)
def test_budgets_are_those_of_the_transformer_of_chapter_10(kind: str) -> None:
    config = CONFIGS[kind]
    model, tokens = models.Transformer(config), torch.zeros(2, 24, dtype=torch.int64)
    assert sum(p.numel() for p in model.parameters()) == budgets.parameters(config)
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):  # others count no grouped queries
        scores = model(tokens)
    assert counter.get_total_flops() == 48 * budgets.forward_flops(config, 24)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens).sum().backward()
    assert counter.get_total_flops() == 48 * budgets.training_flops(config, 24)
    assert scores.shape == (2, 24, config.vocabulary)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", CONFIGS)
def test_cache_bytes_are_those_of_a_cache(kind: str, dtype: torch.dtype) -> None:
    config = CONFIGS[kind]
    model, cache = models.Transformer(config).to(dtype), models.Cache(config.layers)
    for piece in torch.zeros(2, 24, dtype=torch.int64).split([20, 3, 1], dim=1):
        model(piece, cache=cache)
    kept = sum(tensor.nbytes for tensor in (*cache.keys, *cache.values))
    assert kept == budgets.cache_bytes(config, 48, "fp32" if dtype == torch.float32 else "bf16")


def test_parameters_and_cache_of_published_models() -> None:
    qwen2 = models.TransformerConfig(24, 896, 4864, 14, 2, 151936, tied=True, qkv_bias=True)
    qwen3 = models.TransformerConfig(28, 1024, 3072, 16, 8, 151936, tied=True, head_width=128, qk_norm=True)
    smollm2 = models.TransformerConfig(30, 576, 1536, 9, 3, 49152, tied=True)
    assert [budgets.parameters(config) for config in (qwen2, qwen3, smollm2)] == [
        494_032_768,
        596_049_920,
        134_515_008,
    ]
    assert budgets.cache_bytes(LLAMA_8B, 8192) == 2**30  # of Llama 3 8B, for its 8192 tokens


@pytest.mark.parametrize("count", [budgets.activation_bytes, budgets.cache_bytes])
def test_an_unknown_precision_is_refused(count: Callable[..., int]) -> None:
    with pytest.raises(
        ValueError, match=r"^the precision 'fp8' is unknown: choose from fp32, bf16 mixed, bf16$"
    ):
        count(GPT2, 10, "fp8")


def test_matrix_parameters_leave_out_what_is_looked_up() -> None:
    dims = SMALL[1]
    looked_up = dims.positions * dims.width
    assert (
        budgets.parameters(dims) - budgets.matrix_parameters(dims) - looked_up
        == 2 * (5 * 32 + 128 + 4 * 32) + 2 * 32
    )
    assert dims.kv_width == 32
    assert SMALL[0].kv_width == 32


def saved_bytes(model: nn.Module, tokens: torch.Tensor) -> int:
    """Return the bytes that autograd keeps between forward and backward pass, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = 0 if storage.data_ptr() in weights else storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    assert loss.isfinite()
    return sum(kept.values())


@pytest.mark.parametrize("dims", SMALL)
def test_activation_bytes_are_what_autograd_saves(dims: models.TransformerConfig) -> None:
    tokens = torch.randint(dims.vocabulary, (3, 32))
    derived = budgets.activation_bytes(dims, tokens.numel(), "fp32")
    if not dims.bias:  # RMSNorm on a CPU
        derived += 4 * tokens.numel() * dims.width * (2 * dims.layers + 1)
    assert saved_bytes(CHAPTER["Transformer"](dims), tokens) == pytest.approx(derived, rel=0.02)


@pytest.mark.parametrize("kind", CONFIGS)
def test_activation_bytes_are_what_the_transformer_of_chapter_10_saves(kind: str) -> None:
    config = replace(CONFIGS[kind], vocabulary=300)
    tokens = torch.randint(config.vocabulary, (16, 32))
    model = models.Transformer(config)
    derived = budgets.activation_bytes(config, tokens.numel(), "fp32")
    if not config.bias:  # RMSNorm on a CPU
        normalized = (2 * config.layers + 1) * config.width
        normalized += config.layers * (config.q_width + config.kv_width) if config.qk_norm else 0
        derived += 4 * tokens.numel() * normalized
    assert saved_bytes(model, tokens) == pytest.approx(derived, rel=0.02)


def test_checkpointing_keeps_the_input_of_each_block() -> None:
    dims = SMALL[1]
    model, tokens = CHAPTER["Transformer"](dims), torch.randint(dims.vocabulary, (3, 32))
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    two, one = (budgets.activation_bytes(replace(dims, layers=n), 96, "fp32") for n in (2, 1))
    derived = budgets.activation_bytes(dims, 96, "fp32", checkpoint=True) - (two - one)  # in work, not kept
    assert saved_bytes(model, tokens) == pytest.approx(derived, rel=0.02)


@pytest.mark.parametrize(
    ("precision", "optimizer", "expected"),
    [
        ("fp32", "AdamW", 16),
        ("bf16 mixed", "AdamW", 16),
        ("bf16", "AdamW", 8),
        ("fp32", "SGD", 8),
        ("fp32", "SGD with momentum", 12),
        ("bf16 mixed", "8-bit AdamW", 8 + 2 * (1 + 4 / 256)),
    ],
)
def test_bytes_per_parameter(precision: str, optimizer: str, expected: float) -> None:
    memory = budgets.training_memory(10, precision=precision, optimizer=optimizer)
    assert memory.total == pytest.approx(10 * expected)
    assert memory.activations == 0


def test_bytes_of_the_optimizer_are_those_of_torch() -> None:
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        layer = nn.Linear(64, 64, bias=False, dtype=dtype)
        for name, optimizer in (
            ("AdamW", torch.optim.AdamW(layer.parameters())),
            ("SGD", torch.optim.SGD(layer.parameters(), lr=0.1)),
            ("SGD with momentum", torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)),
        ):
            layer(torch.ones(1, 64, dtype=dtype)).sum().backward()
            optimizer.step()
            states = [t for state in optimizer.state.values() for t in state.values() if t is not None]
            kept = sum(t.numel() * t.element_size() for t in states if t.ndim)
            memory = budgets.training_memory(64 * 64, precision=precision, optimizer=name)
            assert kept == memory.optimizer


def test_sharding_divides_all_but_the_activations() -> None:
    one = budgets.training_memory(1000, 500.0)
    four = budgets.training_memory(1000, 500.0, devices=4)
    assert isinstance(four, budgets.TrainingMemory)
    assert (four.weights, four.gradients, four.optimizer) == (
        one.weights / 4,
        one.gradients / 4,
        one.optimizer / 4,
    )
    assert four.activations == one.activations == 500


@pytest.mark.parametrize("wrong", [{"precision": "fp8"}, {"optimizer": "Adam"}, {"devices": 0}])
def test_unknown_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"choose from|at least 1"):
        budgets.training_memory(1, **wrong)


def test_counting_allocates_nothing() -> None:
    with torch.device("meta"):
        model = torchvision.models.vit_l_16()
    assert measure.parameters(model) == 304_326_632
    assert all(p.is_meta for p in model.parameters())


def test_ring_sends_less_than_two_lists_for_any_number_of_ranks():
    assert budgets.ring_bytes("all-reduce", 1000, 1) == 0
    assert budgets.ring_bytes("all-reduce", 1000, 4) == 1500
    assert budgets.ring_bytes("all-reduce", 1000, 1000) == pytest.approx(1998)
    for ranks in range(1, 9):
        parts = [budgets.ring_bytes(name, 64, ranks) for name in ("reduce-scatter", "all-gather")]
        assert sum(parts) == budgets.ring_bytes("all-reduce", 64, ranks)


@pytest.mark.parametrize("wrong", [("gather", 8, 2), ("all-reduce", 8, 0)])
def test_ring_refuses_what_it_does_not_know(wrong):
    with pytest.raises(ValueError, match="choose all-reduce, all-gather, reduce-scatter"):
        budgets.ring_bytes(*wrong)


def test_pipeline_bubble():
    assert budgets.pipeline_bubble(1, 1) == 0
    assert budgets.pipeline_bubble(4, 1) == 0.75
    assert budgets.pipeline_bubble(4, 9) == 0.25
    with pytest.raises(ValueError, match="at least 1 of each"):
        budgets.pipeline_bubble(0, 1)
