"""Seeds and generators that depend on several numbers, the same on every machine."""

from typing import Any

import numpy as np
from torch import Generator


def mix(seed: int, *place: int) -> int:
    """Return a 63-bit seed for a place (an epoch, a batch) within what `seed` stands for."""
    return int(np.random.SeedSequence(seed, spawn_key=place).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seeded(seed: int, *place: int) -> Generator:
    """Return a generator on the CPU, seeded by `mix`."""
    return Generator().manual_seed(mix(seed, *place))


def refuse_other_order(saved: dict[str, Any], own: dict[str, Any]) -> None:
    """Raise a ValueError where what decides the order of batches is not what it was when `saved` was made."""
    for name, value in own.items():
        if saved[name] != value:
            raise ValueError(f"the saved batches have {name}={saved[name]}, these {value}: make them alike")
