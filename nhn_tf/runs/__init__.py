"""The run directory: one directory for each stage, whole or resumable, never silently mixed.

    runs/NAME/run.json                     what was called, when, with which versions, on which device
    runs/NAME/1-enas/ ... 7-final/         config.json genotype.json [masks.npz] weights.npz metrics.csv
                                           checkpoint/ tensorboard/ done.json

`done.json` is written last. A stage whose done.json carries the same digest returns at once; another digest is an
error that names the fields that changed. A stage without done.json goes on from its newest readable checkpoint.
"""

from nhn_tf.errors import RunError
from nhn_tf.storage.checkpoints import Checkpoint
from nhn_tf.runs.directory import RunDirectory
from nhn_tf.runs.settings import NOT_IN_DIGEST, STAGES, Settings
from nhn_tf.runs.stage import StageDirectory

__all__ = ["NOT_IN_DIGEST", "STAGES", "Checkpoint", "RunDirectory", "RunError", "Settings", "StageDirectory"]
