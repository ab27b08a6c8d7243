"""Candidates that count once: a search and its control are to have the same number of looks.

Letters: n candidates, G genes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

_ATTEMPTS: Final = 20


def distinct_rows(genes: np.ndarray) -> np.ndarray:
    """The different rows of int [n, G], each where it first stood."""
    _, first = np.unique(genes, axis=0, return_index=True)
    return genes[np.sort(first)]


def draw_distinct(draw: Callable[[int], np.ndarray], count: int) -> np.ndarray:
    """Draws until there are `count` different rows.

    Args:
      draw: gives as many rows int [n, G] as it is asked for.
      count: how many.

    Returns:
      int [count, G]; fewer rows only where there are hardly any others.
    """
    drawn = distinct_rows(draw(count))
    for _ in range(_ATTEMPTS):
        if len(drawn) < count:
            drawn = distinct_rows(np.concatenate([drawn, draw(count)]))
    return drawn[:count]
