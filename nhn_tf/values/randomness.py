"""Random streams: every purpose of the package draws numbers of its own from one seed.

There is no generator state to save: whoever is interrupted asks for the same stream with the same counters again.
"""

from __future__ import annotations

import enum
import numbers
from typing import Final

import numpy as np

MAX_COUNTERS: Final = 3
_WORD: Final = 2**32
_END: Final = 1  # NumPy takes keys that differ only in zeros at their end for the same one


@enum.unique
class Stream(enum.IntEnum):
    """What random numbers are drawn for. A number once given is not given again."""

    # The data set.
    TEST_SPLIT = 1
    VALIDATION_SPLIT = 2
    TRAIN_LIMIT = 3
    VAL_LIMIT = 4
    TEST_LIMIT = 5
    PROBE = 6  # of the pictures' symmetry
    # Its batches.
    ORDER = 10  # of an epoch's images
    AUGMENTATION = 11  # of a batch
    BALANCE = 12  # which images of a class an epoch repeats or leaves out
    MIXING = 13  # of a batch's images with each other
    TRIVIAL = 14  # the one change of TrivialAugment to each image of a batch
    # The architecture search.
    CONTROLLER_INIT = 20
    CHILD = 21  # the architectures that the supernet trains on
    CONTROLLER = 22  # those that the controller learns from
    FINAL_ARCHITECTURES = 23  # those that are ranked at the end
    RANDOM_ARCHITECTURES = 24  # the random control
    REWARD_ORDER = 25  # of the validation images in rewards
    SHOWN_ARCHITECTURES = 26  # those whose choices are pictured
    RANDOM_PROBES = 27  # the random ones that are measured after each epoch
    TYPICAL_COST = 28  # those whose mean cost is aimed at
    # Pruning.
    RANDOM_PRUNING = 30  # sensitivities of the random criterion
    # The location-direction search.
    FIRST_POPULATION = 40
    RENEWAL = 41  # crossovers and new individuals after a cycle
    RANDOM_LOCATIONS = 42  # the random control
    FITNESS_ORDER = 43  # of the images that measure fitness
    DIRECTIONS = 44  # the masks of a cycle
    # What a run is compared with.
    CONTROL_ARCHITECTURE = 50
    CONTROL_ADDONS = 51


def generator(seed: int, stream: Stream, *counters: int) -> np.random.Generator:
    """The generator of one purpose, and of one epoch, batch or step of it.

    Args:
      seed: in [0, 2**64).
      stream: the purpose.
      *counters: up to three, each in [0, 2**32). Leaving some out is the same as to pass 0 for the last ones.

    Returns:
      A generator that no other stream, seed or counters share: all keys have one length and end in a word above 0.

    Raises:
      ValueError: a number lies outside its range, or there are more counters.
    """
    if not isinstance(seed, numbers.Integral) or not 0 <= seed < _WORD**2:
        raise ValueError(f"`seed` must be a whole number in 0..{_WORD**2 - 1}. Received: {seed!r}.")
    if len(counters) > MAX_COUNTERS or not all(0 <= counter < _WORD for counter in counters):
        raise ValueError(f"`counters` must be at most {MAX_COUNTERS}, each in 0..{_WORD - 1}. Received: {counters}.")
    high, low = divmod(int(seed), _WORD)
    padded = [*map(int, counters), *[0] * (MAX_COUNTERS - len(counters))]
    return np.random.default_rng([low, high, int(Stream(stream)), *padded, _END])
