"""Plans: seconds and bytes of a training step on many cards, worked out on paper. Introduced in chapter 14.

FLOPs and bytes of one card are counted and divided by its rates. `tokens` are those of a step on all cards: batch
times sequence. Six constants (`Card.matrix` of four kinds, `ATTENTION`, `FLOAT8`) were fitted on 7 published runs.
Not in it: latency, messages between the stages of a pipeline, uneven stages and experts, small matrices, failures.
All functions raise ValueError for numbers that are not above 0.
"""

import math
from dataclasses import replace
from statistics import NormalDist

from bigmodel_helpers.measure import _published, budgets
from bigmodel_helpers.measure._layouts import (
    Card,
    Layout,
    Mixture,
    Plan,
    all_parameters,
    block_numbers,
    check,
    divides,
    held_parameters,
    local_tokens,
    positive,
    whole,
    with_experts,
)
from bigmodel_helpers.measure._published import PublishedRun
from bigmodel_helpers.models import TransformerConfig

for _kind in (Card, Layout, Mixture, Plan, PublishedRun):
    _kind.__module__ = __name__  # here is where they are offered
_Mixed = Mixture | None

#: Part of the data sheet's bandwidth that messages reach; taken, not fitted.
MESSAGES = 0.8
#: Part of the data sheet's memory bandwidth that is reached; taken, not fitted.
MEMORY = 0.8
#: Efficiency of attention, as a part of that of matrix products.
ATTENTION = 0.501
#: How many times faster the matrix products of the blocks are in float8; the data sheet says 2.
FLOAT8 = 1.511
#: Part of the forward pass that is computed again in the backward pass, for each value of ``recompute``.
RECOMPUTED = {"none": 0.0, "selective": 1 / 3, "full": 1.0}
_MACHINE = 8  # cards that NVLink connects
_A100 = Card(312e12, 2.039e12, 300e9, 25e9, 0.685)
_H100 = Card(989e12, 3.35e12, 450e9, 50e9, 0.656)
#: Cards by name. "H100, 2023" has the software of that year, "H100, 500 W" less power and slower memory.
CARDS = {
    "H100": _H100,
    "H100, 500 W": replace(_H100, memory=2.4e12, matrix=0.487),
    "H100, 2023": replace(_H100, matrix=0.511),
    "H200": replace(_H100, memory=4.8e12),
    "H800": replace(_H100, nvlink=200e9),
    "A100": _A100,
    "A100, 100 Gb/s a pair": replace(_A100, network=6.25e9),
}


def state_bytes(
    config: TransformerConfig, layout: Layout, mixture: _Mixed = None
) -> tuple[float, float, float]:
    """Return the bytes of weights, gradients and optimizer state of a card.

    AdamW with bf16 weights takes 2 + 2 + 12 bytes a parameter; gradients that add up on a card have 4. With
    ``full`` sharding the weights of two blocks are gathered at a time.
    """
    held, total = held_parameters(config, layout, mixture), all_parameters(config, mixture)
    if layout.sharding == "none":
        return 2 * held, 4 * held, 12 * held
    share = total / layout.cards
    if layout.whole:
        return 2 * held, 4 * held, 12 * share
    return 2 * (share + 2 * held / config.layers), 2 * share, 12 * share


def activation_bytes(
    config: TransformerConfig, layout: Layout, batch: int, sequence: int, mixture: _Mixed = None
) -> float:
    """Return the bytes that a card keeps for the backward pass.

    The first stage of a pipeline holds as many micro-batches as there are stages, and more if interleaved; the last
    one holds the logits of one, in bf16 and twice in fp32.

    Raises:
        ValueError: `batch` or `sequence` cannot be divided as the layout says.
    """
    stages = min(layout.pipeline, layout.micro_batches(batch))
    whole(sequence=sequence)
    divides("tokens of a sequence", sequence, "context", layout.context)
    full, d = layout.recompute == "full", config.width
    block = 2 * block_numbers(config, layout.recompute, mixture) / layout.tensor
    block += 0 if layout.flash else 5 * config.heads * sequence / layout.tensor
    kept = (2 * d / layout.tensor if full else block) * config.layers / layout.pipeline
    flying = stages + ((stages - 1) / layout.virtual if layout.virtual > 1 else 0)
    once = (block if full else 0) + 6 * d * (layout.tensor > 1)
    most = max(flying * kept, kept + 10 * config.vocabulary / layout.tensor)
    return layout.micro_batch * sequence / layout.context * (once + most)


def matrix_seconds(
    config: TransformerConfig, card: Card, layout: Layout, tokens: int, mixture: _Mixed = None
) -> float:
    """Return the seconds of all products with weights: 6 FLOPs a weight and token.

    Recomputation adds up to 2 in the blocks; the output layer is neither computed again nor in float8.
    """
    positive(tokens=tokens)
    head = config.vocabulary * config.width
    blocks = budgets.matrix_parameters(with_experts(mixture.active if mixture else 1, config)) - head
    blocks *= (3 + RECOMPUTED[layout.recompute]) / (FLOAT8 if layout.precision == "float8" else 1)
    return 2 * (blocks + 3 * head) * tokens / (card.matrix * card.peak * layout.cards)


def attention_seconds(
    config: TransformerConfig, card: Card, layout: Layout, tokens: int, sequence: int
) -> float:
    """Return the seconds of attention between the `sequence` tokens of each sequence.

    A pass takes 4 FLOPs a pair of tokens and number of the queries. FlashAttention makes 3.5 passes (two products
    forward, five backward) over half of the pairs; without it there are 3 over all of them.
    """
    positive(tokens=tokens, sequence=sequence)
    passes = (3.5 if layout.flash else 3) + (layout.recompute == "full")
    seen = sequence / 2 if layout.flash else sequence
    flops = passes * 4 * config.layers * config.q_width * seen * tokens
    return flops / (ATTENTION * card.matrix * card.peak * layout.cards)


def elementwise_seconds(
    config: TransformerConfig, card: Card, layout: Layout, tokens: int, sequence: int, mixture: _Mixed = None
) -> float:
    """Return the seconds in which what is done number by number goes through memory, in bf16.

    In a block: two normalizations, two sums, rotary positions, the activation function, and routing to experts. The
    backward pass moves twice as much as the forward pass, which `recompute` repeats, and unfused operations three
    times as much; scores without FlashAttention take 11 bytes a pair and head, logits 24 bytes a number.
    """
    positive(tokens=tokens, sequence=sequence)
    active = mixture.active if mixture else 1
    numbers = 10 * config.width + 2 * (config.q_width + config.kv_width)
    numbers += (3 if config.gated else 2) * active * config.hidden
    numbers += 4 * active * config.width if mixture else 0
    moved = 2 * numbers * (1 if layout.fused else 3)
    moved += 0 if layout.flash else 11 * config.heads * sequence
    passes = 3 + (layout.recompute != "none")
    moved = passes * config.layers * moved + 24 * config.vocabulary
    return moved * tokens / (MEMORY * card.memory * layout.cards)


def bandwidth(card: Card, members: int, inner: int = 1) -> float:
    """Return the bytes per second of a card in a group.

    Args:
        card: the kind of card.
        members: cards of the group.
        inner: cards of another group that lie between two neighbors of this one, such as those of ``tensor``.

    Eight cards of a machine share NVLink. A larger group sends over the network of all its cards in the machine.
    """
    whole(members=members, inner=inner)
    inside = max(1, _MACHINE // inner)
    if members <= inside:
        return MESSAGES * card.nvlink
    return MESSAGES * min(card.nvlink, inside * card.network)


def tensor_seconds(config: TransformerConfig, card: Card, layout: Layout, tokens: int) -> float:
    """Return the seconds of the messages of tensor parallelism.

    A block gathers and reduces its inputs of 2 bytes a number 8 times, and 4 times more if recomputed in full.
    """
    n, times = layout.tensor, 8 + 4 * (layout.recompute == "full")
    moved = times * 2 * config.width * local_tokens(config, layout, tokens)
    return budgets.ring_bytes("all-gather", moved, n) / bandwidth(card, n)


def context_seconds(config: TransformerConfig, card: Card, layout: Layout, tokens: int) -> float:
    """Return the seconds in which keys and values go round the cards that share sequences: 3 or 4 times a block."""
    n, times = layout.context, 3 + (layout.recompute == "full")
    numbers = times * 2 * config.kv_width / layout.tensor
    moved = 2 * numbers * local_tokens(config, layout, tokens) * (n - 1)
    return moved / bandwidth(card, n, layout.tensor)


def expert_seconds(
    config: TransformerConfig, card: Card, layout: Layout, tokens: int, mixture: _Mixed = None
) -> float:
    """Return the seconds in which tokens go to their experts and come back: 4 exchanges a block, or 6.

    Between machines a token is sent once to each that has one of its experts, which are taken as random.
    """
    n, machines = layout.expert, max(1, layout.expert // _MACHINE)
    if n == 1 or not mixture:
        return 0.0
    times = 4 + 2 * (layout.recompute == "full")
    moved = times * 2 * config.width * local_tokens(config, layout, tokens)
    inside = mixture.active * (n - 1) / n if n <= _MACHINE else mixture.active
    reached = machines * (1 - (1 - 1 / machines) ** mixture.active)
    reached = min(reached, mixture.machines or reached) * (1 - 1 / machines)
    return moved * max(inside / card.nvlink, reached / card.network) / MESSAGES


def sharding_seconds(
    config: TransformerConfig, card: Card, layout: Layout, batch: int, hidden: float, mixture: _Mixed = None
) -> float:
    """Return the seconds of gathering weights and reducing gradients that stick out beside `hidden` s of work.

    A micro-batch gathers its weights twice and reduces gradients in fp32: 8 bytes a parameter. Where weights stay
    on the card it is 6 bytes once a step, beside one micro-batch.
    """
    n, times = layout.group, layout.micro_batches(batch)
    size = (6 if layout.whole else 8 * times) * held_parameters(config, layout, mixture)
    seconds = budgets.ring_bytes("all-gather", size, n) / bandwidth(card, n, layout.tensor)
    return max(0.0, seconds - hidden / (times if layout.whole else 1))


def optimizer_seconds(config: TransformerConfig, card: Card, layout: Layout, mixture: _Mixed = None) -> float:
    """Return the seconds of the optimizer: AdamW reads and writes 30 bytes a parameter."""
    count = all_parameters(config, mixture) / layout.cards
    if layout.sharding == "none":
        count = held_parameters(config, layout, mixture)
    return 30 * count / (MEMORY * card.memory)


def plan(
    config: TransformerConfig, card: Card, layout: Layout, batch: int, sequence: int, mixture: _Mixed = None
) -> Plan:
    """Plan a training step.

    Args:
        config: sizes of the model; biases, normalizations and tables of positions do not count.
        card: the kind of card, such as ``CARDS["H100"]``.
        layout: how the step is laid out over cards.
        batch: sequences of a step on all cards.
        sequence: tokens of a sequence.
        mixture: the experts, where there are some.

    Raises:
        ValueError: model, batch or sequences cannot be divided as the layout says.

    >>> config = models.TransformerConfig(126, 16384, 53248, 128, 8, 128256)  # Llama 3 405B
    >>> layout = planner.Layout(data=128, tensor=8, pipeline=16, virtual=8)
    >>> plan = planner.plan(config, planner.CARDS["H100"], layout, batch=2048, sequence=8192)
    >>> f"{layout.cards:,} cards: {plan.seconds:.2f} s, {plan.bytes / 2**30:.0f} GiB each"
    '16,384 cards: 5.74 s, 103 GiB each'
    """
    check(config, layout, mixture)
    activations, tokens = activation_bytes(config, layout, batch, sequence, mixture), batch * sequence
    matrix = matrix_seconds(config, card, layout, tokens, mixture)
    attention = attention_seconds(config, card, layout, tokens, sequence)
    elementwise = elementwise_seconds(config, card, layout, tokens, sequence, mixture)
    work, beside = matrix + attention + elementwise, matrix if layout.overlapped else 0.0
    messages = [tensor_seconds(config, card, layout, tokens), context_seconds(config, card, layout, tokens)]
    messages.append(expert_seconds(config, card, layout, tokens, mixture))
    messages = [max(0.0, seconds - beside) for seconds in messages]
    sharding = sharding_seconds(config, card, layout, batch, work, mixture)
    waits = (layout.pipeline - 1) / (layout.micro_batches(batch) * layout.virtual)
    bubble = waits * (work + sum(messages))
    ends = (sharding, bubble, optimizer_seconds(config, card, layout, mixture))
    bytes_of_a_card = (*state_bytes(config, layout, mixture), activations)
    return Plan(*bytes_of_a_card, matrix, attention, elementwise, *messages, *ends)


def published_runs() -> list[PublishedRun]:
    """Return the 65 published runs; the constants were fitted on 7 of them, the others can judge the planner."""
    return _published.published_runs(lambda config, card, *rest: plan(config, CARDS[card], *rest))


def checkpoint_interval(cost: float, between_failures: float) -> float:
    """Return the seconds between checkpoints that lose least time (Young 1974).

    Args:
        cost: seconds in which a checkpoint stops the training.
        between_failures: seconds from one failure to the next, on average, much longer than `cost`.

    >>> round(planner.checkpoint_interval(cost=30, between_failures=3 * 3600))
    805
    """
    positive(cost=cost, between_failures=between_failures)
    return math.sqrt(2 * cost * between_failures)


def straggler_factor(cards: int, variation: float) -> float:
    """Return how many times longer a step takes because all cards wait for the slowest.

    Their times are taken as independent and normal; the largest of them is that of Blom (1958).

    Args:
        cards: how many wait for each other.
        variation: standard deviation of the time of a card by its mean.

    >>> f"{planner.straggler_factor(cards=16_000, variation=0.05):.3f}"
    '1.198'
    """
    whole(cards=cards)
    positive(variation=variation)
    return 1 + variation * NormalDist().inv_cdf((cards - 0.375) / (cards + 0.25))
