"""Every stage, told once: what it is called, where it lies, what it builds on, what runs it.

`STAGES` are the seven of the pipeline in their order, `CONTROLS` what a run is compared with.
"""

from __future__ import annotations

import dataclasses
from typing import Final


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of the pipeline (paper, algorithm 2).

    Attributes:
      name: what it is called in flags, messages and done.json.
      directory: its directory within the run's.
      after: the stage whose result it builds on; None for the first.
      command: the script and flag that run it.
      run: its body in `nhn_tf.stages`, "module:function"; a name, since bodies stand above this table, which all read.
      inherits: whether it starts from the weights of the stage before it, not from the genotype alone.
    """

    name: str
    directory: str
    after: str | None
    command: str
    run: str
    inherits: bool = True


STAGES: Final = (
    Stage("enas", "1-enas", None, "search.py --stage=enas", "search:enas", inherits=False),
    Stage("base", "2-base", "enas", "train.py --stage=base", "train:base", inherits=False),
    Stage("prune", "3-prune", "base", "prune.py", "prune:prune"),
    Stage("pruned", "4-pruned", "prune", "train.py --stage=pruned", "train:pruned"),
    Stage("lds_location", "5-lds_location", "pruned", "search.py --stage=lds_location", "search:locations"),
    Stage("lds_direction", "6-lds_direction", "lds_location", "search.py --stage=lds_direction", "search:directions"),
    Stage("final", "7-final", "lds_direction", "train.py --stage=final", "train:final"),
)  # fmt: skip

CONTROLS: Final = (Stage("baseline", "baseline", None, "train.py --stage=baseline", "train:baseline", inherits=False),)
"""What a run is compared with; begun, resumed and read as stages are, but no other stage builds on them."""

NAMES: Final = tuple(stage.name for stage in STAGES)
CONTROL_NAMES: Final = tuple(stage.name for stage in CONTROLS)
_BY_NAME: Final = {stage.name: stage for stage in (*STAGES, *CONTROLS)}


def find(name: str) -> Stage:
    """The stage called `name`.

    Raises:
      ValueError: there is none.
    """
    if name not in _BY_NAME:
        raise ValueError(f"`name` must be among {', '.join(_BY_NAME)}. Received: {name!r}.")
    return _BY_NAME[name]
