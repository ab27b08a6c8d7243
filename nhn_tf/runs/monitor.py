"""What a user sees while a stage runs: a progress line, `metrics.csv` and TensorBoard's curves, all from one dict."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from nhn_tf.storage import files
from nhn_tf.runs.board import TENSORBOARD, Board
from nhn_tf.runs.tracking import Tracking

HEARTBEAT_SECONDS = 20.0


class Monitor:
    """Reports each finished epoch (or cycle) of a stage.

    Args:
      directory: the stage's directory; receives `metrics.csv` and `tensorboard/`.
      label: the stage's name, in front of each line.
      total: epochs the stage will make.
      unit: what is counted: "epoch" or "cycle".
      history: rows of the epochs that an earlier process finished; they open the new metrics.csv.
      behind_s: seconds that the run will take after the stage, if they are planned.
      images: that an epoch trains on, for their rate; 0 where it is not to be told.
      tracking: what tells trackers, if there is something.

    Attributes:
      board: where TensorBoard looks.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        label: str,
        total: int,
        unit: str = "epoch",
        history: list[dict[str, float]] | None = None,
        behind_s: float | None = None,
        images: int = 0,
        tracking: Tracking | None = None,
    ):
        self.directory = Path(directory)
        self.label = label
        self.total = total
        self.unit = unit
        self.history = list(history or [])
        self._behind_s = behind_s
        self._images = images
        self._tracking = tracking
        self._first = len(self.history)
        self._first_step: int | None = None
        self._steps = 1
        self._started = self._epoch_started = self._last_beat = time.monotonic()
        # Of the epochs that are gone through again, TensorBoard drops what an earlier process has written.
        self.board = Board(self.directory / TENSORBOARD, first_step=self._first + 1 if self._first else 0)
        if tracking:
            tracking.catch_up([self._without_unit(row) for row in self.history])

    def step(self, step: int, steps: int, *, doing: str | None = None) -> None:
        """Says that the epoch, or what is being done besides, is at `step` of `steps`; once in a while."""
        now = time.monotonic()
        if self._first_step is None:
            self._first_step, self._steps = step - 1, steps  # of a resumed epoch
        if now - self._last_beat < HEARTBEAT_SECONDS:
            return
        self._last_beat = now
        if doing:
            self._say(f"{self.label} {doing} {step}/{steps}")
            return
        each = (now - self._epoch_started) / max(step - self._first_step, 1)
        where = f"{self.label} {self.unit} {len(self.history) + 1}/{self.total} step {step}/{steps}"
        made = len(self.history) - self._first + max(step - self._first_step, 1) / steps
        epochs = (now - self._started) / made
        left = epochs * (self.total - len(self.history) - step / steps)
        self._say(f"{where}, {each * 1e3:.0f} ms a step, {self._ends_in(left)}")

    def epoch(self, metrics: Mapping[str, float]) -> None:
        """Records a finished epoch: one progress line, one row, one point in each of TensorBoard's curves."""
        now = time.monotonic()
        row = {self.unit: len(self.history) + 1, **{name: float(value) for name, value in metrics.items()}}
        row["seconds"] = round(now - self._epoch_started, 3)
        self.history.append(row)
        images = self._images * (1 - (self._first_step or 0) / self._steps)
        rate = {"images_per_second": images / (now - self._epoch_started)} if self._images else {}
        self._epoch_started = self._last_beat = now
        self._first_step = None
        done = len(self.history)
        remaining = (now - self._started) / (done - self._first) * (self.total - done)
        self._say(f"{self.label} {self.unit} {done}/{self.total} {self._ends_in(remaining)}{_in_words(metrics)}")
        self.write_csv()
        self.board.curves({**self._without_unit(row), **rate}, done)
        self.board.flush()
        if self._tracking:
            self._tracking.metrics(done, self._without_unit(row))

    def _without_unit(self, row: Mapping[str, float]) -> dict[str, float]:
        return {name: value for name, value in row.items() if name != self.unit}

    def _ends_in(self, seconds: float) -> str:
        """When the stage ends, and the run where that is planned."""
        run = "" if self._behind_s is None else f", of the run {_clock(seconds + self._behind_s)}"
        return f"ETA {_clock(seconds)}{run}"

    def write_csv(self) -> None:
        """Writes all rows so far; a column that appears late is empty before."""
        names: dict[str, None] = {}
        for row in self.history:
            names.update(dict.fromkeys(row))
        rows = [[row.get(name, "") for name in names] for row in self.history]
        files.write_csv(self.directory / "metrics.csv", list(names), rows)

    def close(self) -> None:
        self.board.flush()

    @staticmethod
    def _say(line: str) -> None:
        print(line, file=sys.stdout, flush=True)


def _in_words(values: Mapping[str, float]) -> str:
    return "".join(f" | {name} {float(value):.4g}" for name, value in values.items())


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
