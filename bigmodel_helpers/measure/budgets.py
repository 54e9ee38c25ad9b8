"""Parameters, FLOPs and bytes of a model, worked out on paper before it exists. Introduced in chapter 1."""

from dataclasses import dataclass

from bigmodel_helpers.models import TransformerConfig

# Bytes per parameter. "bf16 mixed" keeps a second copy of the weights in fp32, which the optimizer updates.
WEIGHTS = {"fp32": 4, "bf16 mixed": 2, "bf16": 2}
GRADIENTS = {"fp32": 4, "bf16 mixed": 2, "bf16": 2}
MASTER_WEIGHTS = {"fp32": 0, "bf16 mixed": 4, "bf16": 0}
_STATE_NUMBERS = {"SGD": 0, "SGD with momentum": 1, "AdamW": 2, "8-bit AdamW": 2}
_BLOCK = 256  # 8-bit numbers that share one fp32 scale (Dettmers et al. 2022 take 2048, torchao 256)


def _state_bytes(optimizer: str, precision: str) -> float:
    """Return the bytes of optimizer state per parameter.

    Args:
        optimizer: ``SGD``, ``SGD with momentum``, ``AdamW`` or ``8-bit AdamW``.
        precision: ``fp32``, ``bf16 mixed`` or ``bf16``. The state has the format of the weights that are
            updated, the fp32 copy in ``bf16 mixed``; that of the 8-bit optimizer takes one byte per number, plus
            a scale in fp32 for each 256 of them.

    Raises:
        ValueError: the optimizer or the precision is unknown.
    """
    if optimizer not in _STATE_NUMBERS or precision not in WEIGHTS:
        known = ", ".join((*_STATE_NUMBERS, *WEIGHTS))
        raise ValueError(f"{optimizer!r} with {precision!r} is unknown: choose from {known}")
    if optimizer.startswith("8-bit"):
        return _STATE_NUMBERS[optimizer] * (1 + 4 / _BLOCK)
    return _STATE_NUMBERS[optimizer] * (2 if precision == "bf16" else 4)


def _bytes_of(precision: str) -> int:
    if precision not in WEIGHTS:
        raise ValueError(f"the precision {precision!r} is unknown: choose from {', '.join(WEIGHTS)}")
    return WEIGHTS[precision]


def matrix_parameters(config: TransformerConfig) -> int:
    """Count the weights that a token is multiplied with: all matrices of the blocks and the output layer."""
    attention = 2 * config.width * (config.q_width + config.kv_width)
    mlp = (3 if config.gated else 2) * config.width * config.hidden
    return config.layers * (attention + mlp) + config.vocabulary * config.width


def parameters(config: TransformerConfig) -> int:
    """Count all parameters of a transformer, shared ones once."""
    d, mlp_inputs = config.width, 2 if config.gated else 1
    biases = config.q_width + 2 * config.kv_width if config.bias or config.qkv_bias else 0
    biases += d + mlp_inputs * config.hidden + d if config.bias else 0
    head_norms = 2 * config.head_width if config.qk_norm else 0
    norms = (2 * config.layers + 1) * d * (2 if config.bias else 1)
    embeddings = config.positions * d + (0 if config.tied else config.vocabulary * d)
    return matrix_parameters(config) + config.layers * (biases + head_norms) + norms + embeddings


def forward_flops(config: TransformerConfig, tokens: int) -> int:
    """Count the FLOPs per token of the forward pass over sequences of `tokens` tokens.

    Two per weight of each matrix, and four per pair of tokens and number of the queries for attention, as if
    every token looked at all others (a causal kernel may skip half of that). As in `measure.flops`, what is done
    number by number does not count: normalization, activation functions, biases, softmax.
    """
    return 2 * matrix_parameters(config) + 4 * config.layers * tokens * config.q_width


def training_flops(config: TransformerConfig, tokens: int) -> int:
    """Count the FLOPs per token of a training step: the backward pass costs twice the forward pass."""
    return 3 * forward_flops(config, tokens)


def activation_bytes(
    config: TransformerConfig, tokens: int, precision: str = "bf16 mixed", checkpoint: bool = False
) -> int:
    """Count the bytes that `tokens` tokens (batch times sequence) leave for the backward pass.

    Attention is assumed to keep no matrix of token pairs (FlashAttention). Each block keeps the inputs of
    its normalizations, of its matrices, of attention and of the activation function; with `checkpoint`
    only its input, and one block is complete at a time. The loss keeps a log-softmax over the vocabulary in
    fp32. Normalization is assumed to be one operation, as on GPUs; `nn.RMSNorm` on a CPU keeps its input twice.
    The angles of rotary positions, the same in all blocks, do not count.

    Raises:
        ValueError: the precision is unknown.
    """
    size, d = _bytes_of(precision), config.width
    mlp = (4 if config.gated else 2) * config.hidden
    head_norms = config.q_width + config.kv_width if config.qk_norm else 0
    block = 4 * d + (2 * config.q_width + 2 * config.kv_width) + head_norms + mlp
    blocks = config.layers * d + block if checkpoint else config.layers * block
    return tokens * (size * (blocks + 2 * d) + 4 * config.vocabulary)


def cache_bytes(config: TransformerConfig, tokens: int, precision: str = "bf16") -> int:
    """Count the bytes of keys and values that `tokens` tokens (batch times sequence) leave in a `models.Cache`.

    Introduced in chapter 10.

    Raises:
        ValueError: the precision is unknown.

    >>> budgets.cache_bytes(models.TransformerConfig(32, 4096, 14336, 32, 8, 128256), tokens=1)
    131072
    """
    return 2 * config.layers * config.kv_width * tokens * _bytes_of(precision)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one device during training, by what they hold."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All of it, in bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations


def training_memory(
    parameters: int,
    activations: float = 0.0,
    *,
    precision: str = "bf16 mixed",
    optimizer: str = "AdamW",
    devices: int = 1,
) -> TrainingMemory:
    """Return the bytes per device that training needs.

    Args:
        parameters: of the whole model.
        activations: bytes on one device, for its own part of the batch; see `activation_bytes`.
        precision: ``fp32``, ``bf16 mixed`` (with fp32 copies of the weights, counted as optimizer state) or
            ``bf16``.
        optimizer: ``SGD``, ``SGD with momentum``, ``AdamW`` or ``8-bit AdamW``.
        devices: how many share weights, gradients and optimizer state evenly (full sharding, ZeRO 3,
            Rajbhandari et al. 2020). The layer that is gathered for use at the moment is not counted.

    Raises:
        ValueError: `devices` is less than 1, or the precision or the optimizer is unknown.
    """
    state = _state_bytes(optimizer, precision)
    if devices < 1:
        raise ValueError(f"{devices} devices cannot train: take at least 1")
    share = parameters / devices
    return TrainingMemory(
        weights=WEIGHTS[precision] * share,
        gradients=GRADIENTS[precision] * share,
        optimizer=(MASTER_WEIGHTS[precision] + state) * share,
        activations=activations,
    )


def ring_bytes(collective: str, size: float, ranks: int) -> float:
    """Return the bytes that each rank sends in a collective over a ring. Introduced in chapter 7.

    Args:
        collective: ``all-reduce``, ``all-gather`` or ``reduce-scatter`` (Patarasuk and Yuan 2009).
        size: bytes of the whole tensor: what each rank has before a reduction, or after a gather.
        ranks: number of processes in the ring.

    Raises:
        ValueError: the collective is unknown, or `ranks` is less than 1.
    """
    passes = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}
    if collective not in passes or ranks < 1:
        raise ValueError(f"{collective!r} of {ranks} ranks: choose {', '.join(passes)} and at least 1 rank")
    return passes[collective] * (ranks - 1) / ranks * size


def pipeline_bubble(stages: int, micro_batches: int) -> float:
    """Return the share of the time, 0 to 1, in which a stage of a pipeline waits. Introduced in chapter 7.

    It holds for GPipe and 1F1B with one part of the model per stage, when all stages take the same time.

    Raises:
        ValueError: `stages` or `micro_batches` is less than 1.
    """
    if stages < 1 or micro_batches < 1:
        raise ValueError(f"{stages} stages, {micro_batches} micro-batches: take at least 1 of each")
    return (stages - 1) / (micro_batches + stages - 1)
