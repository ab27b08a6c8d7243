"""How far a share of few images can be trusted: intervals of 95%, and when a difference is more than noise."""

from __future__ import annotations

import math
from typing import Final

Z: Final = 1.959963984540054
"""Standard deviations to either side that hold 95% of a normal distribution."""


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson, 1927): unlike the normal one it stays within [0, 1].

    Args:
      hits: how many of `total`.
      total: at least 1.

    Returns:
      (lower, upper), between which the true share lies with a confidence of 95%.

    Raises:
      ValueError: there is nothing to count, or more hits than images.
    """
    if not 0 <= hits <= total or total < 1:
        raise ValueError(f"`hits` must lie in [0, `total`], and `total` be at least 1. Received: {hits}, {total}.")
    share, spread = hits / total, Z * Z / total
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def noise(first: float, second: float, total: int) -> float:
    """How far two equally good networks' shares of `total` images differ by chance: 95% of differences are smaller.

    Newcombe's interval for a difference (1998, method 10) at its wider side, from two Wilson intervals; the networks
    count as independent, though they see the same images, so that the answer is cautious.

    Args:
      first, second: the shares, in [0, 1].
      total: images of each.
    """
    low, high = sorted((first, second))
    (below, above), (under, over) = (wilson(round(share * total), total) for share in (low, high))
    return max(math.hypot(above - low, high - under), math.hypot(low - below, over - high))


def sign_test(wins: int, losses: int) -> float:
    """The two-sided exact sign test (McNemar's, on paired answers).

    Args:
      wins: images that only the first network has right.
      losses: images that only the second has right.

    Returns:
      How probable it is that two equally good networks differ at least so much; 1 where they never differ.
    """
    total = wins + losses
    tail = sum(math.comb(total, count) for count in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**total)
