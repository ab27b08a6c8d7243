"""The lock of a run directory: one process writes there at a time.

The lock is a file that names its holder by host, process and when that process began: numbers of processes are used
again, in containers for the very next one, and a process that is gone must not keep others out.

From another host, or another container, nobody can see whether a process lives. So the holder touches its lock every
`BEAT_SECONDS`, and a lock that stays as it is for `SILENCE_SECONDS` while somebody watches is taken over. That compares
no clocks. A process that stood still for so long, suspended, finds its lock to be another's and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nhn_tf.errors import RunError, UserError
from nhn_tf.storage import files, stopping

BEAT_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 60.0
_ATTEMPTS: Final = 5
_PAUSE_SECONDS: Final = 0.1
_LOOKS: Final = 60
"""While a lock is watched."""
_released: dict[Path, threading.Event] = {}
"""Of each lock that this process holds, what ends its beat."""


def take(path: Path) -> None:
    """Creates the lock file `path` in this process's name; takes over one whose process is gone.

    Waits for `SILENCE_SECONDS` where that cannot be told from here.

    Raises:
      RunError: another process holds it, or it cannot be made.
    """
    mine = _own()
    for attempt in range(_ATTEMPTS):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            _clear(path, mine, last=attempt >= _ATTEMPTS - 2)
            continue
        except OSError as error:
            raise RunError(f"cannot write into {path.parent}: {error.strerror}.") from None
        try:
            with files.writing(path), open(descriptor, "w") as file:
                json.dump(mine, file)
        except UserError:
            path.unlink(missing_ok=True)
            raise
        _released[path] = threading.Event()
        threading.Thread(target=_beat, args=(path, mine, _released[path]), name="lock", daemon=True).start()
        return
    raise RunError(f"cannot take the lock {path}. Delete it if no other process uses {path.parent}.")


def release(path: Path) -> None:
    """Removes this process's lock; one that cannot be removed is taken over later."""
    if path in _released:
        _released.pop(path).set()
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_text()) == _own():
            path.unlink()


def _own() -> dict[str, Any]:
    return {"host": socket.gethostname(), "space": _space(), "pid": os.getpid(), "began": _began(os.getpid())}


def _beat(path: Path, mine: Mapping[str, Any], released: threading.Event) -> None:
    """Touches this process's lock until it is released; ends the process if the lock has become another's."""
    while not released.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError, ValueError):  # such as a network that is away for a while
            holder = json.loads(path.read_bytes())
            if holder == mine:
                os.utime(path)
                continue
            if released.is_set():
                return
            words = (
                f"\n{path.parent} has been taken over ({json.dumps(holder)}) while this process stood still; it ends."
            )
            print(words, file=sys.stderr, flush=True)
            stopping.request(signal.SIGTERM)
            return


def _clear(path: Path, mine: Mapping[str, Any], *, last: bool) -> None:
    """Removes a lock whose process is gone, or that says nothing and is not just being written.

    Raises:
      RunError: its process lives, as far as can be told from here.
    """
    content = b""
    try:
        content = path.read_bytes()
        holder = json.loads(content)
        host, pid, began = holder["host"], int(holder["pid"]), holder.get("began")
        is_near = (host, holder.get("space", mine["space"])) == (mine["host"], mine["space"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        time.sleep(_PAUSE_SECONDS)
        if last:
            _remove(path, content)
        return
    if not (_lives(pid, began) if is_near else _stirs(path, f"process {pid} on {host}")):
        _remove(path, content)
        return
    raise RunError(
        f"{path.parent} is in use by process {pid} on {host}. Wait for it, choose another `model_dir`, "
        f"or, if that process is gone, delete {path}."
    )


def _stirs(path: Path, holder: str) -> bool:
    """Whether a lock changes while it is watched."""
    print(f"{path.parent} is held by {holder}; waiting {SILENCE_SECONDS:.0f} s for a sign of life.", file=sys.stderr)
    first = _stamp(path)
    for _ in range(_LOOKS):
        time.sleep(SILENCE_SECONDS / _LOOKS)
        if _stamp(path) != first:
            return True
    return False


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is touched or replaced; opened, since network file systems look anew only then."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            return status.st_mtime_ns, status.st_ino
    except OSError:
        return None


def _remove(path: Path, content: bytes) -> None:
    """Removes a stale lock of that content, unless another process was quicker and has made its own of it."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{files.TEMPORARY}")
    with contextlib.suppress(OSError):
        path.rename(aside)
        if aside.read_bytes() != content and not path.exists():
            aside.rename(path)
        else:
            aside.unlink()


def _lives(pid: int, began: str | None) -> bool:
    """Whether the process of that number is the one that began then."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return began is None or _began(pid) in (None, began)


def _space() -> str | None:
    """The container whose numbers of processes are ours; None where the system does not tell."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _began(pid: int) -> str | None:
    """When a process began, as a text that no other of its number has; None where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return f"{boot} {fields[19]}"  # proc(5): starttime, the 22nd field
