"""A search's figures beside those of its controls, and the names they have among a stage's metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

RANDOM_SEARCH: Final = "random search"
NO_ADDONS: Final = "no add-ons"

# How a control's figure is called: this, and behind it the name of the search's own figure.
_PREFIXES: Final[Mapping[str, str]] = {RANDOM_SEARCH: "random_search_", NO_ADDONS: "no_addons_"}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a search found, and what a control that looked as often came to.

    Attributes:
      figure: the name of what is compared, such as "val_accuracy".
      found: the search's.
      control: what it is compared with, RANDOM_SEARCH or NO_ADDONS.
      control_value: the control's; None when it was not measured.

    Raises:
      ValueError: there is no such control.
    """

    figure: str
    found: float
    control: str
    control_value: float | None

    def __post_init__(self) -> None:
        if self.control not in _PREFIXES:
            raise ValueError(f"`control` must be among {', '.join(_PREFIXES)}. Received: {self.control!r}.")

    @property
    def control_figure(self) -> str:
        """The name of the control's figure, such as "random_search_val_accuracy"."""
        return _PREFIXES[self.control] + self.figure

    @property
    def is_accuracy(self) -> bool:
        """Whether the figures are shares of images, not rewards or losses."""
        return self.figure.endswith("accuracy")

    @property
    def gain(self) -> float:
        """How much the search is ahead of its control: of a loss, how much lower; NaN when that was not measured."""
        if self.control_value is None:
            return math.nan
        return (self.found - self.control_value) * (-1 if self.figure.endswith("loss") else 1)

    def metrics(self) -> dict[str, float | None]:
        """Both figures by name, as `read` finds them again."""
        return {self.figure: self.found, self.control_figure: self.control_value}

    @classmethod
    def read(cls, metrics: Mapping[str, Any]) -> list[Comparison]:
        """The comparisons among a stage's metrics, in the order of the controls' figures.

        Pairs with a figure that is missing or not finite are left out.
        """
        figures = {
            name: value for name, value in metrics.items() if isinstance(value, (int, float)) and math.isfinite(value)
        }
        return [
            cls(own, figures[own], control, value)
            for name, value in figures.items()
            for control, prefix in _PREFIXES.items()
            if name.startswith(prefix) and (own := name.removeprefix(prefix)) in figures
        ]
