"""Classes of very different sizes: how different they are, and epochs in which all of them count the same.

Balancing draws images of rare classes more often, so that every batch, loss and accuracy of the epoch is of balanced
classes, and nothing else need know of it.

Letters: N images, K classes that have any.
"""

from __future__ import annotations

from typing import Final

import numpy as np

UNBALANCED: Final = 3.0
"""The largest class has more than so many times the images of the smallest."""


def imbalance(labels: np.ndarray) -> float:
    """How many times as many images the largest class has as the smallest that has any; labels int [N]."""
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return float(counts.max() / counts.min())


def balanced_rows(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many rows as there are, each class as often as the others: N / K times, up to one.

    An image stands there as often as the others of its class, up to one more: which ones is drawn. Where all classes
    have one size, these are all rows, each once.

    Args:
      labels: int [N].
      rng: draws.

    Returns:
      int [N], sorted.
    """
    present = np.unique(labels)
    share, rest = divmod(len(labels), len(present))
    rows = []
    for place, label in enumerate(present):
        own = np.flatnonzero(labels == label)
        whole, more = divmod(share + (place < rest), len(own))
        rows += [own] * whole + [rng.permutation(own)[:more]]
    return np.sort(np.concatenate(rows))
