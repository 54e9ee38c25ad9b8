"""What `planner` plans with: cards, layouts, experts and plans, and the numbers that they hold."""

import math
from dataclasses import dataclass, fields, replace
from numbers import Real

from bigmodel_helpers.measure import budgets
from bigmodel_helpers.models import TransformerConfig

_WORDS = {
    "recompute": ("none", "selective", "full"),
    "precision": ("bf16", "float8"),
    "sharding": ("none", "optimizer", "full"),
}


def positive(**numbers: float) -> None:
    """Refuse numbers that are not above 0 or not finite."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
            raise ValueError(f"{name} is {value!r:.99}: take a finite number above 0")


def whole(least: int = 1, **numbers: int) -> None:
    """Refuse what is no whole number of at least `least`."""
    for name, value in numbers.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{name} is {value!r:.99}: take a whole number of at least {least}")


def divides(what: str, number: int, name: str, parts: int) -> None:
    """Refuse a `number` of `what` that cannot be divided into equal `parts`, the value of `name`."""
    if number % parts:
        raise ValueError(f"{number} {what} cannot be divided by {name} = {parts}: take a divisor of {number}")


@dataclass(frozen=True)
class Card:
    """What a card does per second.

    Attributes:
        peak: FLOPs of matrix products in bf16, from the data sheet.
        memory: bytes from and to its memory.
        nvlink: bytes to the cards of its machine, in one direction.
        network: bytes to other machines, in one direction.
        matrix: part of the peak that matrix products reach, fitted.

    Raises:
        ValueError: one of them is not above 0.
    """

    peak: float
    memory: float
    nvlink: float
    network: float
    matrix: float

    def __post_init__(self) -> None:
        positive(**vars(self))


@dataclass(frozen=True)
class Layout:
    """How a step is laid out over cards.

    Attributes:
        data, tensor, pipeline, context: into how many parts the batch, the matrices, the blocks and the sequences
            are divided; the product is the number of cards.
        expert: over how many of the ``data`` times ``context`` cards the experts are spread.
        micro_batch: sequences that a card computes at once.
        virtual: parts of the model that a stage of the pipeline holds (interleaved 1F1B).
        recompute: ``none``, ``selective`` (what is cheap, and each second product) or ``full`` (all but the inputs
            of the blocks).
        precision: of the products in the blocks, ``bf16`` or ``float8``.
        sharding: what is spread over ``data`` times ``context`` cards: ``none``, the state of the ``optimizer``,
            or weights and gradients, too (``full``). In a pipeline these stay whole until the step ends.
        fused: operations on single numbers are fused by a compiler.
        flash: attention keeps no matrix of token pairs (FlashAttention) and skips the half that is masked.
        overlapped: messages of ``tensor``, ``context`` and ``expert`` run beside the matrix products.

    Raises:
        ValueError: a number is not whole or below 1, a word is unknown, or ``expert`` divides no group of cards.
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1
    micro_batch: int = 1
    virtual: int = 1
    recompute: str = "none"
    precision: str = "bf16"
    sharding: str = "full"
    fused: bool = True
    flash: bool = True
    overlapped: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if field.type is int:
                whole(**{name: value})
            elif field.type is bool and type(value) is not bool:
                raise ValueError(f"{name} is {value!r:.99}: take True or False")
            elif field.type is str and value not in _WORDS[name]:
                raise ValueError(
                    f"{name} is {value!r:.99}, which is unknown: choose from {', '.join(_WORDS[name])}"
                )
        divides("cards of data * context", self.group, "expert", self.expert)

    @property
    def cards(self) -> int:
        """How many cards there are: the product of the four."""
        return self.data * self.tensor * self.pipeline * self.context

    @property
    def whole(self) -> bool:
        """Weights and gradients stay whole on a card during a step."""
        return self.sharding != "full" or self.pipeline > 1

    @property
    def group(self) -> int:
        """The cards that share out weights, gradients and optimizer state: ``data`` times ``context``."""
        return self.data * self.context

    def micro_batches(self, batch: int) -> int:
        """Return how many micro-batches a card computes in a step of `batch` sequences.

        Raises:
            ValueError: `batch` is no multiple of ``data`` times ``micro_batch``.
        """
        whole(batch=batch)
        divides("sequences of a batch", batch, "data * micro_batch", self.data * self.micro_batch)
        return batch // (self.data * self.micro_batch)


@dataclass(frozen=True)
class Mixture:
    """The experts of each block, when ``hidden`` of the configuration is that of one expert.

    Attributes:
        experts: all of a block, shared ones too.
        active: those that a token meets.
        machines: how many machines the experts of a token may lie on at most, 0 for any number.

    Raises:
        ValueError: a number is not whole, `experts` is below 2, or `active` is not 1 to `experts`.
    """

    experts: int
    active: int
    machines: int = 0

    def __post_init__(self) -> None:
        whole(2, experts=self.experts)
        whole(active=self.active)
        whole(0, machines=self.machines)
        if self.active > self.experts:
            raise ValueError(
                f"{self.active} of {self.experts} experts cannot be active: take at most all of them"
            )


@dataclass(frozen=True)
class Plan:
    """What a step takes: the bytes of a card by what they hold, and its seconds by what they are for."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    matrix_seconds: float
    attention_seconds: float
    elementwise_seconds: float
    tensor_seconds: float
    context_seconds: float
    expert_seconds: float
    sharding_seconds: float
    bubble_seconds: float
    optimizer_seconds: float

    @property
    def bytes(self) -> float:
        """All bytes of a card, on the stage that holds most activations."""
        return self.weights + self.gradients + self.optimizer + self.activations

    @property
    def seconds(self) -> float:
        """All seconds of a step."""
        return sum(value for name, value in vars(self).items() if name.endswith("_seconds"))


def with_experts(experts: int, config: TransformerConfig) -> TransformerConfig:
    """Return the dense model that multiplies by as many weights as one with that many experts."""
    return replace(config, hidden=experts * config.hidden)


def all_parameters(config: TransformerConfig, mixture: Mixture | None) -> int:
    """Count all parameters but those of biases and normalizations."""
    every = with_experts(mixture.experts if mixture else 1, config)
    return budgets.matrix_parameters(every) + (0 if config.tied else config.vocabulary * config.width)


def held_parameters(config: TransformerConfig, layout: Layout, mixture: Mixture | None) -> float:
    """Count the parameters of a card as long as nothing is sharded: a part of its stage, and of all experts."""
    count = all_parameters(config, mixture)
    if mixture and layout.expert > 1:
        experts = config.layers * mixture.experts * (3 if config.gated else 2) * config.width * config.hidden
        count -= experts * (1 - 1 / layout.expert)
    return count / layout.tensor / layout.pipeline


def block_numbers(config: TransformerConfig, recompute: str, mixture: Mixture | None) -> int:
    """Count the numbers per token that a block keeps; those of `budgets.activation_bytes` without recomputation."""
    hidden = (mixture.active if mixture else 1) * config.hidden
    routed = 2 * mixture.active * config.width if mixture else 0
    if recompute == "selective":
        return 3 * config.width + config.q_width + config.kv_width + hidden + routed
    inputs = 4 * config.width + 2 * (config.q_width + config.kv_width)
    return inputs + (4 if config.gated else 2) * hidden + routed


def local_tokens(config: TransformerConfig, layout: Layout, tokens: int) -> float:
    """Return the tokens of a card times the blocks of its stage."""
    positive(tokens=tokens)
    return tokens / layout.group * config.layers / layout.pipeline


def check(config: TransformerConfig, layout: Layout, mixture: Mixture | None) -> None:
    """Refuse a model that cannot be divided; first and last part of a pipeline may have no blocks, only the ends."""
    divides("heads", config.heads, "tensor", layout.tensor)
    experts, parts = mixture.experts if mixture else 1, layout.pipeline * layout.virtual
    if config.layers + 2 < parts:
        raise ValueError(
            f"{config.layers} blocks are too few for pipeline * virtual = {parts}: take fewer parts"
        )
    if experts < layout.expert:
        raise ValueError(
            f"expert = {layout.expert} cannot divide {experts} in a block: take less, or give a mixture of more"
        )
