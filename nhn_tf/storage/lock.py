"""The lock of a run directory: one process writes there at a time.

The lock is a file that names its holder by host, process and when that process began: numbers of processes are used
again, in containers for the very next one, and a process that is gone must not keep others out.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nhn_tf.errors import RunError, UserError
from nhn_tf.storage import files

_ATTEMPTS: Final = 5
_PAUSE_SECONDS: Final = 0.1


def take(path: Path) -> None:
    """Creates the lock file `path` in this process's name; takes over one whose process is gone.

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
        return
    raise RunError(f"cannot take the lock {path}. Delete it if no other process uses {path.parent}.")


def release(path: Path) -> None:
    """Removes this process's lock; one that cannot be removed is taken over later."""
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_text()) == _own():
            path.unlink()


def _own() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid())}


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
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        time.sleep(_PAUSE_SECONDS)
        if last:
            _remove(path, content)
        return
    if host == mine["host"] and not _lives(pid, began):
        _remove(path, content)
        return
    raise RunError(
        f"{path.parent} is in use by process {pid} on {host}. Wait for it, choose another `model_dir`, "
        f"or, if that process is gone, delete {path}."
    )


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


def _began(pid: int) -> str | None:
    """When a process began, as a text that no other of its number has; None where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return f"{boot} {fields[19]}"  # proc(5): starttime, the 22nd field
