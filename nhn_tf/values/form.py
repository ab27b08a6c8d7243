"""What a network looks like beyond its genotype: the same for every network of a run."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Form:
    """How a genotype becomes a network; the defaults are ENAS's, the smoothing the paper's (section 2.2).

    Attributes:
      filters: channels in the first segment, at least 2: a factorized reduction makes them in two halves.
      width_growth: the channels are multiplied by this at each transition, at least 1.
      separable_as_dense: build separable convolutions as full ones: only full kernels can be pruned.
      smooth_init: smooth 3x3 and 5x5 kernels by a Gaussian after initialisation.

    Raises:
      ValueError: one of them is of another type or too small.
    """

    filters: int = 96
    width_growth: int = 2
    separable_as_dense: bool = True
    smooth_init: bool = True

    def __post_init__(self) -> None:
        for name, least in (("filters", 2), ("width_growth", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"`{name}` must be a whole number of at least {least}. Received: {value!r}.")
        for name in ("separable_as_dense", "smooth_init"):
            value = getattr(self, name)
            if type(value) is not bool:
                raise ValueError(f"`{name}` must be True or False. Received: {value!r}.")

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as `Form(**value)` takes them."""
        return dataclasses.asdict(self)
