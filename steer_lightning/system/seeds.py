"""The range of seeds, checked before anything is drawn from them."""

from __future__ import annotations

from typing import Literal

from steer_lightning.errors import ConfigError

WHY = {
    32: "The seeds of steps and orders are computed from it, and must fit in 64 bits",
    64: "Generators of random numbers take a seed of 64 bits, and some ignore the sign",
}


def check_seed(key: str, seed: int, num_bits: Literal[32, 64] = 64) -> None:
    """Raises a ConfigError for a seed that a generator of random numbers does not take.

    Args:
        key: Setting that holds the seed.
        seed: Seed.
        num_bits: Number of bits of the largest seed: 32 for the seed of a whole run, from which
            others are computed, and 64 for one that is used as it is.
    """
    if not 0 <= seed < 2**num_bits:
        rule = f"must be from 0 to {2**num_bits - 1}"
        raise ConfigError(key, seed, rule=rule, why=WHY[num_bits])
