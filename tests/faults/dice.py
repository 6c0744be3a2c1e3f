"""How often, and in which order, faults happen at random.

FAULT_ROUNDS=100 is the whole number where a few are enough each time; FAULT_SEED=N goes through
the same again: it is printed with every failure.
"""

from __future__ import annotations

import os
import secrets
from random import Random


def rounds(few: int) -> int:
    return int(os.environ.get("FAULT_ROUNDS", few))


def seeds(few: int) -> list[int]:
    """One for each round."""
    if "FAULT_SEED" in os.environ:
        return [int(os.environ["FAULT_SEED"])]
    return [secrets.randbelow(1 << 32) for _ in range(rounds(few))]


def dice(seed: int) -> Random:
    return Random(seed)
