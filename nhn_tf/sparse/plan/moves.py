"""Copies of rows as vectors whose lanes are known beforehand."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from nhn_tf.sparse.native.copies import Pattern

MAX_PATTERNS = 32
"""More would be more code than the copy is worth."""

MAX_REACH = 32
"""Vectors between the first and the last value of a pattern: as many loads at most."""

MAX_VALUES = 1 << 20
"""Copied for each channel; longer copies are made value by value, rather than planned for seconds."""

LEAST_FILLED = 0.25
"""Of the lanes; emptier vectors cost more than value by value."""


@dataclasses.dataclass(frozen=True, eq=False)
class Moves:
    """Vectors to copy.

    Attributes:
      patterns: (pattern, how many vectors have it).
      vectors: int32 [vectors, 2], (target, source) offsets of each, pattern after pattern.
    """

    patterns: tuple[tuple[Pattern, int], ...]
    vectors: np.ndarray


@functools.lru_cache(maxsize=32)
def vector_moves(rows: tuple[tuple[int, int, int], ...], steps: tuple[int, int], lanes: int) -> Moves | None:
    """Vectors that copy rows.

    Args:
      rows: (target offset, source offset, count), no target twice.
      steps: from a row's value to the next, in the source and in the target.
      lanes: of a vector.

    Returns:
      None where there are too many, or where they would be too different or too empty.
    """
    counts = np.array([count for _, _, count in rows])
    if counts.sum() > MAX_VALUES:
        return None
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    to = np.repeat([row[0] for row in rows], counts) + within * steps[1]
    source = np.repeat([row[1] for row in rows], counts) + within * steps[0]
    order = np.argsort(to)
    to, source = to[order], source[order]
    starts = _starts(to, lanes)
    if len(to) < LEAST_FILLED * lanes * len(starts) and len(starts) > len(rows):
        return None
    # For each vector's lanes, the value that is copied there, or -1.
    wanted = starts[:, None] + np.arange(lanes)
    found = np.minimum(np.searchsorted(to, wanted), len(to) - 1)
    value = np.where(to[found] == wanted, source[found], -1 << 40)
    there = to[found] == wanted
    base = np.where(there, value, 1 << 40).min(1)
    relative = np.where(there, value - base[:, None], -1)
    unique, which = np.unique(relative, axis=0, return_inverse=True)
    if len(unique) > MAX_PATTERNS or unique.max() > MAX_REACH * lanes:
        return None
    which = which.ravel()
    order = np.argsort(which, kind="stable")
    patterns = tuple(
        (tuple(None if offset < 0 else int(offset) for offset in lanes_), int(np.sum(which == number)))
        for number, lanes_ in enumerate(unique)
    )
    return Moves(patterns, np.stack([starts, base], axis=1)[order].astype(np.int32))


def _starts(to: np.ndarray, lanes: int) -> np.ndarray:
    """Where vectors start that cover sorted targets; the last of a run is moved back over its neighbour if it can."""
    breaks = np.nonzero(np.diff(to) >= lanes)[0] + 1
    result: list[np.ndarray] = []
    for run in np.split(to, breaks):
        first, stop = int(run[0]), int(run[-1]) + 1
        result.append(np.maximum(np.minimum(np.arange(first, stop, lanes), stop - lanes), first))
    return np.concatenate(result)
