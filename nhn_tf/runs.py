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
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np

import nhn_tf
from nhn_tf import files
from nhn_tf.configs import PRESETS, ComputeConfig, Config, DataConfig
from nhn_tf.errors import UserError
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

# Settings that say where things lie or how fast they go, not what comes out.
NOT_IN_DIGEST = {"data_dir", "cache_dir", "eval_batch_size", "steps_per_execution"}

# Of config.json, done.json and run.json; from 2 on they carry a digest of themselves.
SCHEMA = 2


ConfigT = TypeVar("ConfigT", bound=Config)


class RunError(UserError):
    """The run directory does not admit what was asked; the message says what to do."""


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
    """The state of a stage after `epoch` whole epochs.

    Attributes:
      epoch: finished epochs (or cycles).
      arrays: every variable, optimizer slot and other array, by name.
      values: a JSON value for the rest: history, baselines, best so far.
    """

    epoch: int
    arrays: dict[str, np.ndarray]
    values: dict[str, Any]


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
        lock = self.path / "lock"
        try:
            _take_lock(lock)
        except UserError:
            _remove_empty(made)
            raise
        try:
            self._tidy()
            self._note_call(preset, seed)
            yield self
        except UserError:
            lock.unlink(missing_ok=True)
            if made and {path.name for path in self.path.iterdir()} <= {"run.json"}:
                (self.path / "run.json").unlink(missing_ok=True)  # refused before it began
                _remove_empty(made)
            raise
        finally:
            with contextlib.suppress(OSError):  # the lock of a process that is gone is taken over
                lock.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Removes what killed processes left behind; the lock says that no other writes here."""
        for path in (self.path, *(self.path / directory for directory, _, _ in STAGES.values())):
            files.remove_leftovers(path)
            if (path / "done.json").exists():
                shutil.rmtree(path / "checkpoint", ignore_errors=True)
            files.remove_leftovers(path / "checkpoint")

    def _note_call(self, preset: str, seed: int) -> None:
        path = self.path / "run.json"
        record: dict[str, Any] = {"schema": SCHEMA, "calls": []}
        try:
            record["calls"] = read_calls(path)
        except FileNotFoundError:
            pass
        except files.DamagedFileError:
            print(f"warning: {path} is damaged; the calls it listed are lost, the stages are not", file=sys.stderr)
        record["calls"].append(
            {
                "argv": sys.argv,
                "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "preset": preset,
                "seed": seed,
                "git_commit": _git_commit(),
                "versions": _versions(),
                "backend": keras.backend.backend(),
                "device": device(),
                "host": socket.gethostname(),
                "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            }
        )
        files.write_sealed(path, record)

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
        self._record: dict[str, Any] | None = None  # what `begin` was asked for
        self._overwrite = False
        self._started = time.monotonic()
        self._seconds_before = 0.0  # spent by processes that were interrupted

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
        record = {
            "schema": SCHEMA,
            **settings.to_json(),
            "stage": self.name,
            "input_genotype": input_genotype.digest if input_genotype else None,
            "input_weights": source.done()["weights"] if source else None,
        }
        self._record = json.loads(json.dumps(record))
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
        if self._record is None:
            raise ValueError("`start` must follow `begin`.")
        if self._overwrite and self.path.exists():
            files.remove_tree(self.path)
        self._started = time.monotonic()
        seen = {"data_digest": data_digest, "images": dict(images or {})}
        files.write_sealed(self.path / "config.json", {**self._record, **seen})

    def finish(
        self, metrics: Mapping[str, Any], *, genotype: Genotype, weights: Mapping[str, np.ndarray], **facts: Any
    ) -> dict[str, Any]:
        """Writes the stage's results, done.json last, and drops its checkpoints.

        Args:
          metrics: the stage's figures.
          genotype: what it found or trained.
          weights: arrays by variable path.
          **facts: further entries of done.json.

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
            "images": record.get("images", {}),
            "device": device(),
            "backend": keras.backend.backend(),
            **facts,
        }
        files.write_sealed(self.path / "done.json", done)
        shutil.rmtree(self.path / "checkpoint", ignore_errors=True)
        return done

    # Checkpoints: one npz an epoch, the newest two kept.

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        values = {
            **checkpoint.values,
            "epoch": checkpoint.epoch,
            "seconds": self._seconds(),
            "config_digest": config_digest(self.record()),
            "arrays_digest": files.digest_arrays(checkpoint.arrays),
        }
        text = np.frombuffer(json.dumps(files.seal(values)).encode(), np.uint8)
        path = self.path / "checkpoint" / f"epoch_{checkpoint.epoch:06d}.npz"
        files.save_npz(path, {**checkpoint.arrays, "values.json": text})
        with files.writing(path.parent):
            for old in self._checkpoint_paths()[2:]:
                old.unlink()

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
            self._seconds_before = float(checkpoint.values["seconds"])
            return checkpoint
        if faults:
            raise files.DamagedFileError(
                f"no checkpoint of stage '{self.name}' can be read: {', '.join(map(str, faults))}.\n"
                f"Restore one of them, or give --overwrite to begin the stage again."
            )
        return None

    def _checkpoint_paths(self) -> list[Path]:
        return sorted((self.path / "checkpoint").glob("epoch_*.npz"), reverse=True)

    def _seconds(self) -> float:
        """Seconds spent on the stage so far, by interrupted processes too."""
        return self._seconds_before + time.monotonic() - self._started


def read_calls(path: Path) -> list[dict[str, Any]]:
    """The calls that a run.json lists, the first one first.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: it is damaged.
    """
    calls = files.read_sealed(path, since=SCHEMA).get("calls")
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise files.DamagedFileError(f"{path} does not list the run's calls. Restore a copy.")
    return calls


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
    return Checkpoint(values["epoch"], arrays, values)


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


def _take_lock(path: Path) -> None:
    """Creates the lock file with this process's host and pid; takes over one whose process is dead."""
    mine = {"host": socket.gethostname(), "pid": os.getpid()}
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            try:
                holder = json.loads(path.read_text())
                host, pid = holder["host"], int(holder["pid"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
                path.unlink(missing_ok=True)
                continue
            if host == mine["host"] and not _alive(pid):
                path.unlink(missing_ok=True)
                continue
            raise RunError(
                f"{path.parent} is in use by process {pid} on {host}. Wait for it, choose another --model_dir, "
                f"or, if that process is gone, delete {path}."
            ) from None
        except OSError as error:
            raise RunError(f"cannot write into {path.parent}: {error.strerror}.") from None
        try:
            with files.writing(path), open(descriptor, "w") as file:
                json.dump(mine, file)
        except UserError:
            path.unlink(missing_ok=True)
            raise
        return
    raise RunError(f"cannot take the lock {path}. Delete it if no other process uses {path.parent}.")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _git_commit() -> str | None:
    """The commit of the source tree this package runs from, or None outside a checkout."""
    root = Path(nhn_tf.__file__).resolve().parent.parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "nhn_tf": nhn_tf.__version__}
    for package in ("keras", "tensorflow", "jax", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def device() -> str:
    """The accelerators Keras sees ("gpu:0"), or the processor's name."""
    devices = keras.distribution.list_devices()
    accelerators = [name for name in devices if not name.lower().startswith("cpu")]
    return ", ".join(accelerators) if accelerators else _processor()


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"cpu: {line.split(':', 1)[1].strip()}"
    return f"cpu: {platform.processor() or platform.machine()}"
