"""Which network of a run is exported; read without Keras."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Final

from nhn_tf.errors import UserError
from nhn_tf.runs import StageRecord
from nhn_tf.settings import stages
from nhn_tf.values.intervals import noise

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
    """The last training stage that has finished, unless one before it knows more validation images beyond chance.

    A pruned network is smaller, but one that training has not brought back is not worth it. A final network that was
    trained on the validation images cannot be told by them, and stays the choice.

    Raises:
      ExportError: none has finished; the message gives the command.
    """
    trained = [stage for name in SOURCES if (stage := StageRecord(run, stages.find(name))).is_done]
    if not trained:
        raise ExportError(
            f"no training stage of {run} has finished, so there is no network to export.\n"
            f"Give the run's command again (its run.json lists it), "
            f"or run: {stages.find(SOURCES[-1]).command} --model_dir={run}"
        )
    return next((stage for stage in trained if not any(map(functools.partial(_is_worse, stage), trained))), trained[0])


def _is_worse(stage: StageRecord, other: StageRecord) -> bool:
    """Whether the other's network knows more validation images than chance explains."""
    own, others = (record.metrics.get("val_accuracy") for record in (stage, other))
    images = stage.done.images.get("val")
    if own is None or others is None or not images:
        return False
    return others - own > noise(own, others, images)
