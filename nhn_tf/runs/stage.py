"""The files of one stage: begun, gone on with, finished, and read by the stages behind it."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from nhn_tf.storage import files
from nhn_tf.errors import RunError
from nhn_tf.values.genotype import Genotype
from nhn_tf.runs import journal
from nhn_tf.storage.checkpoints import Checkpoint, Checkpoints
from nhn_tf.runs.settings import STAGES, Settings, changes, config_digest, identity

if TYPE_CHECKING:
    from nhn_tf.runs.directory import RunDirectory

# Of config.json and done.json.
SCHEMA = 1


class StageDirectory:
    """The files of one stage."""

    def __init__(self, run: RunDirectory, name: str):
        self.run = run
        self.name = name
        self.path = run.path / STAGES[name][0]
        self._settings: Settings | None = None  # what `begin` was asked for
        self._record: dict[str, Any] | None = None  # the same with what it builds on, as config.json will have it
        self._architecture: str | None = None  # in ENAS's text form, where the stage builds on no other's weights
        self._overwrite = False
        self._started = time.monotonic()
        self._seconds_before: float | None = None  # spent by processes that were interrupted
        self._checkpoints = Checkpoints(self.path / "checkpoint")
        self.rate_scale = 1.0  # what is left of the learning rate after divergences

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def is_done(self) -> bool:
        return (self.path / "done.json").exists()

    def done(self) -> dict[str, Any]:
        """The content of done.json."""
        keys = ("stage", "metrics", "genotype", "weights", "wall_s", "config_digest")
        return self._read("done.json", keys)

    def _read(self, name: str, keys: Sequence[str]) -> dict[str, Any]:
        """A JSON record of the stage that must have some entries.

        Raises:
          DamagedFileError: it is missing, altered, or lacks one.
        """
        with self._reading(name):
            value = files.read_sealed(self.path / name)
            if not set(keys) <= set(value):
                raise files.DamagedFileError(f"{self.path / name} is damaged: it must hold {', '.join(keys)}.")
        return value

    def _again(self) -> str:
        """What to do about a stage whose files are damaged."""
        command = f"python {STAGES[self.name][2]} --model_dir={self.run.path}"
        return f"Or begin the stage again, with its settings of before and --overwrite: {command}"

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Says of a file that is missing or damaged what to do about it."""
        try:
            yield
        except FileNotFoundError:
            message = f"{self.path / name} is missing. Restore a copy."
            raise files.DamagedFileError(f"{message}\n{self._again()}") from None
        except files.DamagedFileError as error:
            raise files.DamagedFileError(f"{error}\n{self._again()}") from None

    def genotype(self) -> Genotype:
        """The genotype that the finished stage left.

        Raises:
          DamagedFileError: it is damaged, or another one has taken its place.
        """
        with self._reading("genotype.json"):
            genotype = Genotype.load(self.path)
        self._check_own("genotype.json", genotype.digest, self.done()["genotype"])
        return genotype

    def weights(self) -> dict[str, np.ndarray]:
        """The weights that the finished stage left, by variable path.

        Raises:
          DamagedFileError: they are damaged, or others have taken their place.
        """
        with self._reading("weights.npz"):
            arrays = files.load_npz(self.path / "weights.npz")
        self._check_own("weights.npz", files.digest_arrays(arrays), self.done()["weights"])
        return arrays

    def _check_own(self, name: str, found: str, expected: str) -> None:
        if found != expected:
            raise files.DamagedFileError(
                f"{self.path / name} is not what stage '{self.name}' finished with: its digest is {found}, not "
                f"{expected}.\n{self._again()}"
            )

    def record(self) -> dict[str, Any]:
        """The content of config.json: the settings that the stage ran with."""
        keys = ("stage", "seed", "data", "compute", "config")
        return self._read("config.json", keys)

    def begin(
        self,
        settings: Settings,
        *,
        source: StageDirectory | None = None,
        input_genotype: Genotype | None = None,
    ) -> dict[str, Any] | None:
        """Compares the stage with the given settings; writes nothing yet, see `start`.

        Args:
          settings: what is asked.
          source: the finished stage whose weights this one starts from, if any.
          input_genotype: the genotype that the stage starts from, if any.

        Returns:
          The content of done.json when the stage has finished with these very settings, else None: run it.

        Raises:
          RunError: the stage was begun with other settings and `overwrite` is not set.
        """
        self._settings = settings
        record = {
            "schema": SCHEMA,
            **settings.to_json(),
            "stage": self.name,
            "input_genotype": input_genotype.digest if input_genotype else None,
            "input_weights": source.done()["weights"] if source else None,
        }
        self._record = json.loads(json.dumps(record))
        self._architecture = input_genotype.to_enas_text() if input_genotype and source is None else None
        self._overwrite = settings.overwrite
        if (self.is_done or (self.path / "config.json").exists()) and not settings.overwrite:
            changed = changes(identity(self.record()), identity(self._record))
            own = getattr(settings.config, "genotype", "")
            if own and any(name == "input_genotype" for name, _ in changed):
                raise RunError(
                    f"stage '{self.name}' in {self.run.path} was begun on another architecture than --genotype={own} "
                    f"holds now.\nGive that one, another --model_dir, or --overwrite to begin the stage again."
                )
            if any(name.startswith("input_") for name, _ in changed):
                raise RunError(
                    f"stage '{self.name}' in {self.run.path} was begun on another result of stage "
                    f"'{source.name if source else 'enas'}', which has been run again since.\n"
                    f"Give --overwrite to begin '{self.name}' again on the present one."
                )
            if changed:
                raise RunError(
                    f"stage '{self.name}' in {self.run.path} was begun with other settings: "
                    f"{'; '.join(text for _, text in changed)}.\n"
                    f"Give the same settings, another --model_dir, or --overwrite to begin the stage again."
                )
            if self.is_done:
                done = self.done()
                self._check_own("config.json", config_digest(self.record()), done["config_digest"])
                return done
        return None

    def check_data(self, digest: str) -> None:
        """Compares the images at hand with those that the stage has seen, if it has begun.

        Raises:
          RunError: they are others.
        """
        if self._overwrite or not (self.path / "config.json").exists():
            return
        before = self.record().get("data_digest")
        if before != digest:
            raise RunError(
                f"stage '{self.name}' in {self.run.path} has seen other images (digest {before}, now {digest}).\n"
                f"Give the same --data_dir, or another --model_dir."
            )

    def start(self, data_digest: str, images: Mapping[str, Any] | None = None) -> None:
        """Opens the stage for the settings given to `begin`: from here on the directory belongs to them.

        Called once everything that can be refused has been looked at, data and network: until then nothing is
        written, and with `overwrite` nothing is discarded.

        Args:
          data_digest: of the images, see `check_data`.
          images: how many there are, for the record.
        """
        if self._record is None or self._settings is None:
            raise ValueError("`start` must follow `begin`.")
        if self._overwrite and self.path.exists():
            files.remove_tree(self.path)
            self._overwrite = False  # what begins now is not discarded
        self._started = time.monotonic()
        resumed = (self.path / "config.json").exists()
        seen = {"data_digest": data_digest, "images": dict(images or {})}
        files.write_sealed(self.path / "config.json", {**self._record, **seen})
        own = getattr(self._settings.config, "genotype", "")
        architecture = {"architecture": self._architecture} if own else {}
        noted = {**self._settings.to_json(), "data_digest": data_digest, **architecture}
        self.run.journal.note_stage(self.name, noted, resumed=resumed)

    def finish(
        self, metrics: Mapping[str, Any], *, genotype: Genotype, weights: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Writes the stage's results, done.json last, and drops its checkpoints.

        Args:
          metrics: the stage's figures.
          genotype: what it found or trained.
          weights: arrays by variable path.

        Returns:
          The content of done.json.
        """
        genotype.save(self.path)
        files.save_npz(self.path / "weights.npz", weights)
        record = self.record()
        done = {
            "schema": SCHEMA,
            "stage": self.name,
            "metrics": dict(metrics),
            "config_digest": config_digest(record),
            "input_genotype": record["input_genotype"],
            "genotype": genotype.digest,
            "weights": files.digest_arrays(weights),
            "wall_s": round(self._seconds(), 3),
            "rate_scale": self.rate_scale,
            "images": record.get("images", {}),
            "device": journal.device(),
            "backend": keras.backend.backend(),
        }
        self.run.journal.note_results(self.name, {name: done[name] for name in journal.RESULTS})
        files.write_sealed(self.path / "done.json", done)
        shutil.rmtree(self.path / "checkpoint", ignore_errors=True)
        return done

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint beside the one before it."""
        self._checkpoints.save(checkpoint, config=config_digest(self.record()), seconds=self._seconds())

    def load_checkpoint(self, *, whole_epochs: bool = False) -> Checkpoint | None:
        """The newest readable checkpoint of this very configuration, or None; a process counts on from its first one.

        Args:
          whole_epochs: pass over those that were written within an epoch, if there are others.

        Raises:
          DamagedFileError: there are checkpoints, but none can be read.
        """
        checkpoint = self._checkpoints.load(config_digest(self.record()), whole_epochs=whole_epochs)
        if checkpoint and self._seconds_before is None:
            self._seconds_before, self._started = float(checkpoint.values["seconds"]), time.monotonic()
        return checkpoint

    def _seconds(self) -> float:
        """Seconds spent on the stage so far, by interrupted processes too."""
        return (self._seconds_before or 0.0) + time.monotonic() - self._started
