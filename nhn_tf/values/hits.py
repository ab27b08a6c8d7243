"""How many images of each class are known: accuracy, its mean over classes, and what the largest class gives alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Hits(NamedTuple):
    """Images of each class, int [K], and how many of them are known, int [K]."""

    images: np.ndarray
    correct: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of all images that are known."""
        return int(self.correct.sum()) / int(self.images.sum())

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes that have images of the share of each that is known."""
        there = self.images > 0
        return float(np.mean(self.correct[there] / self.images[there]))

    @property
    def majority_accuracy(self) -> float:
        """What answering the most frequent class always would give."""
        return int(self.images.max()) / int(self.images.sum())
