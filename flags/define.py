"""One absl flag for each configuration field; what the user typed replaces what the preset says."""

from __future__ import annotations

import dataclasses
import difflib
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from nhn_tf import settings
from nhn_tf.errors import UserError
from nhn_tf.settings import PRESETS, Config
from nhn_tf.settings.plan import Plan
from nhn_tf.settings.presets import SHARED, Preset
from nhn_tf.settings.stages import CONTROL_NAMES, NAMES, STAGES
from nhn_tf.storage import files

# The settings that a user's own images need: `--help` describes them.
FIRST = ("dataset", "data_dir", "image_size")
RARE = ("own_ops", "tracker", "coordinator", "rank", "ranks")
"""Flags that `--helpfull` alone describes."""

_DEFINERS: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


EVERYTHING = ("all", "true")
"""Values of the pipeline's --overwrite; the latter is that of a flag without a value."""


class _Named(flags.ArgumentParser):
    """Of --overwrite, which may stand without a value, that it be answered with what there is to discard."""

    def parse(self, argument: str) -> str | None:
        if argument not in (*EVERYTHING, "false", *NAMES, *CONTROL_NAMES):
            raise ValueError(f"must be all, or one of {', '.join(NAMES)}, or a control")
        return None if argument == "false" else argument


class StageFlags:
    """The flags of a script that can run some stages.

    Args:
      stages: the stages.
      choose_stage: whether the user names one by `--stage`.
      groups: further values that `--stage` may take.
      texts: further flags of the script's own whose values are texts: name to help.
      switches: further ones that are on unless they are switched off: name to help.
      prefixed: whether a stage's settings carry its name, `--base_epochs`; for scripts that run several at once.
      values: where the flags live.
    """

    def __init__(
        self,
        stages: Sequence[str],
        *,
        choose_stage: bool = True,
        prefixed: bool = False,
        groups: Iterable[str] = (),
        texts: Mapping[str, str] = {},
        switches: Mapping[str, str] = {},
        values: flags.FlagValues = flags.FLAGS,
    ):
        self.stages = tuple(stages)
        self.values = values
        self._prefixed = prefixed
        # flag -> the parts of a preset it sets, with the field there
        self._settings: dict[str, dict[str, dataclasses.Field]] = {}
        for part in (*SHARED, *self.stages):
            for field in dataclasses.fields(_class_of(part)):
                self._settings.setdefault(self._flag(part, field.name), {})[part] = field
        self._own = self._define_own([*stages, *groups] if choose_stage else [], texts, switches)
        for name, parts in self._settings.items():
            self._define_setting(name, parts)

    def _flag(self, part: str, field: str) -> str:
        return f"{part}_{field}" if self._prefixed and part not in SHARED else field

    def _define_own(self, choices: list[str], texts: Mapping[str, str], switches: Mapping[str, str]) -> list[str]:
        on: dict[str, Any] = {"flag_values": self.values}
        flags.DEFINE_enum("preset", "paper", list(PRESETS), _presets_in_words(), **on)
        flags.DEFINE_string("model_dir", None, "the run's directory (default: runs/<preset>)", **on)
        flags.DEFINE_integer("seed", 0, "seed of everything random", lower_bound=0, upper_bound=2**31 - 1, **on)
        if choices:
            flags.DEFINE_boolean("overwrite", False, "begin the stage again, discarding what it has", **on)
        else:
            text = "discard what the run has and begin again: all, or a stage with what builds on it"
            flags.DEFINE(_Named(), "overwrite", None, text, serializer=flags.ArgumentSerializer(), boolean=True, **on)
        flags.DEFINE_list("own_ops", [], "modules to import that register ops of your own", **on)
        flags.DEFINE_list("tracker", [], "who is told of each stage, with commas: mlflow, or module:Class", **on)
        together = "of several processes that train together with --distribute=jax; else as the launcher has it"
        flags.DEFINE_string("coordinator", None, f"address and port of rank 0, 10.0.0.1:1234, {together}", **on)
        flags.DEFINE_integer("rank", None, f"number of this process, from 0, {together}", lower_bound=0, **on)
        flags.DEFINE_integer("ranks", None, f"number {together}", lower_bound=1, **on)
        own = ["preset", "model_dir", "seed", "overwrite", *RARE, *define_telling(self.values)]
        if choices:
            flags.DEFINE_enum("stage", None, choices, "the stage to run", **on)
            own.insert(0, "stage")
        for name, help in texts.items():
            flags.DEFINE_string(name, None, help, **on)
        for name, help in switches.items():
            flags.DEFINE_boolean(name, True, help, **on)
        return [*own, *texts, *switches]

    def _define_setting(self, name: str, parts: dict[str, dataclasses.Field]) -> None:
        part, field = next(iter(parts.items()))
        kind = _type_of(part, field.name)
        text = _help(parts, self._as_flags(field.metadata["help"], part))
        choices = field.metadata["choices"]
        if typing.get_origin(kind) is tuple:
            flags.DEFINE_list(name, None, text, flag_values=self.values)
        elif choices:
            flags.DEFINE_enum(name, None, list(choices), text, flag_values=self.values)
        else:
            _DEFINERS[kind](name, None, text, flag_values=self.values)

    def configured(self, *stages: str) -> dict[str, Any]:
        """The configuration that the parsed command line asks for.

        Args:
          *stages: the stages to run.

        Returns:
          The configurations of the parts "data", "compute" and the stages: the preset's, the typed flags put in.

        Raises:
          UserError: a value is out of range, or a typed flag belongs to none of the stages.
        """
        preset, _ = chosen_preset(self.values)
        typed = self.typed()
        parts = (*SHARED, *stages)
        if not self._prefixed and (foreign := [flag for flag in typed if not set(parts) & set(self._settings[flag])]):
            raise UserError(
                f"--{foreign[0]} is no setting of stage '{', '.join(stages)}'. `--help` lists the flags of each stage."
            )
        result: dict[str, Any] = {}
        for part in parts:
            chosen = {
                self._settings[flag][part].name: value for flag, value in typed.items() if part in self._settings[flag]
            }
            try:
                result[part] = preset.stage(part).replaced(**chosen)
            except ValueError as error:
                raise UserError(self._as_flags(str(error), part)) from None
        return result

    def typed(self) -> dict[str, Any]:
        """The settings that stand on the command line, with their values."""
        values = {name: self.values[name].value for name in self._settings if self.values[name].present}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    def _as_flags(self, message: str, part: str) -> str:
        """A complaint, or a description of a setting, with `field` written as the user writes it, --field."""
        return re.sub(r"`(\w+)`", lambda match: f"--{self._flag(part, match[1])}", message)

    def help_text(self, doc: str, *, full: bool | None = None) -> str:
        """The script's docstring and its flags, as wide as the terminal.

        Args:
          doc: the docstring.
          full: every flag with its description, settings under the name of their part; otherwise what fits a screen. By
            default whether `--helpfull` stands on the command line.
        """
        full = "--helpfull" in sys.argv if full is None else full
        width = max(40, shutil.get_terminal_size(fallback=(120, 24)).columns)
        return "\n".join([doc.strip(), *(self._all_flags(width) if full else self._first_flags(width))])

    def _all_flags(self, width: int) -> Iterator[str]:
        for title, names in self._groups().items():
            yield from ("", f"Flags of {title}:")
            for name in names:
                yield _wrapped(f"--{name}: {self.values[name].help}", width)

    def _first_flags(self, width: int) -> Iterator[str]:
        own, *groups = self._groups().items()
        yield from ("", "Flags:")
        for name in (*(name for name in own[1] if name not in RARE), *FIRST):
            yield "  " + textwrap.shorten(f"--{name}: {self.values[name].help}", width - 2, placeholder=" ..")
        yield ""
        for title, names in groups:
            rest = [f"--{name}" for name in names if name not in FIRST]
            if not self._prefixed or title in SHARED:
                yield _wrapped(f"{title}: {' '.join(rest)}", width)
        if self._prefixed:
            prefixes = " ".join(f"--{stage}_.." for stage in self.stages)
            yield _wrapped(f"stages: a setting carries the stage's name: {prefixes}", width)
        yield f"--helpfull describes all {len(self._own) + len(self._settings)}: unit, range, source, defaults."

    def _groups(self) -> dict[str, list[str]]:
        """The flags by what they belong to."""
        groups: dict[str, list[str]] = {"the run": self._own}
        for name, parts in self._settings.items():
            groups.setdefault(", ".join(parts), []).append(name)
        return groups


def define_telling(values: flags.FlagValues = flags.FLAGS, *, quiet: bool = True) -> list[str]:
    """Defines how much a script tells.

    Args:
      values: where the flags live.
      quiet: whether it tells anything beside its result.

    Returns:
      The flags' names.
    """
    if quiet:
        flags.DEFINE_boolean("quiet", False, "tell only warnings, errors and the result", flag_values=values)
    flags.DEFINE_boolean("debug", False, "show the traceback of an error", flag_values=values)
    return ["quiet", "debug"] if quiet else ["debug"]


def unknown(name: str, known: Iterable[str]) -> str:
    """What is said about a flag that there is not.

    Args:
      name: of the flag.
      known: the names that there are.
    """
    known = list(known)
    stages = [stage for stage in STAGES if name in _class_of(stage.name).__dataclass_fields__]
    near = [flag for flag in known if any(f"{s.name}_{name}" == flag or f"{s.name}_{flag}" == name for s in STAGES)]
    if near := near or difflib.get_close_matches(name, known, 3, 0.75):
        hint = f" Did you mean {' or '.join(f'--{flag}' for flag in near)}?"
    else:
        hint = f" It is a setting of: {', '.join(stage.command for stage in stages)}." if stages else ""
    return f"unknown flag --{name}.{hint} `--helpfull` lists all flags."


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(
        text, width, initial_indent="  ", subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False
    )


def _class_of(part: str) -> type[Config]:
    return type(PRESETS["paper"].stage(part))


def _type_of(part: str, field: str) -> Any:
    return typing.get_type_hints(_class_of(part))[field]


def chosen_preset(values: flags.FlagValues) -> tuple[Preset, str]:
    """The preset that the flags mean, and its name: the one they name, or that of the plan that the run is under."""
    plan = None if values["preset"].present else noted_plan(values)
    return (PRESETS[values.preset], values.preset) if plan is None else (plan.preset, "")


def noted_plan(values: flags.FlagValues) -> Plan | None:
    """The plan for a time limit that the run in `--model_dir` is under, if it is.

    Raises:
      UserError: the plan is of another version of this program.
    """
    path = Path(values.model_dir or "", "run.json")
    if not values.model_dir or not path.exists() or values.overwrite in (True, *EVERYTHING):
        return None
    try:
        journal = files.read_sealed(path)
    except files.DamagedFileError:  # told, or mended, by those who need the journal
        return None
    return Plan.noted(journal, values.model_dir)


def _presets_in_words() -> str:
    return "where every default comes from; " + "; ".join(f"{name}: {p.help}" for name, p in PRESETS.items())


def _help(parts: dict[str, dataclasses.Field], text: str) -> str:
    """A setting's description, which is given, unit, range, source and its default in each preset."""
    field = next(iter(parts.values()))
    meta = field.metadata
    notes = [f"in {meta['unit']}"] if meta["unit"] else []
    if meta["low"] is not None or meta["high"] is not None:
        notes.append(settings.describe_range(field))
    if meta["source"]:
        notes.append(f"source: {meta['source']}")
    return f"{text} ({'; '.join([*notes, f'default: {_defaults(parts)}'])})"


def _defaults(parts: dict[str, dataclasses.Field]) -> str:
    """Each default once: "0.1", or where presets differ "310 (paper), 20 (demo, smoke)"; "3 / 5" where stages do."""
    presets: dict[str, list[str]] = {}
    for name, preset in PRESETS.items():
        values = [_text(getattr(preset.stage(part), field.name)) for part, field in parts.items()]
        presets.setdefault(" / ".join(dict.fromkeys(values)), []).append(name)
    if len(presets) == 1:
        return next(iter(presets))
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in presets.items())


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else repr(value) if value == "" else str(value)
