"""Whether what a stage began from is still there: a stage before it may have been run again since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from nhn_tf.runs.record import StageRecord


class Departure(NamedTuple):
    """What of a finished stage's beginning is no longer there.

    Attributes:
      network: the stage before it, where that holds another network by now; "" where not.
      weights: whether no stage holds the weights any more that it began from.
    """

    network: str
    weights: bool

    def __str__(self) -> str:
        if self.network:
            return f"another network than stage {self.network} now holds"
        return "weights that no stage holds any more"


def departures(stages: Mapping[str, StageRecord]) -> dict[str, Departure]:
    """The finished stages of a run that began from what is no longer there, by name.

    Args:
      stages: every stage of the run, by name.

    Raises:
      DamagedFileError: a config.json or done.json cannot be read.
    """
    finished = {name: stage for name, stage in stages.items() if stage.is_done}
    held = {stage.done.weights for stage in finished.values()}
    found = {}
    for name, stage in finished.items():
        before = finished.get(stage.stage.after or "")
        given = stage.config["config"].get("genotype")  # an architecture of its own, from a file
        other = bool(before and not given and stage.done.input_genotype != before.done.genotype)
        inherited = stage.config.get("input_weights")
        lost = inherited is not None and inherited not in held
        if other or lost:
            found[name] = Departure(before.name if before and other else "", lost)
    return found
