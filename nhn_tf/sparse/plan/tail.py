"""Where a network's tail begins: the last layers, which several images go through side by side.

Most layers run image by image, so that an image's maps stay in the cache. Where maps have become small and weights
large, the weights are what should stay: they are read once for a group of images. Each image's sums are the same.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.operations import Program

LEAST_GAIN = 1 << 15
"""Numbers that must be saved for each image, of weights that are not read again less maps that are."""

MAP_COST = 4
"""What a number of a map costs, in weights: it is written and read, mostly more than once."""

MAX_GROUP = 16
"""Images side by side: a sixteenth of the weights' reading is left."""

CHUNK = 1 << 16
"""Weights, 256 KiB, that all images of a group use before the next are read: they stay in the second cache level."""


def tail_start(program: Program) -> int:
    """The operation that the tail begins with; the number of operations where there is none.

    What the tail saves are its weights, of which an image reads none; what it costs are its maps, which leave the
    cache, and copies of what the operations before made for it.
    """
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in program.shapes]
    last_read: list[list[int]] = [[] for _ in sizes]  # For each operation, the values that none behind it reads.
    seen: set[int] = set()
    for number in range(len(sizes) - 1, -1, -1):
        fresh = set(program.ops[number].inputs) - seen
        last_read[number] += fresh
        seen |= fresh
    best, start, gain, copied = LEAST_GAIN, len(sizes), 0, 0
    for number in range(len(sizes) - 1, 0, -1):
        if isinstance(program.ops[number], ops.Input):
            break
        gain += _weights(program.ops[number]) - MAP_COST * sizes[number]
        copied += sum(sizes[value] for value in last_read[number]) - (sizes[number] if number in seen else 0)
        if gain - copied >= best:
            best, start = gain - copied, number
    return start


def _weights(op: ops.Op) -> int:
    """How many numbers an operation reads beside its inputs."""
    arrays = (getattr(op, field.name) for field in dataclasses.fields(op))
    return sum(array.size for array in arrays if isinstance(array, np.ndarray) and array.dtype == np.float32)


def chunks(weights: np.ndarray) -> list[tuple[int, int]]:
    """Groups of filters in pieces of up to `CHUNK` weights, or of one group.

    Args:
      weights: int [groups + 1], those before each group, and all.

    Returns:
      (first group, group behind the last) of each piece.
    """
    result, first = [], 0
    while first < len(weights) - 1:
        stop = int(np.searchsorted(weights, weights[first] + CHUNK, side="right")) - 1
        stop = max(stop, first + 1)
        result.append((first, stop))
        first = stop
    return result
