"""What a network looks like beyond its genotype: the same for every network of a run."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

LAYER_FORMS: Final = ("mixed", "release", "direct")
REDUCTIONS: Final = ("factorized", "avg_pool")


@dataclasses.dataclass(frozen=True)
class Form:
    """How a genotype becomes a network; the defaults are ENAS's, the smoothing the paper's (section 2.2).

    Attributes:
      filters: channels in the first segment, at least 2: a factorized reduction makes them in two halves.
      width_growth: the channels are multiplied by this at each transition, at least 1.
      separable_as_dense: build separable convolutions as full ones: only full kernels can be pruned.
      smooth_init: smooth 3x3 and 5x5 kernels by a Gaussian after initialisation.
      layer_form: what stands around an op, one of `LAYER_FORMS`. mixed: 1x1 convolutions before and behind it, as in
        the supernet; release: the same with a ReLU before the first and none behind the op, as ENAS's released code;
        direct: none where a layer reads one output, and one before it where it joins several.
      reduction: what halves a map at a transition, one of `REDUCTIONS`: ENAS's factorized reduction, or an average
        pooling, as the paper has it, and a 1x1 convolution to the new width.

    Raises:
      ValueError: one of them is of another type or too small.
    """

    filters: int = 96
    width_growth: int = 2
    separable_as_dense: bool = True
    smooth_init: bool = True
    layer_form: str = "mixed"
    reduction: str = "factorized"

    def __post_init__(self) -> None:
        for name, least in (("filters", 2), ("width_growth", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"`{name}` must be a whole number of at least {least}. Received: {value!r}.")
        for name in ("separable_as_dense", "smooth_init"):
            value = getattr(self, name)
            if type(value) is not bool:
                raise ValueError(f"`{name}` must be True or False. Received: {value!r}.")
        for name, choices in (("layer_form", LAYER_FORMS), ("reduction", REDUCTIONS)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"`{name}` must be among {', '.join(choices)}. Received: {value!r}.")

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as `Form(**value)` takes them; those new since older runs only where they differ."""
        later = {"layer_form": Form.layer_form, "reduction": Form.reduction}
        return {name: value for name, value in dataclasses.asdict(self).items() if value != later.get(name)}
