"""A run once more, from its journal: the same stages with the same settings, and whether the same came out."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Any

from nhn_tf.errors import RunError
from nhn_tf.runs import Settings, journal
from nhn_tf.runs.settings import ConfigT
from nhn_tf.settings import PRESETS, ComputeConfig, DataConfig
from nhn_tf.settings.stages import CONTROL_NAMES, NAMES
from nhn_tf.stages.feed import load_feed
from nhn_tf.values.space import OpError


@dataclasses.dataclass(frozen=True)
class Noted:
    """A stage as a journal notes it.

    Attributes:
      settings: what it was asked to do.
      data_digest: of the images that it saw.
      computed_with: versions, backend, device.
      results: digests of what it left, by name; empty if it has not finished.
    """

    settings: Settings
    data_digest: str
    computed_with: Mapping[str, Any]
    results: Mapping[str, str]

    def same(self, done: Mapping[str, Any]) -> bool | None:
        """Whether a stage has left the same, by the content of its done.json; None if this one left nothing."""
        return all(done[name] == digest for name, digest in self.results.items()) if self.results else None


def read(path: str | os.PathLike[str], changes: Mapping[str, Any] = {}) -> dict[str, Noted]:
    """The stages of the run whose journal is `path`, in their order.

    Args:
      path: a `run.json`.
      changes: settings by name to put in place of the journal's, of those that decide nothing about the result.

    Raises:
      RunError: no stage is noted, or it is not what this version writes.
      files.DamagedFileError: the journal is damaged.
    """
    noted = journal.read_to_repeat(path)
    try:
        return {name: _noted(name, noted[name], changes) for name in (*NAMES, *CONTROL_NAMES) if name in noted}
    except OpError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"`repeat`={path} is of another version of this program: {error}") from None


def _noted(name: str, entry: Mapping[str, Any], changes: Mapping[str, Any]) -> Noted:
    config = type(PRESETS["paper"].stage(name)).from_json(entry["config"])
    if entry.get("architecture"):
        config = config.replaced(genotype=entry["architecture"])
    settings = Settings(
        config,
        _changed(DataConfig, entry["data"], changes),
        _changed(ComputeConfig, entry["compute"], changes),
        seed=entry["seed"],
        preset=entry["preset"],
    )
    with_what = {key: entry["computed_with"][key] for key in ("backend", "device", "cpus")}
    with_what |= {key: dict(entry["computed_with"][key]) for key in ("versions", "environment")}
    results = {result: entry[result] for result in journal.RESULTS if result in entry}
    return Noted(settings, entry["data_digest"], with_what, results)


def _changed(kind: type[ConfigT], noted: Mapping[str, Any], changes: Mapping[str, Any]) -> ConfigT:
    """What a journal notes of a part, with those changes that are fields of it: an older one may not know them yet."""
    own = {field.name for field in dataclasses.fields(kind)}
    return kind.from_json({**noted, **{name: value for name, value in changes.items() if name in own}})


def check(path: str | os.PathLike[str], noted: Mapping[str, Noted]) -> None:
    """Looks at the images before the first stage runs, and warns of what may make a difference of some bits.

    Raises:
      RunError: the images are not those that the run saw.
    """
    for name, stage in noted.items():
        found = load_feed(stage.settings).data.digest
        if found != stage.data_digest:
            raise RunError(
                f"stage '{name}' of {path} saw other images (digest {stage.data_digest}, now {found}).\n"
                "Give the directory of the same ones by `data_dir`."
            )
        if other := journal.differences(stage.computed_with, journal.computed_with()):
            print(f"warning: {name}: not as in {path}, bits may differ: {'; '.join(other)}", file=sys.stderr)
