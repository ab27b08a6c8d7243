"""`run.json`: who called a run and where, and all that is needed to repeat it.

    {"schema": 1,
     "calls": [{"argv", "time", "preset", "seed", "git_commit", "versions", "backend", "device", "host", "pid",
                "cpus", "environment"}],
     "stages": {"base": {"preset", "seed", "data", "compute", "config", "data_digest", "architecture",
                         "computed_with", "also_computed_with", "genotype", "weights"}}}

A stage's entry has the settings that it was begun with, the digest of the images and, where one was given in a file,
the architecture; once it has finished, the digests of what it left. A run with a time limit has its "plan", too
(`settings.plan`).
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import nhn_tf
from nhn_tf.errors import RunError
from nhn_tf.storage import files

NAME: Final = "run.json"
RESULTS: Final = ("genotype", "weights")
"""Of a stage's entry, the digests of what it left."""
SCHEMA: Final = 1
_ENVIRONMENT: Final = (
    "XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS",
)  # fmt: skip


class Journal:
    """The journal of a run; whoever writes holds the run's lock.

    Args:
      directory: the run's.
    """

    def __init__(self, directory: Path):
        self.path = directory / NAME

    def read(self) -> dict[str, Any]:
        """The whole of it.

        Raises:
          FileNotFoundError: there is none.
          files.DamagedFileError: it is damaged.
        """
        return read(self.path)

    def note_call(self, preset: str, seed: int) -> None:
        """Notes the process, unless this very call has been noted; a damaged journal is begun again."""
        record = self._record(warn=True)
        call = describe_call(preset, seed)
        if record["calls"] and _same_process(record["calls"][-1], call):
            return
        record["calls"].append(call)
        files.write_sealed(self.path, record)

    def note_stage(self, name: str, entry: Mapping[str, Any], *, resumed: bool) -> None:
        """Notes what a stage is begun with, or `resumed` with, in place of what it was before.

        What it is first computed with stays; whatever else it is resumed with is warned of and noted beside that.
        """
        record, now = self._record(), computed_with()
        before = record["stages"].get(name) if resumed else None
        first = before["computed_with"] if before else now
        later = before.get("also_computed_with", []) if before else []
        if other := differences(first, now):
            print(f"warning: stage '{name}' was begun with something else: {'; '.join(other)}. Its bits will not be "
                  "those of a run with either.", file=sys.stderr)  # fmt: skip
            later = [*later, *([] if now in later else [now])]
        also = {"also_computed_with": later} if later else {}
        record["stages"][name] = {**entry, "computed_with": first, **also}
        files.write_sealed(self.path, record)

    def forget(self, names: Sequence[str]) -> None:
        """Removes what is noted of stages, and the plan that they followed."""
        record = self._record()
        record.pop("plan", None)
        record["stages"] = {name: entry for name, entry in record["stages"].items() if name not in names}
        files.write_sealed(self.path, record)

    def note_plan(self, plan: Mapping[str, Any]) -> None:
        """Notes what a run with a time limit is to do, in place of the plan before."""
        files.write_sealed(self.path, {**self._record(), "plan": dict(plan)})

    def note_results(self, name: str, results: Mapping[str, Any]) -> None:
        """Adds to a stage's entry what it has left."""
        record = self._record()
        if name in record["stages"]:  # else the journal has been damaged since
            record["stages"][name].update(results)
            files.write_sealed(self.path, record)

    def _record(self, *, warn: bool = False) -> dict[str, Any]:
        try:
            return self.read()
        except FileNotFoundError:
            pass
        except files.DamagedFileError:
            if warn:
                print(f"warning: {self.path} is damaged; what it noted is lost, what the stages left is not",
                      file=sys.stderr)  # fmt: skip
        return {"schema": SCHEMA, "calls": [], "stages": {}}


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a journal, wherever it lies.

    Raises:
      FileNotFoundError: there is no such file.
      files.DamagedFileError: it is damaged, or something else.
    """
    record = files.read_sealed(path)
    calls, noted = record.get("calls"), record.get("stages")
    if not (isinstance(calls, list) and isinstance(noted, dict)) or not all(
        isinstance(entry, dict) for entry in (*calls, *noted.values())
    ):
        raise files.DamagedFileError(f"{path} is no run's journal: it must hold calls and stages.")
    return record


def read_to_repeat(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The entries of the stages that a journal notes, at least one; Keras is not needed.

    Raises:
      RunError: there is no such file, or no stage is noted.
      files.DamagedFileError: it is damaged, or something else.
    """
    try:
        noted = read(path)["stages"]
    except FileNotFoundError:
        raise RunError(f"`repeat`={path} does not exist. Give the run.json of a run's directory.") from None
    if not noted:
        raise RunError(f"`repeat`={path}: no stage of that run has begun; there is nothing to repeat.")
    return noted


def describe_call(preset: str, seed: int) -> dict[str, Any]:
    """This process and what it computes with."""
    return {
        "argv": sys.argv,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "preset": preset,
        "seed": seed,
        "git_commit": _git_commit(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        **computed_with(),
    }


def computed_with() -> dict[str, Any]:
    """What may make a difference of some bits between two runs."""
    import keras  # here, since a journal is read without it

    return {
        "versions": _versions(),
        "backend": keras.backend.backend(),
        "device": device(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of two values of `computed_with` is not the same, such as "keras 3.15.0 -> 3.15.1"."""
    flat = [
        {**side["versions"], **side["environment"], **{name: side[name] for name in ("backend", "device", "cpus")}}
        for side in (before, now)
    ]
    names = sorted({*flat[0], *flat[1]})
    return [f"{n} {flat[0].get(n)} -> {flat[1].get(n)}" for n in names if flat[0].get(n) != flat[1].get(n)]


def _same_process(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two entries are of one process that was asked for one thing: a pipeline's stages, say."""
    return all(before.get(name) == now[name] for name in ("argv", "host", "pid", "preset", "seed"))


def _git_commit() -> str | None:
    """The commit of the source tree this package runs from, or None outside a checkout."""
    root = Path(nhn_tf.__file__).resolve().parent.parent
    if not (root / ".git").exists():  # an installation may lie in a checkout of something else
        return None
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
    import keras

    devices = keras.distribution.list_devices()
    accelerators = [name for name in devices if not name.lower().startswith("cpu")]
    return ", ".join(accelerators) if accelerators else _processor()


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"cpu: {line.split(':', 1)[1].strip()}"
    return f"cpu: {platform.processor() or platform.machine()}"
