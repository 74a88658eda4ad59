"""Random streams, derived and never stored.

Every random number of a run comes from a stream named by (seed, repetition, round, purpose). The acquisition
function is not part of the name, so all functions of one repetition share splits, initial weights, pool order and
dropout masks: their curves are paired. A resumed run needs no saved generator.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is used for. The values are part of every result: never renumber them."""

    SPLIT = 0
    FIT = 1
    TEST_PASSES = 2
    VALIDATION_PASSES = 3
    POOL_ORDER = 4
    SCORING_PASSES = 5
    TIES = 6  # and all else that the choice of a batch draws
    TARGETS = 7
    IMBALANCE = 8
    LABEL_NOISE = 9


def stream(seed: int, repetition: int, round_: int, purpose: Purpose) -> np.random.Generator:
    """Return the generator of one purpose in one round of one repetition."""
    return np.random.default_rng(np.random.SeedSequence((seed, repetition, round_, int(purpose))))


def stream_seed(seed: int, repetition: int, round_: int, purpose: Purpose) -> int:
    """Return a 63-bit seed for generators that are not numpy's (torch takes one integer)."""
    return int(stream(seed, repetition, round_, purpose).integers(2**63))
