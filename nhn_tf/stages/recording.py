"""What watches a training or a search: reports each epoch, saves checkpoints, and stops when a signal asks for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from nhn_tf import training
from nhn_tf.runs import Checkpoint, OpenStage
from nhn_tf.runs.monitor import Monitor
from nhn_tf.search.searcher import Searcher
from nhn_tf.settings import ComputeConfig
from nhn_tf.stages.showing import NetworkView, SearchView
from nhn_tf.storage import stopping

PACE = 2**20
"""Bytes a second that checkpoints of whole epochs take, on average, at most."""

METRIC = "metric:"
"""How the names of an epoch's running means begin among a checkpoint's arrays."""


class Saver:
    """Saves a stage's checkpoints; after one, the process ends if a signal has asked for it.

    Args:
      stage: the stage.
      monitor: the stage's.
      compute: says how long may pass without a checkpoint, and whether a divergence goes back to one of whole epochs:
        where to must not depend on the clock.
    """

    def __init__(self, stage: OpenStage, monitor: Monitor, compute: ComputeConfig):
        self._stage = stage
        self._monitor = monitor
        self._seconds = 60.0 * compute.checkpoint_minutes
        self._every_epoch = compute.on_nan == "rollback"
        self._saved, self._pause = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Whether to save at any step."""
        return stopping.requested() is not None or time.monotonic() - self._saved >= self._seconds

    def is_due_after(self, epochs: int) -> bool:
        """Whether to save after so many whole epochs: after each, unless checkpoints so large follow too closely."""
        is_time = time.monotonic() - self._saved >= self._pause
        return is_time or self._every_epoch or epochs == self._monitor.total or self.is_due()

    def save(self, checkpoint: Checkpoint) -> None:
        """Saves.

        Raises:
          stopping.Stopped: a signal has asked for it.
        """
        self._stage.save_checkpoint(checkpoint)
        self._saved = time.monotonic()
        self._pause = sum(array.nbytes for array in checkpoint.arrays.values()) / PACE
        position = position_in_words(checkpoint, self._monitor.unit, self._monitor.total)
        stopping.check(f"stage '{self._stage.name}' is saved after {position}")


def position_in_words(checkpoint: Checkpoint, unit: str, total: int | None = None) -> str:
    """Where one stands: "cycle 3 of 3 and 2 candidates" among `total`; "cycle 3, step 2" where that is None."""
    if total is None:
        step = f", step {checkpoint.step}" if checkpoint.step else ""
        return f"{unit} {checkpoint.epoch}{step}" if checkpoint.epoch or checkpoint.step else "the beginning"
    steps = "candidates" if checkpoint.epoch == total else "steps"
    within = f" and {checkpoint.step} {steps}" if checkpoint.step else ""
    return f"{unit} {checkpoint.epoch} of {total}{within}"


class FitRecorder(keras.callbacks.Callback):
    """Reports each epoch of a training; saves after it or within it when that is due.

    Args:
      monitor: reports.
      steps: of a whole epoch.
      saver: saves.
      rate_scale: of the learning rate, for the checkpoints.
      view: shows the network in TensorBoard.
    """

    def __init__(self, monitor: Monitor, *, steps: int, saver: Saver, rate_scale: float, view: NetworkView):
        super().__init__()
        self._monitor = monitor
        self._steps = steps
        self._saver = saver
        self._rate_scale = rate_scale
        self._view = view
        self._epoch = self._first = 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._epoch = epoch
        self._first = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)) - epoch * self._steps

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        step = self._first + batch + 1
        if step >= self._steps:
            return  # the epoch's end is at hand
        self._monitor.step(step, self._steps)
        # Of several processes this may be one's own step: `fit` looks for a divergence at the same one in all.
        if self._saver.is_due() and training.is_finite(self.model):
            self._save(self._epoch, step)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._view.epoch(epoch + 1)
        self._monitor.epoch({**(logs or {}), "lr": rate, "gradient_norm": self.model.optimizer.gradient_norm})
        if self._saver.is_due_after(epoch + 1):
            self._save(epoch + 1, 0)

    def _save(self, epoch: int, step: int) -> None:
        arrays = training.state(self.model)
        if step:
            arrays |= {f"{METRIC}{number}": array for number, array in enumerate(training.metric_state(self.model))}
        values = {"history": self._monitor.history, "rate_scale": self._rate_scale}
        self._saver.save(Checkpoint(epoch, arrays, values, step))


def position(checkpoint: Checkpoint | None) -> tuple[training.Position, dict]:
    """Where a training is resumed, and the state that it had there, as `FitRecorder` saved them."""
    if checkpoint is None:
        return training.BEGINNING, {}
    state = {name: array for name, array in checkpoint.arrays.items() if not name.startswith(METRIC)}
    count = len(checkpoint.arrays) - len(state)
    metrics = [checkpoint.arrays[f"{METRIC}{number}"] for number in range(count)]
    return training.Position(checkpoint.epoch, checkpoint.step, metrics), state


class SearchRecorder:
    """Reports each epoch of a search; saves after it or within it when that is due.

    Args:
      monitor: reports.
      saver: saves.
      view: shows the search in TensorBoard.
    """

    def __init__(self, monitor: Monitor, saver: Saver, view: SearchView):
        self._monitor = monitor
        self._saver = saver
        self._view = view

    def on_step_end(self, searcher: Searcher, step: int, steps: int) -> None:
        self._monitor.step(step, steps, doing="ranking candidates" if searcher.concluding else None)
        self._view.step()
        if self._saver.is_due():
            training.check_finite(searcher.supernet)
            self._save(searcher, searcher.state_arrays(), searcher.state_values(), step)

    def on_epoch_end(self, searcher: Searcher, epoch: int, metrics: Mapping[str, float]) -> None:
        self._view.epoch(epoch + 1)
        self._monitor.epoch({**metrics, "gradient_norm": searcher.supernet.optimizer.gradient_norm})
        searcher.save_history(self._monitor.directory)
        if self._saver.is_due_after(epoch + 1):
            self._save(searcher, *searcher.whole_state())

    def _save(self, searcher: Searcher, arrays: dict[str, np.ndarray], values: dict[str, Any], step: int = 0) -> None:
        """Saves the state of a search, `step` steps after its last whole epoch."""
        values = {"history": self._monitor.history, "search": values, "view": self._view.state}
        self._saver.save(Checkpoint(searcher.epoch, arrays, values, step))
