"""The best sets of add-on locations, as the search for locations ranked them in its trials.csv."""

from __future__ import annotations

import re
from typing import Final

from nhn_tf.report.reading import Run
from nhn_tf.storage.files import DamagedFileError
from nhn_tf.values.genotype import Addon
from nhn_tf.values.space import Space

STAGE: Final = "lds_location"
CONTROL: Final = "random"
"""What trials.csv calls the source of the control's candidates."""

_ADDON: Final = re.compile(r"layer (\d+): (\d+)x\d+ from (?:the segment's input|layer (\d+))")


def best(run: Run, count: int = 3) -> list[tuple[Addon, ...]]:
    """The add-ons of the search's best candidates, the best first; the control's and those without any left out.

    Raises:
      DamagedFileError: trials.csv is not what a search for locations leaves.
    """
    if run.genotype is None:
        return []
    stage, space = run.stages[STAGE], run.genotype.space
    rows = [row for row in stage.trials if row.get("source") != CONTROL]
    try:
        sets = [tuple(read(part, space) for part in row["addons"].split("; ") if part) for row in rows]
    except (KeyError, ValueError) as error:
        raise DamagedFileError(f"{stage / 'trials.csv'} has no readable add-ons ({error}). Restore a copy.") from None
    return list(dict.fromkeys(filter(None, sets)))[:count]


def read(words: str, space: Space) -> Addon:
    """The add-on that is described so: "layer 3: 5x5 from layer 2", "layer 0: 3x3 from the segment's input".

    Raises:
      ValueError: it is another description, or its layers are not in one segment of `space`.
    """
    if not (found := _ADDON.fullmatch(words)):
        raise ValueError(f"no add-on: {words!r}")
    target, size, layer = int(found[1]), int(found[2]), found[3]
    if target >= space.num_layers or size not in (3, 5):
        raise ValueError(f"no add-on of {space.num_layers} layers: {words!r}")
    first = target - target % space.layers_per_segment
    source = 0 if layer is None else int(layer) - first + 1
    if layer is not None and not first <= int(layer) < target:
        raise ValueError(f"an add-on stays within its segment: {words!r}")
    return Addon(target, size, source)
