"""What other programs are told of a run while it goes on: MLflow, or a tracker of one's own.

A tracker hears of every stage: that it begins, of each epoch's metrics, that it has ended. It hears of each once, also
where a run is interrupted and resumed, and what it missed when it failed, or before it was given, the next call tells
it. `tracked.json` in the stage's directory notes what has been told. Nothing that a tracker does reaches the run.
"""

from __future__ import annotations

import dataclasses
import operator
import random
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from nhn_tf.errors import UserError
from nhn_tf.storage import files, modules

NAME: Final = "tracked.json"
BUILT_IN: Final = {"mlflow": "nhn_tf.runs.mlflow_tracker:MlflowTracker"}
METHODS: Final = ("on_stage_begin", "on_metrics", "on_stage_end")


@dataclasses.dataclass(frozen=True)
class TrackedStage:
    """What a tracker is told of a stage.

    Attributes:
      id: the same whenever the stage is resumed, and another when it is begun again: what a tracker's own run goes by.
      name: of the stage, "base".
      run: the run's directory.
      path: the stage's, within it; genotype, weights and figures stand there once it has ended.
      settings: by name, numbers, texts and booleans; those of data and computing as `data.flip`.
    """

    id: str
    name: str
    run: Path
    path: Path
    settings: Mapping[str, Any]


class Tracker(Protocol):
    """What a tracker must have; it need not inherit from this.

    Should the process be killed between a call and the note of it, the call comes again when the stage is resumed.
    """

    def on_stage_begin(self, stage: TrackedStage) -> None:
        """A stage begins, or goes on in another process; before its first metrics."""

    def on_metrics(self, stage: TrackedStage, step: int, metrics: Mapping[str, float]) -> None:
        """An epoch, or a cycle, has ended: the `step`-th, from 1. Values need not be finite."""

    def on_stage_end(self, stage: TrackedStage, metrics: Mapping[str, Any]) -> None:
        """The stage has finished, with these figures; all that it leaves is written."""


def resolve(trackers: str | Iterable[str | Tracker]) -> tuple[Tracker, ...]:
    """Trackers by name, and those that are given as they are.

    Args:
      trackers: each "mlflow", "module:Class" of a class that is made without arguments, or a tracker.

    Raises:
      UserError: there is no such tracker, or it cannot be made.
      TypeError: what is given is none.
    """
    trackers = [trackers] if isinstance(trackers, str) else trackers
    made = tuple(_made(tracker) if isinstance(tracker, str) else tracker for tracker in trackers)
    for tracker in made:
        if isinstance(tracker, type) or not all(callable(getattr(tracker, method, None)) for method in METHODS):
            raise TypeError(f"a tracker must be an object with {', '.join(METHODS)}. Received: {tracker!r}.")
    return made


def _made(name: str) -> Tracker:
    module, _, attribute = BUILT_IN.get(name, name).partition(":")
    if not module or not attribute:
        raise UserError(f"`tracker` must be {', '.join(BUILT_IN)} or module:Class. Received: {name!r}.")
    where = modules.load(module, "tracker", name)
    try:
        return operator.attrgetter(attribute)(where)()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"`tracker`={name} cannot be made: {type(error).__name__}: {error}") from error


class Tracking:
    """Tells the trackers of one stage.

    Args:
      trackers: to be told.
      path: the stage's directory, which exists.
      name: of the stage.
      run: the run's directory.
      settings: see `TrackedStage`.
    """

    def __init__(self, trackers: Sequence[Tracker], path: Path, name: str, *, run: Path, settings: Mapping[str, Any]):
        self._file = path / NAME
        noted = self._noted() if trackers else {}
        self.stage = TrackedStage(noted.get("id") or uuid.uuid4().hex, name, run, path, settings)
        self._told: dict[str, dict[str, Any]] = dict(noted.get("told", {}))
        self._trackers: dict[str, Tracker] = {}
        for tracker in trackers:
            kind = f"{type(tracker).__module__}.{type(tracker).__qualname__}"
            alike = sum(type(other) is type(tracker) for other in self._trackers.values())
            self._trackers[f"{kind} {alike + 1}" if alike else kind] = tracker
        self._begun: set[str] = set()
        self._failed: set[str] = set()

    def begin(self) -> None:
        """Says that the stage begins."""
        for name in self._trackers:
            self._begin(name)

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tells the metrics of an epoch to those that have not heard of it."""
        for name in self._trackers:
            if self._begin(name) and step > self._of(name).get("step", 0):
                self._tell(name, "on_metrics", step, dict(metrics), step=step)

    def catch_up(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Tells the metrics of earlier processes' epochs to those that have not heard of them."""
        for step, metrics in enumerate(history, 1):
            self.metrics(step, metrics)

    def end(self, metrics: Mapping[str, Any]) -> None:
        """Says that the stage has finished, to those that have not heard of it."""
        for name in self._trackers:
            if self._begin(name):
                self._tell(name, "on_stage_end", dict(metrics), ended=True)

    def _begin(self, name: str) -> bool:
        """Whether a tracker has heard, at least by now, that the stage begins, and not that it has ended."""
        if name not in self._begun and not self._of(name).get("ended"):
            self._begun.add(name)
            self._tell(name, "on_stage_begin")
        return name in self._begun and name not in self._failed

    def _of(self, name: str) -> dict[str, Any]:
        return self._told.setdefault(name, {})

    def _tell(self, name: str, method: str, *args: Any, **noted: Any) -> None:
        """Calls a tracker; one that fails is left alone until the next process."""
        states = random.getstate(), np.random.get_state()
        try:
            getattr(self._trackers[name], method)(self.stage, *args)
            self._of(name).update(noted)
            files.write_json(self._file, {"id": self.stage.id, "told": self._told})
        except (Exception, SystemExit) as error:
            self._failed.add(name)
            print(
                f"warning: tracker {name} failed at {method} of stage '{self.stage.name}': {type(error).__name__}: "
                f"{error}\nThe run goes on without it. Once more with the same command, it is told what it has missed.",
                flush=True,
            )
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])

    def _noted(self) -> dict[str, Any]:
        """What earlier processes have noted; of a damaged file nothing."""
        try:
            noted = files.read_json(self._file)
            return {"id": str(noted["id"]), "told": {name: dict(told) for name, told in noted["told"].items()}}
        except FileNotFoundError:
            return {}
        except (UserError, KeyError, TypeError, ValueError, AttributeError):
            print(f"warning: {self._file} is damaged; trackers are told everything again", flush=True)
            return {}
