"""Where a stage's curves stand in TensorBoard: curves that belong into one chart have one tag, and a run each.

    runs/NAME/2-base/tensorboard              the stage as a whole (`session`)
    runs/NAME/2-base/tensorboard/train        epoch_loss, epoch_accuracy, epoch_learning_rate, ...
    runs/NAME/2-base/tensorboard/validation   epoch_loss, epoch_accuracy

So does Keras's own callback, with the same tags; those of several stages and runs then lie in one chart, too. Steps are
finished epochs (or cycles), from 1. `docs/tensorboard.md` lists every run and tag.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nhn_tf.runs.event_writer import EventWriter

TENSORBOARD: Final = "tensorboard"
"""The directory of a stage, or of a run, in which TensorBoard looks."""

TRAIN: Final = "train"
VALIDATION: Final = "validation"

_REWARD, _FITNESS = "epoch_reward", "epoch_fitness"
_CURVES: Final[Mapping[str, tuple[str, str]]] = {
    "loss": (TRAIN, "epoch_loss"),
    "train_loss": (TRAIN, "epoch_loss"),
    "val_loss": (VALIDATION, "epoch_loss"),
    "accuracy": (TRAIN, "epoch_accuracy"),
    "train_accuracy": (TRAIN, "epoch_accuracy"),
    "val_accuracy": (VALIDATION, "epoch_accuracy"),
    "lr": (TRAIN, "epoch_learning_rate"),
    "seconds": (TRAIN, "epoch_seconds"),
    "images_per_second": (TRAIN, "epoch_images_per_second"),
    "reward": (VALIDATION, _REWARD),
    "baseline": ("baseline", _REWARD),
    "best_reward": ("best_so_far", _REWARD),
    "random_reward": ("random", _REWARD),
    "best_random_reward": ("random_best_so_far", _REWARD),
    "reward_noise": (VALIDATION, f"{_REWARD}_noise"),
    "mean_fitness": (VALIDATION, _FITNESS),
    "median_fitness": ("median", _FITNESS),
    "best_fitness": ("best", _FITNESS),
    "best_so_far": ("best_so_far", _FITNESS),
    "fitness_noise": (VALIDATION, f"{_FITNESS}_noise"),
    "base_accuracy": ("no_addons", _FITNESS),
}
"""Column of metrics.csv -> (run, tag); every other one is `epoch_` and its name, in the run `TRAIN`."""


class Board:
    """The runs below a stage's own, each of which gets its event file when something is first written into it.

    Args:
      directory: the stage's `TENSORBOARD`.
      first_step: the step this process begins with, see `EventWriter`.
    """

    def __init__(self, directory: str | os.PathLike[str], *, first_step: int = 0):
        self._directory = Path(directory)
        self.first_step = first_step
        self._writers: dict[str, EventWriter] = {}

    def run(self, name: str) -> EventWriter:
        """The run called so."""
        if name not in self._writers:
            self._writers[name] = EventWriter(self._directory / name, first_step=self.first_step)
        return self._writers[name]

    def curves(self, row: Mapping[str, float], step: int) -> None:
        """Adds a point to each curve that the columns of a row are, and none where a value is not finite."""
        for name, value in row.items():
            run, tag = _CURVES.get(name, (TRAIN, f"epoch_{name}"))
            if math.isfinite(value):
                self.run(run).scalar(tag, value, step)

    def flush(self) -> None:
        """Appends to the files what has been added since."""
        for writer in self._writers.values():
            writer.flush()
