"""Named configurations of the whole pipeline: what each replaces of the paper's numbers."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Final

from nhn_tf.settings import stages
from nhn_tf.settings.field import Config
from nhn_tf.settings.hyperparameters import (
    BaseConfig,
    BaselineConfig,
    ComputeConfig,
    DataConfig,
    DirectionConfig,
    EnasConfig,
    FinalConfig,
    LocationConfig,
    PruneConfig,
    RetrainConfig,
    TrainConfig,
)

SHARED: Final = ("data", "compute")
"""The parts of a preset that every stage shares."""
PARTS: Final = (*SHARED, *stages.CONFIGURED)
_OF_FINAL: Final = ("train_on_validation", "distill", "distill_temperature")
"""What a control that stands for the whole pipeline takes from the final training."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """A configuration for every stage."""

    help: str
    data: DataConfig
    compute: ComputeConfig
    enas: EnasConfig
    base: BaseConfig
    prune: PruneConfig
    pruned: RetrainConfig
    lds_location: LocationConfig
    lds_direction: DirectionConfig
    final: FinalConfig
    baseline: BaselineConfig = BaselineConfig()

    def stage(self, name: str) -> Config:
        """The configuration of the stage or control called `name`."""
        return self.control(stages.find(name)) if name in stages.BORROWING else getattr(self, name)

    def control(self, control: stages.Stage) -> Config:
        """The configuration of a control: that of what it controls, with the epochs that it shall have.

        One that stands for the whole pipeline trains as the base does, on the images and with the teacher of the final
        training, and by one cosine: with restarts its epochs could end in the middle of a period.
        """
        config = getattr(self, control.controls)
        epochs = sum(self._epochs(name) for name in control.epochs_of)
        if "base" in control.epochs_of:
            recipe = {field.name: getattr(self.base, field.name) for field in dataclasses.fields(TrainConfig)}
            shared = {name: getattr(self.final, name) for name in _OF_FINAL}
            return FinalConfig(**{**recipe, **shared, "init": "scratch", "epochs": epochs, "lr_period_epochs": 0})
        return dataclasses.replace(config, epochs=epochs) if epochs else config

    def _epochs(self, stage: str) -> int:
        """How many a stage trains; pruning at once trains none."""
        trains = stage != "prune" or self.prune.schedule == "gradual"
        return getattr(self, stage).epochs if trains else 0

    def to_json(self) -> dict[str, Any]:
        """Every setting, by part."""
        return {part: getattr(self, part).to_json() for part in PARTS}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], help: str = "") -> Preset:
        """The preset that `to_json` described.

        Raises:
          ValueError: a part or a setting is missing, unknown or out of range.
        """
        kinds = typing.get_type_hints(cls)
        try:
            return cls(help=help, **{part: kinds[part].from_json(value[part]) for part in PARTS})
        except KeyError as error:
            raise ValueError(f"a preset must have settings of {error}.") from None

    def replaced(self, **changes: Any) -> Preset:
        """A copy with settings put in.

        Args:
          **changes: settings of data and computing under their own names, those of a stage with its name in front, as
            `pipeline.py` has them: `base_epochs`.

        Raises:
          ValueError: there is no such setting, or a value is out of range.
        """
        parts: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            part, field = part_of(name)
            parts.setdefault(part, {})[field] = value
        replaced = {part: getattr(self, part).replaced(**values) for part, values in parts.items()}
        return dataclasses.replace(self, **replaced)


def of_stages(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some settings, named as for `Preset.replaced`, that belong to a stage.

    Raises:
      ValueError: there is no such setting.
    """
    return {name: value for name, value in changes.items() if part_of(name)[0] not in SHARED}


def part_of(name: str) -> tuple[str, str]:
    """The part of a preset that a setting belongs to, and its field there."""
    kinds = typing.get_type_hints(Preset)
    for part in PARTS:
        field = name if part in SHARED else name.removeprefix(f"{part}_")
        if (part in SHARED or field != name) and field in {f.name for f in dataclasses.fields(kinds[part])}:
            return part, field
    raise ValueError(f"there is no setting `{name}`; those of a stage carry its name, such as base_epochs.")


PAPER = Preset(
    help="every number of the paper (46 hours on a GTX 1080 Ti, says the paper)",
    data=DataConfig(),
    compute=ComputeConfig(),
    enas=EnasConfig(),
    base=BaseConfig(),
    prune=PruneConfig(),
    pruned=RetrainConfig(),
    lds_location=LocationConfig(),
    lds_direction=DirectionConfig(),
    final=FinalConfig(epochs=260, dropout=0.5),
)
FAST = Preset(
    help="the same algorithm on a shorter schedule and in bfloat16, for one data-centre GPU",
    data=DataConfig(),
    compute=ComputeConfig(precision="mixed_bfloat16", eval_batch_size=1000),
    enas=EnasConfig(
        epochs=30, batch_size=256, lr_max=0.1, lr_period_epochs=0, warmup_epochs=2, controller_steps=30,
        controller_lr=3e-3, baseline_decay=0.95, final_samples=200,
    ),
    base=BaseConfig(
        epochs=40, batch_size=256, lr_max=0.1, lr_min=0.0, lr_period_epochs=0, warmup_epochs=2, label_smoothing=0.1,
        l2=4e-4,
    ),
    prune=PruneConfig(batch_size=256, recalibrate=True),
    pruned=RetrainConfig(epochs=25, batch_size=256, lr_min=0.0, warmup_epochs=1, label_smoothing=0.1),
    lds_location=LocationConfig(cycles=20, batch_size=250, iterations=10),
    lds_direction=DirectionConfig(cycles=10, batch_size=250, iterations=10),
    final=FinalConfig(
        epochs=40, batch_size=256, lr_min=0.0, warmup_epochs=1, label_smoothing=0.1, dropout=0.2,
    ),
)  # fmt: skip
DEMO = Preset(
    help="the whole pipeline on a laptop CPU in minutes, on handwritten digits",
    data=DataConfig(dataset="digits", val_fraction=0.2),
    compute=ComputeConfig(),
    enas=EnasConfig(
        num_layers=6, ops=("conv3x3", "sep_conv3x3", "conv5x5", "sep_conv5x5"), supernet_filters=16, epochs=20,
        batch_size=64, lr_period_epochs=0, controller_steps=8, samples_per_step=10, controller_lr=5e-3,
        baseline_decay=0.9, final_samples=40, top_k=5, cutout=0,
    ),
    base=BaseConfig(
        filters=16, epochs=30, batch_size=64, lr_period_epochs=0, cutout=0, l2=0.01,
    ),
    prune=PruneConfig(epochs=5, batch_size=64, cutout=0, scope="normalized", recalibrate=True),
    pruned=RetrainConfig(epochs=20, batch_size=64, cutout=0),
    lds_location=LocationConfig(
        cycles=10, population=10, iterations=3, batch_size=64, fitness_batch_size=128, cutout=0
    ),
    lds_direction=DirectionConfig(
        cycles=6, population=10, iterations=3, batch_size=64, fitness_batch_size=128, cutout=0
    ),
    final=FinalConfig(epochs=30, batch_size=64, cutout=0, dropout=0.2),
)  # fmt: skip
SMOKE = Preset(
    help="seconds, to see that everything runs",
    data=DataConfig(dataset="digits", train_limit=256, eval_limit=96),
    compute=ComputeConfig(eval_batch_size=96),
    enas=EnasConfig(
        num_layers=3, supernet_filters=4, ops=("conv3x3", "conv5x5", "max_pool3x3"), epochs=2, batch_size=32,
        lr_period_epochs=1, controller_steps=2, samples_per_step=3, reward_batch_size=32, final_samples=4, top_k=2,
    ),
    base=BaseConfig(filters=4, epochs=3, batch_size=32, lr_period_epochs=1, cutout=2),
    prune=PruneConfig(sparsity=0.5, epochs=2, batch_size=32, cutout=0),
    pruned=RetrainConfig(epochs=2, batch_size=32, cutout=2),
    lds_location=LocationConfig(
        cycles=3, population=4, iterations=2, batch_size=32, fitness_batch_size=32, none_probability=0.5, cutout=0
    ),
    lds_direction=DirectionConfig(
        cycles=2, population=4, iterations=2, batch_size=32, fitness_batch_size=32, cutout=0
    ),
    final=FinalConfig(epochs=2, batch_size=32, cutout=2, dropout=0.2),
)  # fmt: skip
PRESETS: dict[str, Preset] = {"paper": PAPER, "fast": FAST, "demo": DEMO, "smoke": SMOKE}
