"""The run directory: one directory for each stage, whole or resumable, never silently mixed.

    runs/NAME/run.json                     what was called, when, with which versions, on which device
    runs/NAME/1-enas/ ... 7-final/         config.json genotype.json [masks.npz] weights.npz metrics.csv
                                           checkpoint/ tensorboard/ done.json

`done.json` is written last. A stage whose done.json carries the same digest returns at once; another digest is an
error that names the fields that changed. A stage without done.json goes on from its newest readable checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np

from nhn_tf import files, journal, lock
from nhn_tf.configs import PRESETS, ComputeConfig, Config, DataConfig
from nhn_tf.errors import RunError, UserError
from nhn_tf.genotype import Genotype

# Each stage: its directory, the stage it builds on, and the command that runs it.
STAGES: dict[str, tuple[str, str | None, str]] = {
    "enas": ("1-enas", None, "search.py --stage=enas"),
    "base": ("2-base", "enas", "train.py --stage=base"),
    "prune": ("3-prune", "base", "prune.py"),
    "pruned": ("4-pruned", "prune", "train.py --stage=pruned"),
    "lds_location": ("5-lds_location", "pruned", "search.py --stage=lds_location"),
    "lds_direction": ("6-lds_direction", "lds_location", "search.py --stage=lds_direction"),
    "final": ("7-final", "lds_direction", "train.py --stage=final"),
}

# Settings that say where things lie, how fast they go or what to do about faults, not what comes out.
NOT_IN_DIGEST = {
    "data_dir", "cache_dir", "eval_batch_size", "steps_per_execution", "on_nan", "checkpoint_minutes"
}  # fmt: skip

# Of config.json and done.json; from 2 on they carry a digest of themselves.
SCHEMA = 2


ConfigT = TypeVar("ConfigT", bound=Config)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that one stage is asked to do."""

    config: Config
    data: DataConfig
    compute: ComputeConfig
    seed: int = 0
    preset: str = ""
    overwrite: bool = False

    def expect(self, kind: type[ConfigT]) -> ConfigT:
        """The stage's configuration, which must be of the stage's own class.

        Raises:
          TypeError: it is another stage's.
        """
        if not isinstance(self.config, kind):
            raise TypeError(f"`config` must be a {kind.__name__}. Received: {type(self.config).__name__}.")
        return self.config

    def command(self, stage: str, model_dir: Path) -> str:
        """The command that runs `stage` on the same data."""
        parts = [f"python {STAGES[stage][2]} --model_dir={model_dir}"]
        if self.preset:
            parts.append(f"--preset={self.preset}")
            defaults = PRESETS[self.preset].data.to_json()
            parts += [f"--{k}={v}" for k, v in self.data.to_json().items() if v != defaults[k]]
        if self.seed:
            parts.append(f"--seed={self.seed}")
        return " ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "preset": self.preset,
            "seed": self.seed,
            "data": self.data.to_json(),
            "compute": self.compute.to_json(),
            "config": self.config.to_json(),
        }


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of a stage after some whole epochs, or within the one behind them.

    Attributes:
      epoch: finished epochs (or cycles).
      arrays: every variable, optimizer slot and other array, by name.
      values: a JSON value for the rest: history, baselines, best so far.
      step: steps done of the epoch under way.
    """

    epoch: int
    arrays: dict[str, np.ndarray]
    values: dict[str, Any]
    step: int = 0


class RunDirectory:
    """A run's directory, held by one process at a time.

    Args:
      path: the directory; made when missing.

    Raises:
      RunError: the path holds something that is not a run.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(os.path.expanduser(path))
        try:
            is_file = self.path.exists() and not self.path.is_dir()
            is_other = self.path.is_dir() and any(self.path.iterdir()) and not (self.path / "run.json").exists()
        except OSError as error:
            raise RunError(f"the run directory {self.path} cannot be read: {error.strerror}.") from None
        if is_file:
            raise RunError(f"--model_dir must be a directory. Received: {self.path}, which is a file.")
        if is_other:
            raise RunError(
                f"{self.path} is not empty and holds no run (no run.json).\n"
                f"Choose another --model_dir, empty this one, or, if it is a run, write {{}} into its run.json."
            )
        self.journal = journal.Journal(self.path)

    @contextlib.contextmanager
    def hold(self, *, preset: str = "", seed: int = 0) -> Iterator[RunDirectory]:
        """Locks the directory for this process and notes the call in `run.json`.

        Raises:
          RunError: another process holds the lock.
        """
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run directory {self.path}: {error.strerror}.") from None
        held = self.path / "lock"
        try:
            lock.take(held)
        except UserError:
            _remove_empty(made)
            raise
        try:
            self._tidy()
            self.journal.note_call(preset, seed)
            yield self
        except UserError:
            lock.release(held)
            if made and {path.name for path in self.path.iterdir()} <= {"run.json"}:
                (self.path / "run.json").unlink(missing_ok=True)  # refused before it began
                _remove_empty(made)
            raise
        finally:
            lock.release(held)

    def _tidy(self) -> None:
        """Removes what killed processes left behind; the lock says that no other writes here."""
        for path in (self.path, *(self.path / directory for directory, _, _ in STAGES.values())):
            files.remove_leftovers(path)
            if (path / "done.json").exists():
                shutil.rmtree(path / "checkpoint", ignore_errors=True)
            files.remove_leftovers(path / "checkpoint")

    def stage(self, name: str) -> StageDirectory:
        """The directory of the stage called `name`, whether or not it has begun."""
        return StageDirectory(self, name)

    def require(self, name: str, settings: Settings) -> StageDirectory:
        """The directory of a finished stage.

        Args:
          name: of the stage.
          settings: of the stage that needs it; they go into the command that the error gives.

        Raises:
          RunError: the stage is not finished; the message gives the command that runs it.
        """
        stage = self.stage(name)
        if not stage.is_done:
            run = f"Run: {settings.command(name, self.path)}"
            if (stage / "config.json").exists():
                run = f"It has begun but not ended: give its command again, {self.path / 'run.json'} lists it."
            raise RunError(f"this needs the finished stage '{name}' in {self.path}.\n{run}")
        return stage


class StageDirectory:
    """The files of one stage."""

    def __init__(self, run: RunDirectory, name: str):
        self.run = run
        self.name = name
        self.path = run.path / STAGES[name][0]
        self._settings: Settings | None = None  # what `begin` was asked for
        self._record: dict[str, Any] | None = None  # the same with what it builds on, as config.json will have it
        self._overwrite = False
        self._started = time.monotonic()
        self._seconds_before = 0.0  # spent by processes that were interrupted
        self._newest: Path | None = None  # checkpoint that is known to be whole
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
            value = files.read_sealed(self.path / name, since=SCHEMA)
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
        if (self.path / "config.json").exists() and not settings.overwrite:
            changes = _changes(_identity(self.record()), _identity(self._record))
            if any(name.startswith("input_") for name, _ in changes):
                raise RunError(
                    f"stage '{self.name}' in {self.run.path} was begun on another result of stage "
                    f"'{source.name if source else 'enas'}', which has been run again since.\n"
                    f"Give --overwrite to begin '{self.name}' again on the present one."
                )
            if changes:
                raise RunError(
                    f"stage '{self.name}' in {self.run.path} was begun with other settings: "
                    f"{'; '.join(text for _, text in changes)}.\n"
                    f"Give the same settings, another --model_dir, or --overwrite to begin the stage again."
                )
            if self.is_done:
                return self.done()
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
        self._started = time.monotonic()
        seen = {"data_digest": data_digest, "images": dict(images or {})}
        files.write_sealed(self.path / "config.json", {**self._record, **seen})
        own = getattr(self._settings.config, "genotype", "")
        architecture = {"architecture": self._architecture} if own else {}
        self.run.journal.note_stage(self.name, {**self._settings.to_json(), "data_digest": data_digest, **architecture})

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

    # Checkpoints: an npz each, the newest two kept.

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint; of those before it the last one stays that was written or loaded here."""
        values = {
            **checkpoint.values,
            "epoch": checkpoint.epoch,
            "step": checkpoint.step,
            "seconds": self._seconds(),
            "config_digest": config_digest(self.record()),
            "arrays_digest": files.digest_arrays(checkpoint.arrays),
        }
        text = np.frombuffer(json.dumps(files.seal(values)).encode(), np.uint8)
        others = self._checkpoint_paths()
        path = self.path / "checkpoint" / f"{int(others[0].stem) + 1 if others else 1:06d}.npz"
        files.save_npz(path, {**checkpoint.arrays, "values.json": text})
        before = self._newest if self._newest in others else others[0] if others else None
        with files.writing(path.parent):
            for old in others:
                if old != before:
                    old.unlink()
        self._newest = path

    def load_checkpoint(self) -> Checkpoint | None:
        """The newest readable checkpoint of this very configuration; None when there is none.

        A damaged one is named on stderr and passed over for the one before it.

        Raises:
          DamagedFileError: there are checkpoints, but none can be read. Beginning again would replace them, so that
            is left to the user.
        """
        digest, faults = config_digest(self.record()), []
        for path in self._checkpoint_paths():
            try:
                checkpoint = _read_checkpoint(path, digest)
            except files.DamagedFileError as error:
                print(f"warning: passing over a damaged checkpoint: {error}", file=sys.stderr)
                faults.append(path)
                continue
            self._seconds_before, self._started = float(checkpoint.values["seconds"]), time.monotonic()
            self._newest = path
            return checkpoint
        if faults:
            raise files.DamagedFileError(
                f"no checkpoint of stage '{self.name}' can be read: {', '.join(map(str, faults))}.\n"
                f"Restore one of them, or give --overwrite to begin the stage again."
            )
        return None

    def _checkpoint_paths(self) -> list[Path]:
        """From the newest to the oldest: they are numbered as they are written."""
        return sorted((self.path / "checkpoint").glob("[0-9]*.npz"), reverse=True)

    def _seconds(self) -> float:
        """Seconds spent on the stage so far, by interrupted processes too."""
        return self._seconds_before + time.monotonic() - self._started


def _read_checkpoint(path: Path, config: str) -> Checkpoint:
    """A checkpoint of the configuration with digest `config`.

    Raises:
      DamagedFileError: it is damaged, or of another configuration.
    """
    arrays = files.load_npz(path)
    try:
        values = files.unseal(json.loads(arrays.pop("values.json").tobytes()))
    except (KeyError, ValueError, RecursionError) as error:
        raise files.DamagedFileError(f"{path} is no checkpoint ({error}).") from None
    if (values.get("arrays_digest"), values.get("config_digest")) != (files.digest_arrays(arrays), config):
        raise files.DamagedFileError(f"{path} does not match its digest.")
    return Checkpoint(values["epoch"], arrays, values, values["step"])


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config.json that decides the result, as flat `section.field` entries."""
    flat: dict[str, Any] = {}
    for section, value in record.items():
        if section in ("schema", "preset", "data_digest", "images"):
            continue
        entries = value if isinstance(value, dict) else {"": value}
        for name, item in entries.items():
            if name not in NOT_IN_DIGEST:
                flat[f"{section}.{name}".strip(".")] = item
    return flat


def config_digest(record: Mapping[str, Any]) -> str:
    """Digest of everything in a config.json that decides the stage's result."""
    return files.digest_json(_identity(record))


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(field, "field old -> new") of everything that differs."""
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    shorts = [name.split(".")[-1] for name in names]
    return [(s, f"{s} {before.get(n)} -> {after.get(n)}") for s, n in zip(shorts, names, strict=True)]


def _remove_empty(directories: Sequence[Path]) -> None:
    """Removes directories, each the next one's child, as far as nothing is in them."""
    with contextlib.suppress(OSError):
        for path in directories:
            path.rmdir()
