"""One absl flag for each configuration field; what the user typed replaces what the preset says."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence

from absl import flags

from nhn_tf import configs
from nhn_tf.configs import PRESETS, Config, Preset
from nhn_tf.errors import UserError

# The parts of a preset that every stage shares.
SHARED = ("data", "compute")

_DEFINERS = {bool: flags.DEFINE_boolean, int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}


def define(stages: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS, *, choose_stage: bool = True) -> None:
    """Defines the flags of a script: the run's own, then one for each configuration field.

    Args:
      stages: the stages that the script can run.
      flag_values: where the flags go.
      choose_stage: whether the user names the stage by `--stage`.
    """
    names = ", ".join(PRESETS)
    on = {"flag_values": flag_values}
    flags.DEFINE_enum("preset", "paper", list(PRESETS), f"where every default comes from: {names}", **on)
    flags.DEFINE_string("model_dir", None, "the run's directory (default: runs/<preset>)", **on)
    flags.DEFINE_integer("seed", 0, "seed of everything random", lower_bound=0, upper_bound=2**31 - 1, **on)
    flags.DEFINE_boolean("overwrite", False, "begin the stage again, discarding what it has", **on)
    flags.DEFINE_boolean("debug", False, "show the traceback of an error", **on)
    if choose_stage:
        flags.DEFINE_enum("stage", None, list(stages), "the stage to run", **on)
    for name, parts in fields_of(stages).items():
        _define_field(name, parts, flag_values)


def fields_of(stages: Sequence[str]) -> dict[str, dict[str, dataclasses.Field]]:
    """Every flag of the stages: field name -> the parts of a preset that have it, with the field there."""
    found: dict[str, dict[str, dataclasses.Field]] = {}
    for part in (*SHARED, *stages):
        for field in dataclasses.fields(_class_of(part)):
            found.setdefault(field.name, {})[part] = field
    return found


def _class_of(part: str) -> type[Config]:
    return type(PRESETS["paper"].stage(part))


def _define_field(name: str, parts: dict[str, dataclasses.Field], flag_values: flags.FlagValues) -> None:
    part, field = next(iter(parts.items()))
    kind = typing.get_type_hints(_class_of(part))[name]
    text = _help(name, parts)
    choices = field.metadata["choices"]
    if typing.get_origin(kind) is tuple:
        flags.DEFINE_list(name, None, text, flag_values=flag_values)
    elif choices:
        flags.DEFINE_enum(name, None, list(choices), text, flag_values=flag_values)
    else:
        _DEFINERS[kind](name, None, text, flag_values=flag_values)


def _help(name: str, parts: dict[str, dataclasses.Field]) -> str:
    field = next(iter(parts.values()))
    meta = field.metadata
    notes = [f"in {meta['unit']}"] if meta["unit"] else []
    if meta["low"] is not None or meta["high"] is not None:
        notes.append(configs.describe_range(field))
    elif typing.get_origin(typing.get_type_hints(_class_of(next(iter(parts))))[name]) is tuple:
        notes.append(f"among {','.join(meta['choices'])}")
    if meta["source"]:
        notes.append(f"source: {meta['source']}")
    defaults = []
    for preset_name, preset in PRESETS.items():
        values = {_text(getattr(preset.stage(part), name)) for part in parts}
        defaults.append(f"{preset_name} {' / '.join(sorted(values))}")
    return f"{meta['help']} ({'; '.join([*notes, 'default: ' + ', '.join(defaults)])})"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else repr(value) if value == "" else str(value)


def configured(stage: str, flag_values: flags.FlagValues = flags.FLAGS) -> tuple[Preset, dict[str, Config]]:
    """The configuration the command line asks for.

    Args:
      stage: the stage to run.
      flag_values: parsed flags.

    Returns:
      The preset, and the configurations of the parts "data", "compute" and `stage` with the typed flags put in.

    Raises:
      UserError: a value is out of range, or a typed flag does not belong to the stage.
    """
    preset = PRESETS[flag_values.preset]
    parts = (*SHARED, stage)
    typed = _typed(flag_values)
    own = {field.name for part in parts for field in dataclasses.fields(_class_of(part))}
    if foreign := sorted(set(typed) - own):
        raise UserError(f"--{foreign[0]} is no setting of stage '{stage}'. `--help` lists the flags of each stage.")
    result = {}
    for part in parts:
        names = {field.name for field in dataclasses.fields(_class_of(part))}
        values = {name: value for name, value in typed.items() if name in names}
        try:
            result[part] = preset.stage(part).replaced(**values)
        except ValueError as error:
            raise UserError(str(error).replace("`", "--", 1).replace("`", "", 1)) from None
    return preset, result


def _typed(flag_values: flags.FlagValues) -> dict[str, object]:
    """The configuration flags that stand on the command line, with their values."""
    every = {field.name for part in dataclasses.fields(Preset) if part.name != "help"
             for field in dataclasses.fields(_class_of(part.name))}  # fmt: skip
    return {
        name: tuple(flag_values[name].value) if isinstance(flag_values[name].value, list) else flag_values[name].value
        for name in sorted(every & set(flag_values))
        if flag_values[name].present
    }


def help_text(doc: str, stages: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> str:
    """The script's docstring and its flags, those of a configuration under the name of their part."""
    groups: dict[str, list[str]] = {"run": []}
    config_flags = fields_of(stages)
    for name in ("stage", "preset", "model_dir", "seed", "overwrite", "debug"):
        if name in flag_values:
            groups["run"].append(f"  --{name}: {flag_values[name].help}")
    for name, parts in config_flags.items():
        title = ", ".join(parts)
        groups.setdefault(title, []).append(f"  --{name}: {flag_values[name].help}")
    lines = [doc.strip()]
    for title, entries in groups.items():
        lines += ["", f"Flags of {title}:", *entries]
    return "\n".join(lines)
