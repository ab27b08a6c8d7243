"""What a user sees while a stage runs: progress lines, `metrics.csv` and TensorBoard's curves, all from one dict.

A script on a terminal shows one line that is renewed; elsewhere there is one for each epoch.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from nhn_tf.runs.board import TENSORBOARD, Board
from nhn_tf.runs.settings import Behind
from nhn_tf.runs.tracking import Tracking
from nhn_tf.storage import files, terminal

HEARTBEAT_SECONDS = 20.0
LIVE_SECONDS = 0.1
_BEST = {"val_accuracy": "val_accuracy", "best_reward": "reward", "best_so_far": "fitness"}
"""Column of metrics.csv -> what its largest value is the best of, for the first of them that a stage has."""


class Monitor:
    """Reports each finished epoch (or cycle) of a stage.

    Args:
      directory: the stage's directory; receives `metrics.csv` and `tensorboard/`.
      label: the stage's name, in front of each line.
      total: epochs the stage will make.
      unit: what is counted: "epoch" or "cycle".
      history: rows of the epochs that an earlier process finished; they open the new metrics.csv.
      behind: what the run will take after the stage, if that is known.
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
        behind: Behind | None = None,
        images: int = 0,
        tracking: Tracking | None = None,
    ):
        self.directory = Path(directory)
        self.label = label
        self.total = total
        self.unit = unit
        self.history = list(history or [])
        self._behind = behind
        self._images = images
        self._tracking = tracking
        self._first = len(self.history)
        self._first_step: int | None = None
        self._steps = 1
        self._epoch_started = self._last_beat = time.monotonic()
        self._first_step_s = 0.0
        # Of what takes its usual time: (when, epochs made by then) since when; (steps, seconds) so far; the last step.
        self._since: tuple[float, float] | None = None
        self._pace = (0, 0.0)
        self._last_step: tuple[int, float] | None = None
        # Of the epochs that are gone through again, TensorBoard drops what an earlier process has written.
        self.board = Board(self.directory / TENSORBOARD, first_step=self._first + 1 if self._first else 0)
        if terminal.live and self._first < total:
            terminal.live.show(f"{label} {unit} {self._first + 1}/{total}")
        if tracking:
            tracking.catch_up([self._without_unit(row) for row in self.history])

    def step(self, step: int, steps: int, *, doing: str | None = None) -> None:
        """Says that the epoch, or what is being done besides, is at `step` of `steps`; once in a while."""
        now = time.monotonic()
        if self._first_step is None:
            self._first_step, self._steps = step - 1, steps  # of a resumed epoch
        made = len(self.history) + step / steps
        if doing:
            self._last_step = None
        else:
            if self._last_step:
                before, when = self._last_step
                self._pace = (self._pace[0] + step - before, self._pace[1] + now - when)
            self._last_step = (step, now)
            if self._since is None:  # the first step was compiled, too
                self._since, self._first_step_s = (now, made), now - self._epoch_started
        if now - self._last_beat < (LIVE_SECONDS if terminal.live else HEARTBEAT_SECONDS):
            return
        self._last_beat = now
        if doing:
            self._show([f"{self.label} {doing} {step}/{steps}"])
            return
        where = f"{self.label} {self.unit} {len(self.history) + 1}/{self.total} step {step}/{steps}"
        self._show([where, self._rate(), self._ends_in(now, made)])

    def epoch(self, metrics: Mapping[str, float]) -> None:
        """Records a finished epoch: one progress line, one row, one point in each of TensorBoard's curves."""
        now = time.monotonic()
        row = {self.unit: len(self.history) + 1, **{name: float(value) for name, value in metrics.items()}}
        row["seconds"] = round(now - self._epoch_started, 3)
        self.history.append(row)
        images = self._images * (1 - (self._first_step or 0) / self._steps)
        rate = {"images_per_second": images / (now - self._epoch_started)} if self._images else {}
        done = len(self.history)
        if self._since is None or self._since[1] >= done:  # it had one step
            self._since = (self._epoch_started, done - 1)
        ends_in = self._ends_in(now, done)
        if terminal.live:
            self._show([self._where(), self._rate(), ends_in])
        else:
            print(f"{self._where()} {ends_in}{_in_words(metrics)}", flush=True)
        if done - self._first == 1 and done < self.total:  # measuring, too, was compiled in the first epoch
            self._since, self._pace = (now, done), (0, 0.0)
        self._epoch_started = self._last_beat = now
        self._first_step = self._last_step = None
        self.write_csv()
        self.board.curves({**self._without_unit(row), **rate}, done)
        self.board.flush()
        if self._tracking:
            self._tracking.metrics(done, self._without_unit(row))

    def _without_unit(self, row: Mapping[str, float]) -> dict[str, float]:
        return {name: value for name, value in row.items() if name != self.unit}

    def _where(self) -> str:
        return f"{self.label} {self.unit} {len(self.history)}/{self.total}"

    def _rate(self) -> str:
        steps, seconds = self._pace
        each = 1e3 * seconds / max(steps, 1)
        return f"{each:,.{0 if each > 99 else 1}f} ms a step" if steps else ""

    def _ends_in(self, now: float, made: float) -> str:
        """When the stage ends, and the run where that is known; "" where it cannot be told yet."""
        if self._since is None or made <= self._since[1]:
            return ""
        since, made_then = self._since
        left = (now - since) / (made - made_then) * (self.total - made)
        if self._behind is None:
            return f"ETA {_clock(left)}"
        run = left + self._behind.total((now - since) / (made - made_then), self._first_step_s)
        return f"ETA {_clock(left)}, of the run {'' if self._behind.is_planned else '~'}{_clock(run)}"

    def _show(self, parts: list[str]) -> None:
        """Shows what is known, in the live line with the best so far and the last epoch's figures."""
        if terminal.live is None:
            print(", ".join(filter(None, parts)), flush=True)
            return
        last = dict(self.history[-1]) if self.history else {}
        for name in (self.unit, "seconds"):
            last.pop(name, None)
        terminal.live.show(" | ".join(filter(None, [*parts, self._best()])) + _in_words(last))

    def _best(self) -> str:
        for column, name in _BEST.items():
            values = [row[column] for row in self.history if math.isfinite(row.get(column, math.nan))]
            if values:
                return f"best {name} {max(values):.4g}"
        return ""

    def write_csv(self) -> None:
        """Writes all rows so far; a column that appears late is empty before."""
        names: dict[str, None] = {}
        for row in self.history:
            names.update(dict.fromkeys(row))
        rows = [[row.get(name, "") for name in names] for row in self.history]
        files.write_csv(self.directory / "metrics.csv", list(names), rows)

    def close(self) -> None:
        """Leaves a line of the stage where there was a live one."""
        if terminal.live and self.history:
            took = _clock(sum(row["seconds"] for row in self.history))
            print(" | ".join(filter(None, [self._where(), took, self._rate(), self._best()])), flush=True)
        self.board.flush()


def _in_words(values: Mapping[str, float]) -> str:
    return "".join(f" | {name} {float(value):.4g}" for name, value in values.items())


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
