"""Every stage, told once: what it is called, where it lies, what it builds on, what runs it.

`STAGES` are the seven of the pipeline in their order, `CONTROLS` what a run is compared with: a line here and a body in
`nhn_tf.stages` make another one.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from nhn_tf.storage.commands import typed


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of the pipeline (paper, algorithm 2).

    Attributes:
      name: what it is called in flags, messages and done.json.
      directory: its directory within the run's.
      after: the stage whose result it builds on; None for the first.
      call: the command and flag that run it, as `nhn_tf.storage.commands` wants them.
      run: its body in `nhn_tf.stages`, "module:function"; a name, since bodies stand above this table, which all read.
      inherits: whether it starts from the weights of the stage before it, not from the genotype alone.
      controls: of a control, the stage that it is compared with and whose settings it takes; "" where it has its own.
      weights_of: the stage whose weights it inherits, where that is not the one before it.
      epochs_of: the stages for whose epochs together a control is trained; its settings' own where there are none.
    """

    name: str
    directory: str
    after: str | None
    call: str
    run: str
    inherits: bool = True
    controls: str = ""
    weights_of: str = ""
    epochs_of: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that runs it, as it is typed here."""
        return typed(self.call)


STAGES: Final = (
    Stage("enas", "1-enas", None, "nhn-search --stage=enas", "search:enas", inherits=False),
    Stage("base", "2-base", "enas", "nhn-train --stage=base", "train:base", inherits=False),
    Stage("prune", "3-prune", "base", "nhn-prune", "prune:prune"),
    Stage("pruned", "4-pruned", "prune", "nhn-train --stage=pruned", "train:pruned"),
    Stage("lds_location", "5-lds_location", "pruned", "nhn-search --stage=lds_location", "search:locations"),
    Stage("lds_direction", "6-lds_direction", "lds_location", "nhn-search --stage=lds_direction", "search:directions"),
    Stage("final", "7-final", "lds_direction", "nhn-train --stage=final", "train:final"),
)  # fmt: skip


def _control(name: str, after: str, run: str, controls: str, **options: Any) -> Stage:
    return Stage(name, name, after, f"nhn-pipeline --controls={name}", run, controls=controls, **options)


_RETRAINED: Final = ("prune", "pruned")  # the epochs of `prune` count where it trains
_ALL: Final = ("base", *_RETRAINED, "final")

CONTROLS: Final = (
    Stage("baseline", "baseline", None, "nhn-train --stage=baseline", "train:baseline", inherits=False),
    _control("pruned_longer", "pruned", "train:final", "final"),
    _control("random_addons", "lds_direction", "controls:random_addons", "final", weights_of="pruned"),
    _control("random_pruning", "prune", "controls:random_pruning", "pruned", weights_of="base", epochs_of=_RETRAINED),
    _control("base_longer", "base", "train:pruned", "pruned", epochs_of=_RETRAINED),
    _control("small_dense", "final", "controls:small_dense", "final", inherits=False, epochs_of=_ALL),
    _control("resnet", "final", "controls:resnet", "final", inherits=False, epochs_of=_ALL),
    _control("perturbed_addons", "final", "controls:perturbed_addons", "final"),
    _control("random_search", "enas", "controls:random_search", "base", inherits=False),
    _control("random_architecture", "enas", "controls:random_architecture", "base", inherits=False),
    _control("average_pooling", "base", "controls:average_pooling", "base", inherits=False),
    _control("no_smoothing", "base", "controls:no_smoothing", "base", inherits=False),
)
"""What a run is compared with; begun, resumed and read as stages are, but no other stage builds on them."""

NAMES: Final = tuple(stage.name for stage in STAGES)
CONTROL_NAMES: Final = tuple(stage.name for stage in CONTROLS)
CONFIGURED: Final = tuple(stage.name for stage in (*STAGES, *CONTROLS) if not stage.controls)
"""Those with settings of their own."""
BORROWING: Final = tuple(stage.name for stage in CONTROLS if stage.controls)
"""The controls that take the settings of what they control."""
_BY_NAME: Final = {stage.name: stage for stage in (*STAGES, *CONTROLS)}


def building_on(name: str) -> tuple[str, ...]:
    """A stage, and the stages and controls that are made from what it leaves, in their order."""
    found = {find(name).name}
    for stage in (*STAGES, *CONTROLS):
        if found & {stage.after, stage.weights_of}:
            found.add(stage.name)
    return tuple(stage.name for stage in (*STAGES, *CONTROLS) if stage.name in found)


def find(name: str) -> Stage:
    """The stage called `name`.

    Raises:
      ValueError: there is none.
    """
    if name not in _BY_NAME:
        raise ValueError(f"`name` must be among {', '.join(_BY_NAME)}. Received: {name!r}.")
    return _BY_NAME[name]
