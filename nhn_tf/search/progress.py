"""How far a search has come within an epoch, or within its final measurements."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Phase = Literal["supernet", "controller", "individuals", "ranking"]
"""What is under way: a pass over the training images, the controller's updates, a cycle, the final candidates."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """What is done of the epoch or of the final measurements under way.

    Attributes:
      phase: see `Phase`.
      step: finished steps of it.
      done: what came of them, which is not to be done again; JSON values by name. In each phase:
        "supernet": `lr`, the learning rate at the pass's beginning.
        "controller": `supernet`, the metrics of the pass before, and `controller`, for each update its logs, genes and
        rewards.
        "individuals": `lr`, and `individuals`, for each its training loss, training accuracy and fitness.
        "ranking": `ranked`, the scores known by source of the candidates.
    """

    phase: Phase
    step: int = 0
    done: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def advanced(self, step: int, **done: Any) -> Progress:
        """The same phase, `step` of its steps finished, with what came of them put in."""
        return dataclasses.replace(self, step=step, done={**self.done, **done})

    def to_json(self) -> dict[str, Any]:
        """`done` alone: each phase's own names in it tell the phase, and how much there is tells the step."""
        return {**self.done, "step": self.step} if self.phase == "supernet" else dict(self.done)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Progress | None:
        """Reads `to_json`'s value; None where it is empty, between two epochs."""
        if "ranked" in value:
            return cls("ranking", sum(len(scores) for scores in value["ranked"].values()), value)
        if "individuals" in value:
            return cls("individuals", len(value["individuals"]), value)
        if "supernet" in value:
            return cls("controller", len(value.get("controller", ())), value)
        return cls("supernet", value["step"], {"lr": value["lr"]}) if value else None
