"""Which network of a run is exported; read without Keras."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from nhn_tf.errors import UserError
from nhn_tf.runs import StageRecord
from nhn_tf.settings import stages

DIRECTORY: Final = "export"
"""Of a run, where its exports lie."""
SOURCES: Final = ("final", "pruned", "base")
"""The stages whose networks are exported, the last one first."""


class ExportError(UserError):
    """The export cannot be made, or used, as asked; the message says what to do."""


def run_at(model_dir: str | os.PathLike[str]) -> Path:
    """The directory of a run, `~` put in.

    Raises:
      ExportError: it holds no run.
    """
    path = Path(os.path.expanduser(model_dir))
    if not is_run(path):
        raise ExportError(f"--model_dir={path} holds no run (no run.json). Give the directory of a run.")
    return path


def is_run(path: Path) -> bool:
    """Whether a directory is a run's."""
    return (path / "run.json").exists()


def last_stage(run: Path) -> StageRecord:
    """The last training stage that has finished.

    Raises:
      ExportError: none has; the message gives the command.
    """
    for name in SOURCES:
        stage = StageRecord(run, stages.find(name))
        if stage.is_done:
            return stage
    raise ExportError(
        f"no training stage of {run} has finished, so there is no network to export.\n"
        f"Run: python {stages.find(SOURCES[-1]).command} --model_dir={run}"
    )
