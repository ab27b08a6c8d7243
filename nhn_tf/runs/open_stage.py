"""What writes a stage. The order of the calls is the order of the types:

    StageRecord --ready--> ReadyStage --begin--> OpenStage --finish--> Done

A record may be damaged or of other settings; a ready stage agrees with what is asked, and nothing has been written; an
open stage belongs to its settings, saves checkpoints and ends with done.json.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np

from nhn_tf.errors import RunError
from nhn_tf.layers import devices, own_op
from nhn_tf.runs import journal
from nhn_tf.runs.board import TENSORBOARD
from nhn_tf.runs.journal import Journal
from nhn_tf.runs.record import Done, StageRecord
from nhn_tf.runs.session import Session
from nhn_tf.runs.settings import Settings, changes, config_digest, identity
from nhn_tf.runs.tracking import Tracking
from nhn_tf.storage import files
from nhn_tf.storage.checkpoints import Checkpoint, Checkpoints
from nhn_tf.values.genotype import Genotype

SCHEMA: Final = 1
"""Of config.json."""


@dataclasses.dataclass(frozen=True)
class ReadyStage:
    """A stage that nothing in its directory stands in the way of; nothing has been written, nothing discarded.

    Attributes:
      record: the stage as it stands.
      journal: the run's.
      settings: what is asked.
      config: the same as config.json will have it, with the digests of what the stage begins from.
      source: the finished stage whose weights it starts from, if any.
      input_genotype: the genotype that it starts from, if any.
      done: what it finished with, if it has finished with these very settings: it need not run.
    """

    record: StageRecord
    journal: Journal
    settings: Settings
    config: Mapping[str, Any]
    source: StageRecord | None
    input_genotype: Genotype | None
    done: Done | None

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def genotype(self) -> Genotype:
        """What the stage starts from.

        Raises:
          ValueError: it starts from nothing.
        """
        if self.input_genotype is None:
            raise ValueError(f"stage '{self.name}' starts from no genotype.")
        return self.input_genotype

    @property
    def predecessor(self) -> StageRecord:
        """The finished stage whose weights the stage starts from.

        Raises:
          ValueError: it starts from none.
        """
        if self.source is None:
            raise ValueError(f"stage '{self.name}' starts from no other's weights.")
        return self.source

    def check_data(self, digest: str) -> None:
        """Compares the images at hand with those that the stage has seen if it has begun, and its source.

        Raises:
          RunError: they are others.
        """
        if self.record.has_begun and not self.settings.overwrite:
            self.record.check_data(digest)
        if self.source is not None:
            self.source.check_data(digest)

    def begin(self, data_digest: str, images: Mapping[str, Any] | None = None) -> OpenStage:
        """Gives the directory to these settings, discarding what others left there if that is asked for.

        Called once everything that can be refused has been looked at, data and network.

        Args:
          data_digest: of the images, see `check_data`.
          images: how many there are, for the record.
        """
        record, resumed = self.record, self.record.has_begun
        if self.settings.overwrite and record.path.exists():
            files.remove_tree(record.path)
            resumed = False
        seen = {"data_digest": data_digest, "images": dict(images or {})}
        config = {**self.config, **seen}
        files.write_sealed(record / "config.json", config)
        noted = {**self.settings.to_json(), "data_digest": data_digest}
        if self.settings.architecture:
            noted["architecture"] = self.genotype.to_enas_text()
        self.journal.note_stage(self.name, noted, resumed=resumed)
        session = Session(record.path / TENSORBOARD, self.name, self.settings, run=record.run)
        session.write(self.input_genotype)
        tracking = self.tracking()
        tracking.begin()
        return OpenStage(record.path, self.name, config, self.journal, session, tracking)

    def tracking(self) -> Tracking:
        """What tells the trackers of the stage."""
        record, settings = self.record, self.settings
        return Tracking(settings.trackers, record.path, self.name, run=record.run, settings=settings.tracked())


def ready(
    record: StageRecord,
    journal: Journal,
    settings: Settings,
    *,
    source: StageRecord | None = None,
    input_genotype: Genotype | None = None,
) -> ReadyStage:
    """Compares a stage with what is asked of it.

    Args:
      record: the stage as it stands.
      journal: of its run.
      settings: what is asked.
      source: the finished stage whose weights it starts from, if any.
      input_genotype: the genotype that it starts from, if any.

    Raises:
      RunError: the stage was begun with other settings and `settings.overwrite` is not set.
      OpError: an op of one's own makes another layer than when it was begun.
      DamagedFileError: it cannot be told with which.
    """
    config = {
        "schema": SCHEMA,
        **settings.to_json(),
        "stage": record.name,
        "devices": devices.count(),
        "input_genotype": input_genotype.digest if input_genotype else None,
        "input_weights": source.done.weights if source else None,
    }
    ops = input_genotype.space.ops if input_genotype else getattr(settings.config, "ops", ())
    if own_ops := own_op.digests(ops):
        config["own_ops"] = own_ops
    config = json.loads(json.dumps(config))
    done = None
    if (record.is_done or record.has_begun) and not settings.overwrite:
        _check_same(record, config, settings, source)
        record.check_own_ops(ops)
        if record.is_done:
            done = record.done
            record.check_own("config.json", config_digest(record.config), done.config_digest)
    return ReadyStage(record, journal, settings, config, source, input_genotype, done)


def _check_same(record: StageRecord, config: Mapping[str, Any], settings: Settings, source: StageRecord | None) -> None:
    """Refuses settings that are not those the stage was begun with."""
    changed = changes(identity(record.config), identity(config))
    begun = f"stage '{record.name}' in {record.run} was begun"
    if settings.architecture and any(name == "input_genotype" for name, _ in changed):
        raise RunError(
            f"{begun} on another architecture than `genotype`={settings.architecture} holds now.\n"
            f"Give that one, another `model_dir`, or `overwrite` to begin the stage again."
        )
    if any(name.startswith("input_") for name, _ in changed):
        raise RunError(
            f"{begun} on another result of stage '{source.name if source else record.stage.after}', which has been run "
            f"again since.\nGive `overwrite` to begin '{record.name}' again on the present one."
        )
    if changed:
        raise RunError(
            f"{begun} with other settings: {'; '.join(text for _, text in changed)}.\n"
            f"Give the same settings, another `model_dir`, or `overwrite` to begin the stage again."
        )


class OpenStage:
    """A stage that is running: it saves checkpoints, and finishes.

    Args:
      path: the stage's directory.
      name: the stage's.
      config: the content of its config.json.
      journal: the run's.
      session: what TensorBoard is told of the stage as a whole.
      tracking: what tells trackers.

    Attributes:
      rate_scale: what is left of the learning rate after divergences.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        config: Mapping[str, Any],
        journal: Journal,
        session: Session,
        tracking: Tracking,
    ):
        self.path = path
        self.name = name
        self.rate_scale = 1.0
        self._config = config
        self._journal = journal
        self._session = session
        self.tracking = tracking
        self._checkpoints = Checkpoints(path / "checkpoint")
        self._started = time.monotonic()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def digest(self) -> str:
        """Of everything that decides the stage's result but the images."""
        return config_digest(self._config)

    @property
    def seconds(self) -> float:
        """Spent on the stage so far, by interrupted processes too."""
        return time.monotonic() - self._started

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint beside the one before it."""
        self._checkpoints.save(checkpoint, config=self.digest, seconds=self.seconds)

    def load_checkpoint(self, *, whole_epochs: bool = False) -> Checkpoint | None:
        """The newest readable checkpoint of this very configuration, or None.

        Args:
          whole_epochs: pass over those that were written within an epoch, if there are others.

        Raises:
          DamagedFileError: there are checkpoints, but none can be read.
        """
        return self._checkpoints.load(self.digest, whole_epochs=whole_epochs)

    def resume(self) -> Checkpoint | None:
        """As `load_checkpoint`, for a process that begins; the seconds spent before it count from here on."""
        checkpoint = self.load_checkpoint()
        if checkpoint:
            self._started = time.monotonic() - float(checkpoint.values["seconds"])
        return checkpoint

    def finish(
        self, metrics: Mapping[str, Any], *, genotype: Genotype | None, weights: Mapping[str, np.ndarray]
    ) -> Done:
        """Writes the stage's results, done.json last, and drops its checkpoints.

        Args:
          metrics: the stage's figures.
          genotype: what it found or trained; None for a network that has none.
          weights: arrays by variable path.
        """
        if genotype is not None:
            genotype.save(self.path)
        files.save_npz(self / "weights.npz", weights)
        self._session.write(genotype, metrics)
        done = Done(
            stage=self.name,
            metrics=dict(metrics),
            genotype=genotype.digest if genotype is not None else "",
            weights=files.digest_arrays(weights),
            config_digest=config_digest(self._config),
            wall_s=round(self.seconds, 3),
            input_genotype=self._config["input_genotype"],
            rate_scale=self.rate_scale,
            images=self._config["images"],
            device=journal.device(),
            backend=keras.backend.backend(),
        )
        self._journal.note_results(self.name, {name: getattr(done, name) for name in journal.RESULTS})
        files.write_sealed(self / "done.json", done.to_json())
        shutil.rmtree(self / "checkpoint", ignore_errors=True)
        self.tracking.end(done.metrics)
        return done
