"""What a run with a time limit is to do: its settings, how long each stage shall take, what is left out and why."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from nhn_tf.errors import UserError
from nhn_tf.settings.presets import Preset
from nhn_tf.settings.stages import CONTROL_NAMES, NAMES
from nhn_tf.values.space import OpError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan, as a run's journal keeps it.

    Attributes:
      limit_s: seconds that the whole run may take.
      spent_s: seconds of them that were gone when the plan was made.
      preset: the settings of every stage; those of stages that are left out mean nothing.
      stages: planned seconds of each stage and control that runs, by name, in their order.
      left_out: why each other stage is left out, by name.
      machine: how fast the machine was, as measured or seen last.
      typed: settings that stand whatever is planned, as `Preset.replaced` takes them; they are in `preset`, too.
      seed: of everything random.
    """

    limit_s: float
    spent_s: float
    preset: Preset
    stages: Mapping[str, float]
    left_out: Mapping[str, str]
    machine: Mapping[str, Any]
    typed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0

    def behind(self, stage: str) -> float:
        """Planned seconds of the stages that follow one."""
        names = list(self.stages)
        return sum(self.stages[name] for name in names[names.index(stage) + 1 :])

    def to_json(self) -> dict[str, Any]:
        return {
            "limit_s": self.limit_s,
            "spent_s": self.spent_s,
            "preset": self.preset.to_json(),
            "stages": dict(self.stages),
            "left_out": dict(self.left_out),
            "machine": dict(self.machine),
            "typed": {name: list(v) if isinstance(v, tuple) else v for name, v in self.typed.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` described.

        Raises:
          ValueError: it is none.
        """
        try:
            preset = Preset.from_json(value["preset"], help="planned")
            limit_s, spent_s = float(value["limit_s"]), float(value["spent_s"])
            stages, left_out = (  # a file keeps no order
                {name: value[part][name] for name in (*NAMES, *CONTROL_NAMES) if name in value[part]}
                for part in ("stages", "left_out")
            )
            return cls(
                limit_s,
                spent_s,
                preset,
                stages,
                left_out,
                value["machine"],
                value.get("typed", {}),
                value.get("seed", 0),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"a plan must have limit_s, spent_s, preset, stages, left_out, machine: {error!r}"
            ) from None

    @classmethod
    def noted(cls, journal: Mapping[str, Any], where: Any) -> Plan | None:
        """The plan that a run's journal holds, if it does; `where` is the run, for the message.

        Raises:
          UserError: it is of another version of this program.
        """
        try:
            return cls.from_json(journal["plan"]) if journal.get("plan") is not None else None
        except OpError:
            raise
        except ValueError as error:
            raise UserError(
                f"{where} has a plan of another version of this program: {error}\n"
                "Give another `model_dir`, or `overwrite` to begin the run again."
            ) from None

    def table(self) -> str:
        """The plan in words: stage, what, minutes."""
        rows = [f"{'stage':<14} {'minutes':>7}  what"]
        for name, seconds in self.stages.items():
            rows.append(f"{name:<14} {seconds / 60:>7.1f}  {_what(name, self.preset)}")
        rows += [f"{name:<14} {'-':>7}  left out: {why}" for name, why in self.left_out.items()]
        return "\n".join(rows)

    def news(self, before: Plan) -> str:
        """What is otherwise than in the plan before it, in words; empty where nothing is."""
        what = {name: _what(name, self.preset) for name in self.stages}
        told = [f"{name} {new}" for name, new in what.items() if new != _what(name, before.preset)]
        left = [f"{name} left out: {why}" for name, why in self.left_out.items() if name not in before.left_out]
        return "; ".join(told + left)


def _what(name: str, preset: Preset) -> str:
    """The settings of a stage that say how much it does."""
    config = preset.stage(name).to_json()
    wanted = ("sparsity", "scope") if name == "prune" else ("filters", "epochs", "cycles", "final_samples")
    said = {key: config[key] for key in wanted if key in config}
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in said.items()
    )


def in_minutes(seconds: float) -> str:
    """A time in words: "1 minute", "2.5 minutes"."""
    minutes = f"{seconds / 60:.4g}"
    return f"{minutes} minute{'' if minutes == '1' else 's'}"


def parse_seconds(text: str) -> float:
    """A time as users write it, "90s", "20m", "1.5h" or "1h30m", in seconds; a bare number is minutes.

    Raises:
      ValueError: it is none, or not positive.
    """
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        total = 60 * float(text)
    elif parts and any(parts.groups()):
        total = sum(float(number or 0) * _UNITS[unit] for number, unit in zip(parts.groups(), "hms", strict=True))
    else:
        raise ValueError(f"`time_limit` must be a time such as 20m, 90s or 1h30m. Received: {text!r}.")
    if not 0 < total < 1e8:
        raise ValueError(f"`time_limit` must be longer than nothing and shorter than three years. Received: {text!r}.")
    return total
