"""Rewards as numbers: what stands for one that is missing, for a loss, and beside others on the same images."""

from __future__ import annotations

import math

import numpy as np


def without_nan(rewards: np.ndarray) -> np.ndarray:
    """Rewards float [n], NaN replaced by the lowest of the others, or by 0 where that is lower."""
    return np.where(np.isnan(rewards), np.nanmin([0.0, *rewards]), rewards)


def finite(value: float) -> float:
    """The value; NaN where it is infinite."""
    return value if math.isfinite(value) else math.nan


def of_loss(loss: float) -> float:
    """exp(-loss), in [0, 1]; NaN where the loss is not finite."""
    return math.exp(-finite(loss))


def mean_loss(rewards: np.ndarray) -> float:
    """The mean of the losses that rewards exp(-loss) float [n] are of; NaN where none is finite."""
    losses = -np.log(rewards[rewards > 0])
    return float(np.mean(losses)) if losses.size else math.nan


def above_the_others(rewards: np.ndarray) -> np.ndarray:
    """What each reward is above the mean of the others: what all have in common, such as easy images, drops out.

    Args:
      rewards: float [n], n at least 2.

    Returns:
      float32 [n].

    Source: Kool, van Hoof & Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free!"
    """
    count = len(rewards)
    return (count / (count - 1) * (rewards - np.mean(rewards))).astype(np.float32)
