"""A run directory as it stands, finished or not, read once and checked."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from pathlib import Path
from typing import Any

from nhn_tf.runs import STAGES, RunDirectory, RunError, StageDirectory
from nhn_tf.storage.files import DamagedFileError
from nhn_tf.values.genotype import Genotype

Table = list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """What a stage has left behind.

    Attributes:
      name: the stage's name.
      directory: its directory's name within the run.
      config: config.json; None when the stage has not begun.
      done: done.json; None when it has not finished.
      history: metrics.csv, one row for each epoch or cycle; empty cells are left out.
      layers: layers.csv, the per-layer table of pruning, a mapping of strings for each layer.
    """

    name: str
    directory: str
    config: dict[str, Any] | None = None
    done: dict[str, Any] | None = None
    history: Table = dataclasses.field(default_factory=list)
    layers: list[dict[str, str]] = dataclasses.field(default_factory=list)

    @property
    def metrics(self) -> dict[str, Any]:
        return self.done["metrics"] if self.done else {}

    @property
    def state(self) -> str:
        return "finished" if self.done else "unfinished" if self.config else "not begun"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory's content.

    Attributes:
      path: the directory.
      call: the latest call that run.json notes: versions, backend, device.
      stages: every stage of the pipeline, in its order, begun or not.
      genotype: that of the latest finished stage; None when none has finished.
      genotype_stage: that stage's name.
    """

    path: Path
    call: dict[str, Any]
    stages: dict[str, StageRecord]
    genotype: Genotype | None
    genotype_stage: str | None

    @property
    def begun(self) -> list[StageRecord]:
        return [stage for stage in self.stages.values() if stage.config]

    @property
    def finished(self) -> list[StageRecord]:
        return [stage for stage in self.stages.values() if stage.done]


def read(path: str | os.PathLike[str]) -> Run:
    """Reads the run in `path`.

    Raises:
      RunError: there is no run, or no stage has begun.
      files.DamagedFileError: a file does not hold what it should.
    """
    path = Path(path)
    command = f"python {STAGES['enas'][2]} --model_dir={path}"
    if not path.exists():
        raise RunError(f"--model_dir={path} does not exist. Give the directory of a run, or begin one: {command}")
    directory = RunDirectory(path)
    if not (path / "run.json").exists():
        raise RunError(f"{path} holds no run (no run.json). Give the directory of a run, or begin one: {command}")
    calls = directory.journal.read()["calls"]
    if not calls or not isinstance(calls[-1], dict):
        raise DamagedFileError(f"{path / 'run.json'} does not list the run's calls. Restore a copy.")

    stages = {name: _read_stage(directory.stage(name)) for name in STAGES}
    if not any(stage.config for stage in stages.values()):
        raise RunError(f"there is nothing to report yet: no stage of {path} has begun. Run: {command}")
    last = next((name for name in reversed(stages) if stages[name].done), None)
    genotype = _read_genotype(directory.stage(last)) if last else None
    return Run(path, calls[-1], stages, genotype, last)


def _read_stage(stage: StageDirectory) -> StageRecord:
    record = StageRecord(stage.name, STAGES[stage.name][0])
    if not (stage / "config.json").exists():
        if stage.is_done:
            raise DamagedFileError(f"{stage.path} has a done.json but no config.json. Restore it, or run it again.")
        return record
    config = stage.record()
    sections = ("config", "data", "compute")
    if not all(isinstance(config[section], dict) for section in sections):
        raise _damaged(stage, "config.json", f"must have the sections {', '.join(sections)}")
    return dataclasses.replace(
        record,
        config=config,
        done=_read_done(stage) if stage.is_done else None,
        history=_read_history(stage / "metrics.csv"),
        layers=_read_csv(stage / "layers.csv"),
    )


def _read_done(stage: StageDirectory) -> dict[str, Any]:
    done = stage.done()
    kinds: dict[str, Any] = {"stage": str, "metrics": dict, "wall_s": (int, float), "device": str}
    for key, kind in kinds.items():
        if not isinstance(done.get(key), kind):
            raise _damaged(stage, "done.json", f"has no usable entry {key!r}")
    if done["stage"] != stage.name:
        raise _damaged(stage, "done.json", f"is that of stage {done['stage']!r}")
    return done


def _damaged(stage: StageDirectory, name: str, fault: str) -> DamagedFileError:
    command = STAGES[stage.name][2]
    return DamagedFileError(
        f"{stage / name} {fault}.\nRestore a copy, or run the stage again: "
        f"python {command} --overwrite --model_dir={stage.run.path}"
    )


def _read_genotype(stage: StageDirectory) -> Genotype:
    try:
        return stage.genotype()
    except FileNotFoundError:
        raise _damaged(stage, "genotype.json", "is missing, though the stage has finished") from None


def _read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none when there is no file."""
    if not path.exists():
        return []
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DamagedFileError(f"{path} is not a readable CSV file ({error}). Delete it or restore a copy.") from None
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DamagedFileError(f"{path}, line {number}: not as many cells as columns. Delete it or restore a copy.")
    return rows


def _read_history(path: Path) -> Table:
    history = []
    for number, row in enumerate(_read_csv(path), 2):
        try:
            values = {name: float(cell) for name, cell in row.items() if cell}
        except ValueError:
            raise DamagedFileError(f"{path}, line {number}: not a number. Delete it or restore a copy.") from None
        history.append({name: value for name, value in values.items() if math.isfinite(value)})
    return history
