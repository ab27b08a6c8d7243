"""The run directory: one directory for each stage, whole or resumable, never silently mixed.

    runs/NAME/run.json                     what was called, when, with which versions, on which device
    runs/NAME/1-enas/ ... 7-final/         config.json genotype.json [masks.npz] weights.npz metrics.csv
    runs/NAME/baseline/                    [predictions.npz] checkpoint/ tensorboard/ done.json

`done.json` is written last. A stage whose done.json carries the same digest returns at once; another digest is an
error that names the fields that changed. A stage without done.json is resumed from its newest readable checkpoint.

What writes needs Keras, and is imported when it is asked for; finished stages can be read without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nhn_tf.errors import RunError
from nhn_tf.runs.record import Done, StageRecord
from nhn_tf.settings.stages import NAMES, STAGES, Stage

if TYPE_CHECKING:
    from nhn_tf.runs.directory import RunDirectory
    from nhn_tf.runs.open_stage import OpenStage, ReadyStage
    from nhn_tf.runs.settings import NOT_IN_DIGEST, Settings
    from nhn_tf.storage.checkpoints import Checkpoint

_LATER = {
    "Checkpoint": "nhn_tf.storage.checkpoints",
    "NOT_IN_DIGEST": "nhn_tf.runs.settings",
    "OpenStage": "nhn_tf.runs.open_stage",
    "ReadyStage": "nhn_tf.runs.open_stage",
    "RunDirectory": "nhn_tf.runs.directory",
    "Settings": "nhn_tf.runs.settings",
}

__all__ = [
    "NAMES",
    "NOT_IN_DIGEST",
    "STAGES",
    "Checkpoint",
    "Done",
    "OpenStage",
    "ReadyStage",
    "RunDirectory",
    "RunError",
    "Settings",
    "Stage",
    "StageRecord",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
