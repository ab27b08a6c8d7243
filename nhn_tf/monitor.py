"""What a user sees while a stage runs: a progress line, `metrics.csv` and TensorBoard scalars, all from one dict."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import keras

from nhn_tf import files, training
from nhn_tf.errors import UserError
from nhn_tf.event_writer import EventWriter
from nhn_tf.runs import Checkpoint, StageDirectory
from nhn_tf.search.searcher import Searcher

HEARTBEAT_SECONDS = 20.0


class TrainingFailedError(UserError):
    """Training cannot go on with these settings."""


class Monitor:
    """Reports each finished epoch (or cycle) of a stage.

    Args:
      directory: the stage's directory; receives `metrics.csv` and `tensorboard/`.
      label: the stage's name, in front of each line.
      total: epochs the stage will make.
      unit: what is counted: "epoch" or "cycle".
      history: rows of the epochs that an earlier process finished; they open the new metrics.csv.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        label: str,
        total: int,
        unit: str = "epoch",
        history: list[dict[str, float]] | None = None,
    ):
        self.directory = Path(directory)
        self.label = label
        self.total = total
        self.unit = unit
        self.history = list(history or [])
        self._first = len(self.history)
        self._started = self._epoch_started = self._last_beat = time.monotonic()
        self._events = EventWriter(self.directory / "tensorboard", first_step=self._first)

    def step(self, step: int, steps: int, *, doing: str | None = None) -> None:
        """Says that the epoch, or what is being done besides, is at `step` of `steps`; once in a while."""
        now = time.monotonic()
        if now - self._last_beat < HEARTBEAT_SECONDS:
            return
        self._last_beat = now
        if doing:
            self._say(f"{self.label} {doing} {step}/{steps}")
            return
        each = (now - self._epoch_started) / max(step, 1)
        where = f"{self.label} {self.unit} {len(self.history) + 1}/{self.total} step {step}/{steps}"
        self._say(f"{where}, {each * 1e3:.0f} ms a step")

    def epoch(self, metrics: Mapping[str, float]) -> None:
        """Records a finished epoch: one progress line, one row, one point in each TensorBoard curve."""
        now = time.monotonic()
        row = {self.unit: len(self.history) + 1, **{name: float(value) for name, value in metrics.items()}}
        row["seconds"] = round(now - self._epoch_started, 3)
        self.history.append(row)
        self._epoch_started = self._last_beat = now
        done = len(self.history)
        remaining = (now - self._started) / (done - self._first) * (self.total - done)
        self._say(f"{self.label} {self.unit} {done}/{self.total} ETA {_clock(remaining)}{_in_words(metrics)}")
        self.write_csv()
        for name, value in row.items():
            if name != self.unit:
                self._events.scalar(f"{self.label}/{name}", value, done)
        self._events.flush()

    def write_csv(self) -> None:
        """Writes all rows so far; a column that appears late is empty before."""
        names: dict[str, None] = {}
        for row in self.history:
            names.update(dict.fromkeys(row))
        rows = [[row.get(name, "") for name in names] for row in self.history]
        files.write_csv(self.directory / "metrics.csv", list(names), rows)

    @property
    def events(self) -> EventWriter:
        return self._events

    def close(self) -> None:
        self._events.close()

    @staticmethod
    def _say(line: str) -> None:
        print(line, file=sys.stdout, flush=True)


def _in_words(values: Mapping[str, float]) -> str:
    return "".join(f" | {name} {float(value):.4g}" for name, value in values.items())


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class FitRecorder(keras.callbacks.Callback):
    """Reports each epoch of `fit` and saves a checkpoint after it.

    Raises:
      TrainingFailedError: the loss is no longer finite; the last good checkpoint stays.
    """

    def __init__(self, stage: StageDirectory, monitor: Monitor):
        super().__init__()
        self._stage = stage
        self._monitor = monitor

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._monitor.step(batch + 1, self.params["steps"])

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        logs = dict(logs or {})
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        _check_finite(self._stage, epoch, logs["loss"], rate)
        self._monitor.epoch({**logs, "lr": rate})
        state = Checkpoint(epoch + 1, training.state(self.model), {"history": self._monitor.history})
        self._stage.save_checkpoint(state)


class SearchRecorder:
    """Reports each epoch of a search and saves a checkpoint after it."""

    def __init__(self, stage: StageDirectory, monitor: Monitor):
        self._stage = stage
        self._monitor = monitor

    def on_step_end(self, searcher: Searcher, step: int, steps: int) -> None:
        self._monitor.step(step, steps, doing="ranking candidates" if searcher.concluding else None)

    def on_epoch_end(self, searcher: Searcher, epoch: int, metrics: Mapping[str, float]) -> None:
        _check_finite(self._stage, epoch, metrics["train_loss"], metrics["lr"])
        self._monitor.epoch(metrics)
        values = {"history": self._monitor.history, "search": searcher.state_values()}
        self._stage.save_checkpoint(Checkpoint(epoch + 1, searcher.state_arrays(), values))


def _check_finite(stage: StageDirectory, epoch: int, loss: float, rate: float) -> None:
    if not math.isfinite(loss):
        raise TrainingFailedError(
            f"stage '{stage.name}': the loss is {loss} after epoch {epoch + 1} (learning rate {rate:.3g}).\n"
            f"Lower --lr_max, or clip the gradient by --clip_norm, and begin again with --overwrite."
        )
