"""Seeds and generators that depend on several numbers, the same on every machine."""

import numpy as np
from torch import Generator


def mix(seed: int, *place: int) -> int:
    """Return a 63-bit seed for a place (an epoch, a batch) within what `seed` stands for."""
    return int(np.random.SeedSequence(seed, spawn_key=place).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seeded(seed: int, *place: int) -> Generator:
    """Return a generator on the CPU, seeded by `mix`."""
    return Generator().manual_seed(mix(seed, *place))
