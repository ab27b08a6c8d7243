"""Figures measured several times, once for each seed: mean, spread, and differences between two that share seeds.

Seeds are integers, figures numbers; n is how many there are.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure by seed.

    Attributes:
      values: the figure of each seed.
    """

    values: Mapping[int, float]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        """NaN of nothing."""
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @property
    def std(self) -> float:
        """The sample's standard deviation, with n - 1; NaN of fewer than two values."""
        return statistics.stdev(self.values.values()) if self.n > 1 else math.nan

    @property
    def standard_error(self) -> float:
        """Of the mean; NaN of fewer than two values."""
        return self.std / math.sqrt(self.n) if self.n else math.nan

    @property
    def errors(self) -> float:
        """How many standard errors the mean is from 0; NaN where all values are equal or there are fewer than two."""
        return self.mean / self.standard_error if self.standard_error else math.nan

    def minus(self, other: Estimate) -> Estimate:
        """The differences of the seeds that both figures have: what a seed decides for both cancels out."""
        both = [seed for seed in self.values if seed in other.values]
        return Estimate({seed: self.values[seed] - other.values[seed] for seed in both})

    def to_json(self) -> dict[str, Any]:
        """The values by seed, and what is calculated from them; null for NaN."""
        computed = {name: getattr(self, name) for name in ("mean", "std", "standard_error", "errors")}
        known = {name: value if math.isfinite(value) else None for name, value in computed.items()}
        return {"n": self.n, **known, "values": {str(seed): value for seed, value in self.values.items()}}
