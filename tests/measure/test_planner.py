"""The planner against formulas by hand, numbers of the draft that was fitted, and runs that others published."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import pytest

from bigmodel_helpers import models
from bigmodel_helpers.measure import budgets, planner

SMALL = models.TransformerConfig(4, 64, 128, 4, 2, 100)  # keys of 32, blocks of 36,864 weights, ends of 6,400
BLOCKS, END, TOKENS = 4 * 36_864, 6400, 8 * 256
ROUND = planner.Card(peak=1e12, memory=1e11, nvlink=1e10, network=1e9, matrix=0.5)
META = planner.Layout(data=128, tensor=8, pipeline=16, virtual=8)
LLAMA_405B = models.TransformerConfig(126, 16384, 53248, 128, 8, 128256)
EXPERTS = planner.Mixture(experts=16, active=2)

# Seconds and bytes of a step, and the published seconds, as the draft computed them.
DRAFT = {
    ("Llama 3", "405B", 16384): (5.743269458029857, 110460057600.0, 6.721086947328),
    ("Llama 3", "405B, 131072", 16384): (12.454099418119437, 110460057600.0, 15.27776379914779),
    ("DeepSeek", "DeepSeek-V3 float8", 2048): (14.022685570570975, 202164199424.0, 19.906558407475327),
    ("BLOOM", "176B", 384): (92.83005369665997, 32273356117.333336, 105),
    ("llm-foundry", "MPT 13B, 16384", 8): (115.50716738294086, 79940419584.0, 103.04402515723271),
    ("NeMo", "Llama 3 70B", 64): (9.684462053211861, 71142998016.0, 10.68754076973255),
    ("torchtitan", "8B eager", 8): (2.859674099159155, 71363198976.0, 2.8434571329399514),
    ("Megatron 2021", "39B", 512): (13.274850231954352, 46307213312.0, 14.453498639582609),
    ("Automodel", "Qwen3 30B-A3B", 8): (26.06677698958459, 92031898965.33333, 21.772757475083058),
}
DEEPSEEK = {
    "weights": 3007320064.0,
    "gradients": 6014640128.0,
    "optimizer": 4123176960.0,
    "activations": 189019062272.0,
    "matrix_seconds": 6.955992143156632,
    "attention_seconds": 2.0311985610430967,
    "elementwise_seconds": 1.7604221631044776,
    "tensor_seconds": 0.0,
    "context_seconds": 0.0,
    "expert_seconds": 2.4465888488433674,
    "sharding_seconds": 0.0,
    "bubble_seconds": 0.8246376072592233,
    "optimizer_seconds": 0.0038462471641791045,
}


def exactly(value: object) -> object:
    return pytest.approx(value, rel=1e-12, abs=0)


# ------------------------------------------------------------------------------------ published runs


def found(source: str, name: str, cards: int) -> planner.PublishedRun:
    (run,) = (
        run
        for run in planner.published_runs()
        if (run.source, run.name, run.layout.cards) == (source, name, cards)
    )
    return run


@pytest.mark.parametrize("key", DRAFT)
def test_plans_are_those_of_the_draft(key: tuple[str, str, int]) -> None:
    run, (planned, size, published) = found(*key), DRAFT[key]
    assert run.planned.seconds == exactly(planned)
    assert run.planned.bytes == exactly(size)
    assert run.seconds == exactly(published)
    assert run.ratio == exactly(planned / published)
    again = planner.plan(
        run.config, planner.CARDS[run.card], run.layout, run.batch, run.sequence, run.mixture
    )
    assert run.planned == again


def test_each_part_of_a_plan_is_that_of_the_draft() -> None:
    run = found("DeepSeek", "DeepSeek-V3 float8", 2048)
    assert run.mixture == planner.Mixture(experts=257, active=9, machines=4)
    assert vars(run.planned) == exactly(DEEPSEEK)


def test_47_of_58_judged_runs_are_within_15_percent() -> None:
    runs = planner.published_runs()
    judged = [run for run in runs if not run.fitted]
    assert (len(runs), len(judged)) == (65, 58)
    assert sum(abs(run.ratio - 1) <= 0.15 for run in judged) == 47
    assert max(abs(run.ratio - 1) for run in runs if run.fitted) < 0.01
    assert all(run.evidence and run.source and run.card in planner.CARDS for run in runs)
    memory = [run.planned.bytes / 2**30 / run.gib for run in runs if run.gib]
    assert len(memory) == 20
    assert sum(abs(ratio - 1) <= 0.2 for ratio in memory) == 16


# --------------------------------------------------------------------------------- formulas by hand


@pytest.mark.parametrize(
    ("layout", "blocks"),
    [
        (planner.Layout(), 6 * BLOCKS),
        (planner.Layout(recompute="selective"), (6 + 2 / 3) * BLOCKS),
        (planner.Layout(recompute="full"), 8 * BLOCKS),
        (planner.Layout(precision="float8"), 6 * BLOCKS / planner.FLOAT8),
        (planner.Layout(2, 2, 2, 2), 6 * BLOCKS / 16),
    ],
)
def test_matrix_seconds(layout: planner.Layout, blocks: float) -> None:
    expected = (blocks + 6 * END / layout.cards) * TOKENS / 0.5e12
    assert planner.matrix_seconds(SMALL, ROUND, layout, TOKENS) == exactly(expected)


def test_matrix_seconds_count_active_experts_only() -> None:
    flops = 6 * (4 * (2 * 64 * 96 + 2 * 3 * 64 * 128) + END)
    seconds = planner.matrix_seconds(SMALL, ROUND, planner.Layout(), TOKENS, EXPERTS)
    assert seconds == exactly(flops * TOKENS / 0.5e12)


@pytest.mark.parametrize(
    ("layout", "pairs"),
    [
        (planner.Layout(), 3.5 * 128),
        (planner.Layout(recompute="full"), 4.5 * 128),
        (planner.Layout(flash=False), 3 * 256),
        (planner.Layout(context=4), 3.5 * 32),
    ],
)
def test_attention_seconds(layout: planner.Layout, pairs: float) -> None:
    expected = pairs * 4 * 4 * 64 * TOKENS / (planner.ATTENTION * 0.5e12)
    assert planner.attention_seconds(SMALL, ROUND, layout, TOKENS, 256) == exactly(expected)


@pytest.mark.parametrize(
    ("layout", "block", "mixture"),
    [
        (planner.Layout(), 3 * 2 * (640 + 192 + 384), None),
        (planner.Layout(recompute="selective"), 4 * 2 * (640 + 192 + 384), None),
        (planner.Layout(fused=False), 3 * 6 * (640 + 192 + 384), None),
        (planner.Layout(flash=False), 3 * (2 * (640 + 192 + 384) + 11 * 4 * 256), None),
        (planner.Layout(), 3 * 2 * (640 + 192 + 2 * 384 + 4 * 2 * 64), EXPERTS),
    ],
)
def test_elementwise_seconds(layout: planner.Layout, block: int, mixture: planner.Mixture | None) -> None:
    expected = (4 * block + 24 * 100) * TOKENS / (planner.MEMORY * 1e11)
    assert planner.elementwise_seconds(SMALL, ROUND, layout, TOKENS, 256, mixture) == exactly(expected)


def test_bandwidth_is_that_of_nvlink_or_of_all_network_cards_of_a_machine() -> None:
    assert [planner.bandwidth(ROUND, members) for members in (1, 8, 9, 1000)] == [8e9, 8e9, 6.4e9, 6.4e9]
    assert [planner.bandwidth(ROUND, 4, inner) for inner in (1, 2, 4, 8, 16)] == exactly(
        [8e9, 8e9, 1.6e9, 0.8e9, 0.8e9]
    )
    fast = replace(ROUND, network=5e9)
    assert planner.bandwidth(fast, 16) == 8e9


def test_tensor_seconds() -> None:
    local = TOKENS / 2 * 4 / 2  # tokens of a copy times blocks of a stage
    layout = planner.Layout(data=2, tensor=4, pipeline=2)
    assert planner.tensor_seconds(SMALL, ROUND, layout, TOKENS) == exactly(8 * 2 * 64 * 3 / 4 * local / 8e9)
    full = replace(layout, recompute="full")
    assert planner.tensor_seconds(SMALL, ROUND, full, TOKENS) == exactly(12 * 2 * 64 * 3 / 4 * local / 8e9)
    assert planner.tensor_seconds(SMALL, ROUND, planner.Layout(), TOKENS) == 0


def test_context_seconds() -> None:
    layout = planner.Layout(tensor=2, context=4)
    local = TOKENS / 4 * 4
    expected = 3 * 2 * 2 * 32 / 2 * 3 * local / 8e9
    assert planner.context_seconds(SMALL, ROUND, layout, TOKENS) == exactly(expected)
    full = replace(layout, recompute="full")
    assert planner.context_seconds(SMALL, ROUND, full, TOKENS) == exactly(expected * 4 / 3)
    assert planner.context_seconds(SMALL, ROUND, planner.Layout(), TOKENS) == 0


def test_expert_seconds_within_and_between_machines() -> None:
    inside = planner.Layout(data=8, expert=8)
    moved = 4 * 2 * 64 * TOKENS / 8 * 4
    seconds = planner.expert_seconds(SMALL, ROUND, inside, TOKENS, EXPERTS)
    assert seconds == exactly(moved * 2 * 7 / 8 / 8e9)
    between = planner.Layout(data=16, expert=16)
    reached = 2 * (1 - (1 / 2) ** 2)  # of two machines, by two random experts
    seconds = planner.expert_seconds(SMALL, ROUND, between, TOKENS, EXPERTS)
    assert seconds == exactly(moved / 2 * reached / 2 / 0.8e9)
    one = replace(EXPERTS, machines=1)
    assert planner.expert_seconds(SMALL, ROUND, between, TOKENS, one) == exactly(moved / 2 * 1 / 2 / 0.8e9)
    assert planner.expert_seconds(SMALL, ROUND, planner.Layout(), TOKENS, EXPERTS) == 0
    assert planner.expert_seconds(SMALL, ROUND, planner.Layout(), TOKENS) == 0


def test_sharding_seconds_are_what_sticks_out() -> None:
    count, layout = BLOCKS + 2 * END, planner.Layout(data=4)
    seconds = 2 * 8 * count * 3 / 4 / 8e9
    assert planner.sharding_seconds(SMALL, ROUND, layout, 8, 0.0) == exactly(seconds)
    assert planner.sharding_seconds(SMALL, ROUND, layout, 8, seconds / 2) == exactly(seconds / 2)
    assert planner.sharding_seconds(SMALL, ROUND, layout, 8, 2 * seconds) == 0
    stays = planner.Layout(data=4, pipeline=2)
    seconds = 6 * count / 2 * 3 / 4 / 8e9  # once a step, beside one of two micro-batches
    assert planner.sharding_seconds(SMALL, ROUND, stays, 8, seconds) == exactly(seconds / 2)


def test_optimizer_seconds() -> None:
    count = BLOCKS + 2 * END
    sharded, whole = planner.Layout(data=4), planner.Layout(data=4, sharding="none")
    assert planner.optimizer_seconds(SMALL, ROUND, sharded) == exactly(30 * count / 4 / 8e10)
    assert planner.optimizer_seconds(SMALL, ROUND, whole) == exactly(30 * count / 8e10)


def test_state_bytes() -> None:
    count = BLOCKS + 2 * END
    assert planner.state_bytes(SMALL, planner.Layout(data=4, sharding="none")) == (
        2 * count,
        4 * count,
        12 * count,
    )
    assert planner.state_bytes(SMALL, planner.Layout(data=4, sharding="optimizer")) == (
        2 * count,
        4 * count,
        3 * count,
    )
    assert planner.state_bytes(SMALL, planner.Layout(data=4)) == (
        2 * (count / 4 + count / 2),  # two blocks of four are gathered
        count / 2,
        3 * count,
    )
    assert planner.state_bytes(SMALL, planner.Layout(data=4, pipeline=2)) == exactly(
        (count, 2 * count, 12 / 8 * count)
    )
    assert planner.state_bytes(replace(SMALL, tied=True), planner.Layout(sharding="none"))[0] == 2 * (
        BLOCKS + END
    )


def test_experts_are_spread_and_all_else_is_copied() -> None:
    layout = planner.Layout(data=8, expert=8, sharding="none")
    rest, experts = 4 * 2 * 64 * 96 + 2 * END, 4 * 16 * 3 * 64 * 128
    assert planner.state_bytes(SMALL, layout, EXPERTS)[0] == exactly(2 * (rest + experts / 8))
    assert planner.optimizer_seconds(SMALL, ROUND, layout, EXPERTS) == exactly(
        30 * (rest + experts / 8) / 8e10
    )


def test_activation_bytes_on_one_card_are_those_of_the_budget() -> None:
    """The budget also keeps input and output of the last normalization, and takes 4 bytes for a logit, not 10."""
    for config in (SMALL, replace(SMALL, gated=False), replace(SMALL, head_width=32)):
        planned = planner.activation_bytes(config, planner.Layout(), 1, 256)
        budget = budgets.activation_bytes(config, 256)
        assert planned - 256 * 10 * 100 == budget - 256 * (4 * 64 + 4 * 100)


def test_activation_bytes() -> None:
    block = 4 * 64 + 2 * (64 + 32) + 4 * 128
    last = 10 * 100
    size = {name: planner.activation_bytes(SMALL, layout, 32, 256) / 256 for name, layout in LAYOUTS.items()}
    assert size["full"] == 4 * 2 * 64 + last + 2 * block
    assert size["selective"] == 4 * 2 * (3 * 64 + 64 + 32 + 128) + last
    assert size["no flash"] == 4 * (2 * block + 5 * 4 * 256) + last
    assert size["tensor"] == (4 * 2 * block + last) / 2 + 6 * 64
    assert size["context"] == (4 * 2 * block + last) / 2
    assert size["micro-batch"] == 4 * (4 * 2 * block + last)
    assert size["pipeline"] == 4 * 2 * block
    assert size["virtual"] == exactly((4 + 3 / 2) * 2 * block)
    assert size["few"] == 16 * 2 * 2 * block
    mixed = planner.activation_bytes(SMALL, planner.Layout(), 1, 256, EXPERTS) / 256
    assert mixed == 4 * 2 * (block + 4 * 128 + 2 * 2 * 64) + last


LAYOUTS = {
    "full": planner.Layout(recompute="full"),
    "selective": planner.Layout(recompute="selective"),
    "no flash": planner.Layout(flash=False),
    "tensor": planner.Layout(tensor=2),
    "context": planner.Layout(context=2),
    "micro-batch": planner.Layout(micro_batch=4),
    "pipeline": planner.Layout(pipeline=4),
    "virtual": planner.Layout(pipeline=4, virtual=2),
    "few": planner.Layout(pipeline=4, micro_batch=16),
}


def test_a_plan_is_the_sum_of_its_parts() -> None:
    plan = planner.plan(SMALL, ROUND, planner.Layout(2, 2, 2, 2, virtual=2), 32, 256)
    assert isinstance(plan, planner.Plan)
    parts = [value for name, value in vars(plan).items() if name.endswith("_seconds")]
    assert plan.seconds == exactly(sum(parts))
    assert plan.bytes == plan.weights + plan.gradients + plan.optimizer + plan.activations
    busy = sum(parts[:6])
    assert plan.bubble_seconds == exactly(busy / (16 * 2))


def test_without_virtual_stages_the_bubble_is_that_of_the_budget() -> None:
    for stages, micro_batches in ((2, 1), (4, 8), (4, 16)):
        plan = planner.plan(SMALL, ROUND, planner.Layout(pipeline=stages), micro_batches, 256)
        busy = plan.seconds - plan.optimizer_seconds - plan.bubble_seconds
        idle = budgets.pipeline_bubble(stages, micro_batches)
        assert plan.bubble_seconds / (busy + plan.bubble_seconds) == exactly(idle)


def test_overlapped_messages_count_beyond_the_products_only() -> None:
    layout = planner.Layout(tensor=4, overlapped=True)
    slow = replace(ROUND, nvlink=1e6)
    apart = planner.plan(SMALL, slow, replace(layout, overlapped=False), 8, 256)
    beside = planner.plan(SMALL, slow, layout, 8, 256)
    assert beside.tensor_seconds == exactly(apart.tensor_seconds - apart.matrix_seconds)
    assert planner.plan(SMALL, replace(ROUND, nvlink=1e15), layout, 8, 256).tensor_seconds == 0


def test_layouts_count_cards_and_micro_batches() -> None:
    layout = planner.Layout(data=8, tensor=4, pipeline=2, context=3, micro_batch=2)
    assert (layout.cards, layout.group, layout.micro_batches(64)) == (192, 24, 4)
    assert [planner.Layout(**given).whole for given in ({}, {"pipeline": 2}, {"sharding": "optimizer"})] == [
        False,
        True,
        True,
    ]
    assert set(planner.RECOMPUTED) == {"none", "selective", "full"}
    assert 0 < planner.MESSAGES < 1


# ------------------------------------------------------------------------------------- what must hold


def some_layouts() -> list[planner.Layout]:
    """Return layouts that fit a batch of 64 sequences of 4,096 tokens and any of the two models."""
    pick, layouts = random.Random(0).choice, []
    for _ in range(60):
        sizes = {name: pick((1, 2, 4)) for name in ("data", "tensor", "context", "micro_batch")}
        words = {"recompute": pick((*planner.RECOMPUTED,)), "precision": pick(("bf16", "float8"))}
        flags = {name: pick((False, True)) for name in ("fused", "flash", "overlapped")}
        stages = {"pipeline": pick((1, 2)), "virtual": pick((1, 2))}
        sharding = pick(("none", "optimizer", "full"))
        layouts.append(planner.Layout(**sizes, **words, **flags, **stages, sharding=sharding))
    return layouts


@pytest.mark.parametrize("rate", ["peak", "memory", "nvlink", "network", "matrix"])
def test_a_faster_card_never_takes_longer(rate: str) -> None:
    sooner = 0
    for layout in some_layouts():
        steps = [
            planner.plan(LLAMA_405B, replace(ROUND, **{rate: times * getattr(ROUND, rate)}), layout, 64, 4096)
            for times in (1, 2, 64)
        ]
        for slow, fast in pairwise(steps):
            assert fast.seconds <= slow.seconds * (1 + 1e-12)
            assert fast.bytes == slow.bytes
        sooner += steps[-1].seconds < steps[0].seconds
    assert sooner


def test_recomputation_takes_time_and_frees_memory() -> None:
    for layout in some_layouts():
        none, selective, full = (
            planner.plan(LLAMA_405B, ROUND, replace(layout, recompute=word), 64, 4096)
            for word in ("none", "selective", "full")
        )
        assert none.matrix_seconds < selective.matrix_seconds < full.matrix_seconds
        assert none.activations > selective.activations
        assert none.activations > full.activations


def test_more_of_anything_takes_longer() -> None:
    for layout in some_layouts():
        before = planner.plan(LLAMA_405B, ROUND, layout, 64, 4096)
        for more in (
            planner.plan(LLAMA_405B, ROUND, layout, 128, 4096),
            planner.plan(LLAMA_405B, ROUND, layout, 64, 8192),
            planner.plan(replace(LLAMA_405B, layers=130), ROUND, layout, 64, 4096),
            planner.plan(replace(LLAMA_405B, hidden=60_000), ROUND, layout, 64, 4096),
        ):
            assert more.seconds > before.seconds
            assert more.bytes >= before.bytes


# --------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: planner.Layout(data=0), "data is 0: take a whole number of at least 1"),
        (lambda: planner.Layout(tensor=1.5), "tensor is 1.5: take a whole number of at least 1"),
        (lambda: planner.Layout(virtual=True), "virtual is True: take a whole number of at least 1"),
        (lambda: planner.Layout(flash=1), "flash is 1: take True or False"),
        (
            lambda: planner.Layout(recompute="some"),
            "recompute is 'some', which is unknown: choose from none, selective, full",
        ),
        (
            lambda: planner.Layout(precision="fp8"),
            "precision is 'fp8', which is unknown: choose from bf16, float8",
        ),
        (
            lambda: planner.Layout(sharding="all"),
            "sharding is 'all', which is unknown: choose from none, optimizer, full",
        ),
        (
            lambda: planner.Layout(data=4, context=2, expert=3),
            "8 cards of data * context cannot be divided by expert = 3: take a divisor of 8",
        ),
        (
            lambda: planner.Layout(data=3, micro_batch=2).micro_batches(64),
            "64 sequences of a batch cannot be divided by data * micro_batch = 6: take a divisor of 64",
        ),
        (lambda: planner.Layout().micro_batches(0), "batch is 0: take a whole number of at least 1"),
        (lambda: replace(ROUND, peak=0), "peak is 0: take a finite number above 0"),
        (lambda: replace(ROUND, network=math.inf), "network is inf: take a finite number above 0"),
        (lambda: replace(ROUND, matrix="0.5"), "matrix is '0.5': take a finite number above 0"),
        (lambda: planner.Mixture(1, 1), "experts is 1: take a whole number of at least 2"),
        (lambda: planner.Mixture(8, 0), "active is 0: take a whole number of at least 1"),
        (lambda: planner.Mixture(8, 2, -1), "machines is -1: take a whole number of at least 0"),
        (
            lambda: planner.Mixture(8, 9),
            "9 of 8 experts cannot be active: take at most all of them",
        ),
        (
            lambda: planner.plan(SMALL, ROUND, planner.Layout(tensor=3), 8, 256),
            "4 heads cannot be divided by tensor = 3: take a divisor of 4",
        ),
        (
            lambda: planner.plan(SMALL, ROUND, planner.Layout(pipeline=4, virtual=2), 8, 256),
            "4 blocks are too few for pipeline * virtual = 8: take fewer parts",
        ),
        (
            lambda: planner.plan(SMALL, ROUND, planner.Layout(context=3), 9, 256),
            "256 tokens of a sequence cannot be divided by context = 3: take a divisor of 256",
        ),
        (
            lambda: planner.plan(SMALL, ROUND, planner.Layout(), 8, 0),
            "sequence is 0: take a whole number of at least 1",
        ),
        (
            lambda: planner.plan(SMALL, ROUND, planner.Layout(data=8, expert=8), 8, 256),
            "expert = 8 cannot divide 1 in a block: take less, or give a mixture of more",
        ),
        (
            lambda: planner.matrix_seconds(SMALL, ROUND, planner.Layout(), 0),
            "tokens is 0: take a finite number above 0",
        ),
        (
            lambda: planner.tensor_seconds(SMALL, ROUND, planner.Layout(), -1),
            "tokens is -1: take a finite number above 0",
        ),
        (lambda: planner.bandwidth(ROUND, 0), "members is 0: take a whole number of at least 1"),
        (lambda: planner.checkpoint_interval(0, 1.0), "cost is 0: take a finite number above 0"),
        (lambda: planner.straggler_factor(0, 0.1), "cards is 0: take a whole number of at least 1"),
        (lambda: planner.straggler_factor(8, -0.1), "variation is -0.1: take a finite number above 0"),
    ],
)
def test_what_is_impossible_is_told_in_one_line(make: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=r"^\S") as error:
        make()
    assert str(error.value) == told


def test_blocks_may_be_uneven_and_the_ends_may_have_none() -> None:
    assert LLAMA_405B.layers == META.pipeline * META.virtual - 2
    assert planner.plan(LLAMA_405B, planner.CARDS["H100"], META, 2048, 8192).seconds > 0
    assert planner.plan(SMALL, ROUND, planner.Layout(pipeline=3), 8, 256).seconds > 0


# ----------------------------------------------------------------------------- failures and stragglers


def test_the_checkpoint_interval_loses_least() -> None:
    cost, between_failures = 30.0, 3 * 3600.0

    def lost(interval: float) -> float:
        """Part of the time: checkpoints, and half an interval that is done again after each failure."""
        return cost / interval + interval / 2 / between_failures

    best = planner.checkpoint_interval(cost, between_failures)
    assert best == exactly(math.sqrt(2 * 30 * 10_800))
    assert lost(best) < min(lost(0.99 * best), lost(1.01 * best))


def test_the_straggler_factor_is_that_of_drawn_times() -> None:
    gauss = random.Random(0).gauss
    for cards, steps in ((1, 10_000), (8, 10_000), (500, 200)):
        drawn = fmean(max(gauss(1, 0.05) for _ in range(cards)) for _ in range(steps))
        assert planner.straggler_factor(cards, 0.05) == pytest.approx(drawn, rel=0.003)
    assert planner.straggler_factor(1, 0.05) == exactly(1)
    assert planner.straggler_factor(16_000, 0.05) < 1 + 0.05 * math.sqrt(2 * math.log(16_000))
