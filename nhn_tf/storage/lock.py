"""The lock of a run directory: a lease that one process at a time holds, and that ends with it.

The lock is a file that names its holder by host, process and when that process began, since numbers of processes are
used again. Within a container that tells whether the holder lives. From elsewhere nobody can see it: so the holder
touches its lock every `BEAT_SECONDS`, and the lease of a lock that stays as it is for `LEASE_SECONDS` while somebody
watches has ended. That compares no clocks, and is longer than clients wait for an NFS server that comes back (90 s).

A process may stand still, suspended, for longer than its lease. So `files` asks here before each write below the
directory: one whose lock is gone or has become another's ends in a sentence, and what the other writes stays. A lock
that is gone may have been another's, who has ended since.

The package filelock has such a lease, too, but takes over by RENAME_EXCHANGE (4.3.1), which NFS and most file systems
in user space refuse: there its leases never end. Here it is a plain rename, and a second look behind it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Final

from nhn_tf.errors import RunError, UserError
from nhn_tf.storage import files, stopping

BEAT_SECONDS: Final = 10.0
LEASE_SECONDS: Final = 120.0
_SETTLE_SECONDS: Final = 1.0
"""From a rename to the second look: of two who take over at once, the later one has the lock."""
_ATTEMPTS: Final = 5
_LOOKS: Final = 60
"""While a lock is watched."""
_held: dict[Path, tuple[bytes, threading.Event]] = {}
"""Of each lock that this process holds, its content, and what ends its beat."""

Look = tuple[int, int, bytes]


class LostError(RunError):
    """The lock is no longer this process's: nothing may be written below its directory any more."""


def take(path: Path) -> None:
    """Makes the lock file `path` this process's own, also in place of one whose holder is gone or whose lease ended.

    Waits for `LEASE_SECONDS` where it cannot be told from here whether the holder lives.

    Raises:
      RunError: another process holds it, or it cannot be made.
    """
    pid = os.getpid()
    own = {"host": socket.gethostname(), "pid": pid, "began": _began(pid), "place": _place()}
    content = json.dumps(own).encode()
    try:
        is_ours = any(_try(path, content) for _ in range(_ATTEMPTS))
    except UserError:
        raise
    except OSError as error:
        raise RunError(f"cannot write into {path.parent}: {error.strerror}.") from None
    if not is_ours:
        raise RunError(f"cannot take the lock {path}. Delete it if no other process uses {path.parent}.")
    _held[path] = content, threading.Event()
    files.guards[path.parent] = lambda: _check(path, content)
    threading.Thread(target=_beat, args=(path, *_held[path]), name="lock", daemon=True).start()


def release(path: Path) -> None:
    """Removes this process's lock; one that cannot be removed is taken over later."""
    if path in _held:
        content, released = _held.pop(path)
        released.set()
        del files.guards[path.parent]
        with contextlib.suppress(OSError):
            if path.read_bytes() == content:
                path.unlink()


def _try(path: Path, content: bytes) -> bool:
    """Whether the lock is this process's now; if not, others have changed it meanwhile."""
    if seen := _look(path):
        _wait_for_end(path, seen)
        if _look(path) != seen:
            return False
        with files.atomic_write(path) as file:
            file.write(content)
        time.sleep(_SETTLE_SECONDS)
        return (now := _look(path)) is not None and now[2] == content
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with files.writing(path), open(descriptor, "wb") as file:
            file.write(content)
    except UserError:
        path.unlink(missing_ok=True)
        raise
    return True


def _wait_for_end(path: Path, seen: Look) -> None:
    """Returns once the lock's holder is gone, its lease has ended, or there is no lock any more.

    Raises:
      RunError: its holder lives, as far as can be told from here.
    """
    try:
        holder = json.loads(seen[2])
        who = f"process {holder['pid']} on {holder['host']}"
        is_near = holder["place"] and holder["place"] == _place()
        lives = _lives(holder["pid"], holder["began"]) if is_near else None
    except (ValueError, KeyError, TypeError, RecursionError):  # it is damaged, just being written, or of older times
        who, lives = "another process", None
    if lives is None:
        print(f"{path.parent} is held by {who}; waiting {LEASE_SECONDS:.0f} s for a sign of life.", file=sys.stderr)
        lives = _stirs(path, seen)
    if lives:
        raise RunError(
            f"{path.parent} is in use by {who}. Wait for it, choose another `model_dir`, or, if that process is gone, "
            f"delete {path}."
        )


def _stirs(path: Path, seen: Look) -> bool:
    """Whether a lock changes while it is watched, and is not just removed.

    A look that fails says nothing of the holder: a network that is away from here may be away from there, too.

    Raises:
      OSError: as many looks have failed as were to be made.
    """
    looks = failures = 0
    while looks < _LOOKS:
        time.sleep(LEASE_SECONDS / _LOOKS)
        try:
            now = _look(path)
        except OSError:
            failures += 1
            if failures == _LOOKS:
                raise
            continue
        if now != seen:
            return now is not None
        looks += 1
    return False


def _look(path: Path) -> Look | None:
    """What changes when a lock is touched or replaced; None without one. Opened: so network file systems look anew."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            return status.st_mtime_ns, status.st_ino, file.read()
    except FileNotFoundError:
        return None


def _beat(path: Path, content: bytes, released: threading.Event) -> None:
    """Touches this process's lock until it is released; asks the process to end once the lock is another's."""
    while not released.wait(BEAT_SECONDS):
        try:
            _check(path, content)
            os.utime(path)
        except OSError:  # such as a network that is away for a while
            continue
        except LostError as lost:
            if not released.is_set():
                print(f"\n{lost}", file=sys.stderr, flush=True)
                stopping.request(signal.SIGTERM)
            return


def _check(path: Path, content: bytes) -> None:
    """Raises LostError unless the lock is this process's, or cannot be read for the moment."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        what = f"The lock {path} is gone: somebody has deleted it, or had taken it over"
    except OSError:  # such as a network that is away for a while
        return
    else:
        if found == content:
            return
        what = f"{path.parent} has been taken over ({found.decode(errors='replace')})"
    raise LostError(f"{what} while this process stood still.\nIt ends, and writes nothing more there.")


def _lives(pid: int, began: str) -> bool:
    """Whether the process of that number, which began then, is still there and not just waited for by nobody."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    state, now = _state_and_start(pid)
    return state not in ("Z", "X") and now in ("", began)


def _began(pid: int) -> str:
    """When a process began, in ticks since the system started; "" where the system does not tell."""
    return _state_and_start(pid)[1]


def _state_and_start(pid: int) -> tuple[str, str]:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[19]  # proc(5): state, starttime
    return "", ""


def _place() -> str:
    """Where numbers of processes mean the same: this start of this system, this container; "" if it does not tell."""
    with contextlib.suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""
