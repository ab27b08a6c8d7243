"""A run directory as it stands, finished or not, read once and checked."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Final

from nhn_tf.runs import STAGES, RunDirectory, RunError, StageRecord
from nhn_tf.settings.stages import CONTROL_NAMES
from nhn_tf.storage.files import DamagedFileError
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.predictions import Predictions

BASELINE: Final = CONTROL_NAMES[0]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory's content.

    Attributes:
      path: the directory.
      calls: what run.json notes of each call, the latest last: command, versions, backend, device.
      stages: every stage of the pipeline, in its order, begun or not.
      baseline: the plain network that the run is compared with, trained or not.
      left_out: why its plan for a time limit leaves stages out, by name; empty without a plan.
      genotype: that of the latest finished stage; None when none has finished.
      genotype_stage: that stage's name.
      predictions: what the finished trained networks answered to the test images, by stage, as far as it was kept; the
        baseline's come last.
    """

    path: Path
    calls: list[dict[str, Any]]
    stages: dict[str, StageRecord]
    baseline: StageRecord
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    genotype: Genotype | None = None
    genotype_stage: str | None = None
    predictions: dict[str, Predictions] = dataclasses.field(default_factory=dict)

    @property
    def begun(self) -> list[StageRecord]:
        return [stage for stage in self.stages.values() if stage.has_begun]

    @property
    def finished(self) -> list[StageRecord]:
        return [stage for stage in self.stages.values() if stage.is_done]


def read(path: str | os.PathLike[str]) -> Run:
    """Reads the run in `path`.

    Raises:
      RunError: there is no run, or no stage has begun.
      files.DamagedFileError: a file does not hold what it should.
    """
    path = Path(path)
    command = f"{STAGES[0].command} --model_dir={path}"
    if not path.exists():
        raise RunError(f"`model_dir`={path} does not exist. Give the directory of a run, or begin one: {command}")
    directory = RunDirectory(path)
    if not (path / "run.json").exists():
        raise RunError(f"{path} holds no run (no run.json). Give the directory of a run, or begin one: {command}")
    noted = directory.journal.read()
    calls, plan = noted["calls"], noted.get("plan") or {}
    if not calls or not all(isinstance(call, dict) for call in calls):
        raise DamagedFileError(f"{path / 'run.json'} does not list the run's calls. Restore a copy.")

    left_out = dict(plan.get("left_out", {}))
    run = Run(path, calls, directory.stages, directory.stage(BASELINE), left_out)
    for stage in (*run.stages.values(), run.baseline):
        _read_stage(stage)
    if not run.begun:
        raise RunError(f"there is nothing to report yet: no stage of {path} has begun. Run: {command}")
    if not run.finished:
        return run
    last = run.finished[-1]
    kept = {stage.name: Predictions.load(stage.path) for stage in (*run.finished, run.baseline) if stage.is_done}
    answers = {name: found for name, found in kept.items() if found is not None}
    return dataclasses.replace(run, genotype=last.genotype(), genotype_stage=last.name, predictions=answers)


def _read_stage(stage: StageRecord) -> None:
    """Reads the small files of a stage, so that the whole report is of one moment, and checks them."""
    if stage.is_done and not stage.has_begun:
        raise DamagedFileError(f"{stage.path} has a done.json but no config.json. Restore it, or run it again.")
    if not stage.has_begun:
        return
    sections = ("config", "data", "compute")
    if not all(isinstance(stage.config[section], dict) for section in sections):
        raise DamagedFileError(f"{stage / 'config.json'} must have the sections {', '.join(sections)}. Restore a copy.")
    if stage.is_done:
        stage.done  # noqa: B018 - read now
    stage.history, stage.layers  # noqa: B018
