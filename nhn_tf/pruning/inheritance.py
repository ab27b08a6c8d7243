"""How much of what pruning keeps it would have kept before training: then it has little to do with what was learned.

Shapes: Cin Cout input and output channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Inheritance:
    """How much of what is kept would have been kept before training; shares in [0, 1].

    Attributes:
      kept_as_at_initialisation: of the kernels kept, those that the same choice keeps among the initial kernels.
      kept_by_chance: the same for a choice that is blind to the kernels.
      layers: layer name to both, among the layer's kernels; a layer that keeps none has 0 of the former. By chance is
        here the share of the layer that the choice among the initial kernels keeps.
    """

    kept_as_at_initialisation: float
    kept_by_chance: float
    layers: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, kept: Mapping[str, np.ndarray], initially: Mapping[str, np.ndarray]) -> Inheritance:
        """Compares masks, layer name to bool [Cin, Cout], True where a kernel is kept; both name the same layers."""
        both = {name: int((kept[name] & initially[name]).sum()) for name in kept}
        layers = {n: (both[n] / max(1, int(kept[n].sum())), float(initially[n].mean())) for n in kept}
        total = sum(int(mask.sum()) for mask in kept.values())
        density = sum(int(initially[n].sum()) for n in kept) / sum(mask.size for mask in kept.values())
        return cls(sum(both.values()) / max(1, total), density, layers)
