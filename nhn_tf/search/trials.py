"""Candidates with their scores, and what a search comes to by them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nhn_tf.values.comparison import Comparison
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.masks import Masks


@dataclasses.dataclass(frozen=True)
class Trial:
    """An architecture and how well it did.

    Attributes:
      genotype: the architecture.
      score: the objective's value; NaN for one that could not be measured.
      source: what proposed it, such as "controller" or "random".
      accuracy: on the images that the score was measured on, where that is known.
    """

    genotype: Genotype
    score: float
    source: str
    accuracy: float | None = None

    def to_json(self) -> dict[str, Any]:
        score = self.score if math.isfinite(self.score) else None
        return {"genotype": self.genotype.to_json(), "score": score, "source": self.source, "accuracy": self.accuracy}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], masks: Masks | None = None) -> Trial:
        """Reads `to_json`'s value; of the masks it holds only a digest, which these must have."""
        score = math.nan if value["score"] is None else value["score"]
        return cls(Genotype.from_json(value["genotype"], masks), score, value["source"], value.get("accuracy"))


def rank(trials: Sequence[Trial], direction: str = "max") -> list[Trial]:
    """The trials from best to worst, "max" or "min"; equal scores keep their order, NaN comes last."""
    sign = -1 if direction == "max" else 1
    return sorted(trials, key=lambda trial: (math.isnan(trial.score), sign * trial.score))


def mean_score(trials: Sequence[Trial]) -> float:
    """The mean of the trials' scores, without those that could not be measured; NaN where none could."""
    scores = [trial.score for trial in trials if not math.isnan(trial.score)]
    return float(np.mean(scores)) if scores else math.nan


def sampling_noise(accuracies: np.ndarray, images: int) -> float:
    """The standard error of an accuracy measured on `images` drawn images, sqrt(p (1 - p) / images): the mean of it.

    Args:
      accuracies: float [n]; NaN where one could not be measured.
      images: that each was measured on.

    Returns:
      The mean over those that could be measured; NaN where none could, or where one is no share in [0, 1].
    """
    measured = accuracies[~np.isnan(accuracies)]
    if not measured.size or measured.min() < 0 or measured.max() > 1:
        return math.nan
    return float(np.mean(np.sqrt(measured * (1 - measured) / images)))


class Conclusion(NamedTuple):
    """What a search came to.

    Attributes:
      trials: every final candidate, best first.
      comparisons: its figures beside those of its controls.
      figures: its other figures.
    """

    trials: list[Trial]
    comparisons: Sequence[Comparison]
    figures: dict[str, Any]
