"""What a stage is asked to do, and which of that decides what comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nhn_tf.runs.tracking import Tracker
from nhn_tf.settings import PRESETS, BaseConfig, ComputeConfig, Config, DataConfig, Preset, stages
from nhn_tf.settings.added import ADDED
from nhn_tf.storage import files

# Settings that say where things lie, how fast they go or what to do about faults, not what comes out.
NOT_IN_DIGEST = {
    "data_dir", "cache_dir", "distribute", "eval_batch_size", "steps_per_execution", "on_nan", "checkpoint_minutes"
}  # fmt: skip

ConfigT = TypeVar("ConfigT", bound=Config)


@dataclasses.dataclass(frozen=True)
class Behind:
    """What a run will take after a stage.

    Attributes:
      seconds: of the stages whose time is known.
      epochs: as many of the stage under way take as long as the other stages.
      stages: how many others there are. Each compiles twice: its first step, and what is measured at its end.
      is_planned: whether the time is planned, and the stages made to fit, or estimated.
    """

    seconds: float = 0.0
    epochs: float = 0.0
    stages: int = 0
    is_planned: bool = True

    def total(self, epoch_s: float, first_step_s: float) -> float:
        """Seconds, where an epoch of the stage under way takes so many, and its first step."""
        return self.seconds + self.epochs * epoch_s + 2 * self.stages * first_step_s


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that one stage is asked to do.

    Attributes:
      config: the stage's own settings.
      data: which images.
      compute: how the numbers are computed.
      seed: of everything random.
      preset: where the settings come from; "" where none is named.
      overwrite: discard what the stage has left and begin again.
      behind: what the run will take after the stage, for its progress lines; None where that is not known.
      trackers: who is told of the stage, see `runs.tracking`; they decide nothing.
    """

    config: Config
    data: DataConfig
    compute: ComputeConfig
    seed: int = 0
    preset: str = ""
    overwrite: bool = False
    behind: Behind | None = None
    trackers: tuple[Tracker, ...] = dataclasses.field(default=(), compare=False)

    @classmethod
    def of(
        cls, preset: Preset, stage: str, *, seed: int = 0, name: str = "", trackers: Sequence[Tracker] = ()
    ) -> Settings:
        """A stage's settings as a preset has them; `name` is the preset's, if it has one."""
        own = preset.stage(stage)
        return cls(own, preset.data, preset.compute, seed=seed, preset=name, trackers=tuple(trackers))

    def expect(self, kind: type[ConfigT]) -> ConfigT:
        """The stage's configuration, which must be of the stage's own class.

        Raises:
          TypeError: it is another stage's.
        """
        if not isinstance(self.config, kind):
            raise TypeError(f"`config` must be a {kind.__name__}. Received: {type(self.config).__name__}.")
        return self.config

    @property
    def architecture(self) -> str:
        """The file (or text) of an architecture that takes the place of the searched one; "" where there is none."""
        return self.config.genotype if isinstance(self.config, BaseConfig) else ""

    def command(self, stage: str, model_dir: Path) -> str:
        """The command that runs `stage` on the same data."""
        parts = [f"{stages.find(stage).command} --model_dir={model_dir}"]
        if self.preset:
            parts.append(f"--preset={self.preset}")
            defaults = PRESETS[self.preset].data.to_json()
            parts += [f"--{k}={v}" for k, v in self.data.to_json().items() if v != defaults[k]]
        if self.seed:
            parts.append(f"--seed={self.seed}")
        return " ".join(parts)

    def tracked(self) -> dict[str, Any]:
        """The settings by name, as trackers are told: the stage's own as they are, `data.flip`, `compute.precision`."""
        sections = {"data.": self.data, "compute.": self.compute, "": self.config}
        values = {f"{section}{name}": v for section, part in sections.items() for name, v in part.to_json().items()}
        values = {name: ",".join(v) if isinstance(v, list) else v for name, v in values.items()}
        return {"preset": self.preset, "seed": self.seed, **values}

    def to_json(self) -> dict[str, Any]:
        return {
            "preset": self.preset,
            "seed": self.seed,
            "data": self.data.to_json(),
            "compute": self.compute.to_json(),
            "config": self.config.to_json(),
        }


def identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config.json that decides the result, as flat `section.field` entries."""
    flat: dict[str, Any] = {}
    for section, value in record.items():
        if section in ("schema", "preset", "data_digest", "images", "own_ops"):
            continue
        entries = value if isinstance(value, dict) else {"": value}
        for name, item in entries.items():
            if name not in NOT_IN_DIGEST:
                flat[f"{section}.{name}".strip(".")] = item
    return {name: item for name, item in flat.items() if name not in ADDED or item != ADDED[name]}


def config_digest(record: Mapping[str, Any]) -> str:
    """Digest of everything in a config.json that decides the stage's result."""
    return files.digest_json(identity(record))


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(field, "field old -> new") of everything that differs."""
    before, after = {**ADDED, **before}, {**ADDED, **after}
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    shorts = [name.split(".")[-1] for name in names]
    return [(s, f"{s} {before.get(n)} -> {after.get(n)}") for s, n in zip(shorts, names, strict=True)]
