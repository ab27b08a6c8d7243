"""Machine code that is kept for the next process: a network that was compiled once is ready at once.

A file for each network lies in `sparse-code` of the user's cache (`~/.cache/nhn_tf`, or in XDG_CACHE_HOME): machine
code, tables, and what was planned. Its name is a digest of all that decides them: the network's own digest, the machine
that it is planned for, the processor and its features, LLVM, llvmlite and NumPy, and the sources of this compiler.

Whoever writes such a file decides what this process runs. So files count only in a directory that is this user's and
closed to others (mode 0700), only regular ones of this user that nobody else may write, and only if their checksum,
which holds their name too, is right. Whatever is odd is passed over, and the network compiled anew. NHN_SPARSE_CACHE=0
in the environment, or `cache=False`, does without; so do systems without owners of files, and users without a home.

    bytes 0..8     b"NHNCODE\\x01"
    bytes 8..40    SHA-256 of the name and everything behind
    bytes 40..44   length of the header, uint32
    then           the header, JSON: sizes, shapes and decisions
    then           machine code, indices, constants, one after another
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import nhn_tf
from nhn_tf.data.paths import cache_directory
from nhn_tf.sparse.assembly import MachineCode, aligned
from nhn_tf.sparse.native import machine
from nhn_tf.sparse.native.convolution import Block
from nhn_tf.sparse.native.machine import Host
from nhn_tf.sparse.plan.lower import Plan
from nhn_tf.sparse.plan.steps import Decision
from nhn_tf.storage import files

SWITCH: Final = "NHN_SPARSE_CACHE"
"""Environment variable; "0" switches the cache off."""
MAX_BYTES: Final = 1 << 30
"""Of all files together; those that were not used for longest go."""
MAGIC: Final = b"NHNCODE\x01"
PREFIX: Final = struct.Struct("<8s32sI")
SOURCES: Final = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
).hexdigest()
"""Of this compiler, where its files lie open; when it is loaded, for they may be others later."""
HOUR: Final = 3600
"""Seconds after which a half-written file is a killed process's."""


def wanted() -> bool:
    """Whether the environment does not switch the cache off, files have owners here, and the user has a place."""
    place = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~")
    return os.environ.get(SWITCH) != "0" and hasattr(os, "geteuid") and os.path.isabs(place)


def key(digest: bytes, host: Host, ranges: str = "") -> str:
    """The name of a network's file.

    Args:
      digest: of the network.
      host: that it is planned for.
      ranges: a digest of what decides the ranges that it is planned with.
    """
    parts = (digest.hex(), repr(host), ranges, *machine.identity(), np.__version__, nhn_tf.__version__, SOURCES)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def folder() -> Path:
    """Where the files lie."""
    return cache_directory("") / "sparse-code"


def find(name: str, host: Host) -> MachineCode | None:
    """What `keep` kept under this name; None where there is nothing, or nothing that can be trusted."""
    odd = contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError)
    with odd, _trusted(folder()) as directory:

        def inside(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)

        with open(name, "rb", buffering=0, opener=inside) as file:
            _refuse(not _own(os.fstat(file.fileno()), stat.S_ISREG, others=0o022))
            code = _read(file, name, host)
            with contextlib.suppress(OSError):  # Nothing can be noted where nothing can be written.
                os.utime(file.fileno())
            return code
    return None


def keep(name: str, code: MachineCode) -> None:
    """Writes a file for `find`, and removes the oldest where there are too many. What cannot be written is let be."""
    with contextlib.suppress(OSError):
        path = folder() / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _trusted(path.parent):
            parts = _parts(code)
            if sum(memoryview(part).nbytes for part in parts) > MAX_BYTES:
                return  # It would be removed at once, and all others with it.
            with files.atomic_write(path) as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(PREFIX.pack(MAGIC, _digest(name, parts), len(parts[0])))
                for part in parts:
                    file.write(memoryview(part))
            _bound(path.parent)


def _refuse(odd: bool) -> None:
    if odd:
        raise ValueError


def _own(status: os.stat_result, kind: Any, *, others: int) -> bool:
    """Whether a file is of a kind and this user's, and others have none of these rights."""
    return kind(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & others


@contextlib.contextmanager
def _trusted(path: Path) -> Iterator[int]:
    """Opens the directory, if it is this user's alone.

    Raises:
      OSError: it is not.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not _own(os.fstat(descriptor), stat.S_ISDIR, others=0o077):
            raise PermissionError(f"{path} must be this user's alone.")
        yield descriptor
    finally:
        os.close(descriptor)


def _parts(code: MachineCode) -> list[Any]:
    """What a file holds behind its prefix: header, code, indices, constants."""
    plan = code.plan
    header = {
        field.name: getattr(plan, field.name)
        for field in dataclasses.fields(plan)
        if field.name not in ("host", "ir", "constants", "indices", "decisions")
    }
    header["decisions"] = [dataclasses.asdict(decision) for decision in plan.decisions]
    header["sizes"] = [len(code.object_code), plan.indices.size, plan.constants.size]
    return [json.dumps(header).encode(), code.object_code, plan.indices, plan.constants]


def _digest(name: str, parts: Sequence[Any]) -> bytes:
    sha = hashlib.sha256(name.encode())
    for part in parts:
        sha.update(part)
    return sha.digest()


def _read(file: Any, name: str, host: Host) -> MachineCode:
    """Reads a file. Raises ValueError, KeyError or TypeError where it is odd."""
    size = os.fstat(file.fileno()).st_size
    magic, digest, length = PREFIX.unpack(_taken(file, bytearray(PREFIX.size)))
    _refuse(magic != MAGIC or PREFIX.size + length > size)
    text = _taken(file, bytearray(length))
    header = json.loads(bytes(text))
    _refuse(not isinstance(header, dict))
    code_size, *counts = header.pop("sizes")
    _refuse(PREFIX.size + length + code_size + 4 * sum(counts) != size or min(code_size, *counts) < 0)
    object_code = _taken(file, bytearray(code_size))
    indices, constants = _taken(file, np.empty(counts[0], np.int32)), _taken(file, aligned(counts[1]))
    _refuse(_digest(name, [text, object_code, indices, constants]) != digest)
    decisions = tuple(
        Decision(**{**_tuples(decision), "block": Block(**decision["block"])}) for decision in header.pop("decisions")
    )
    plan = Plan(host=host, ir="", constants=constants, indices=indices, decisions=decisions, **_tuples(header))
    return MachineCode(plan, bytes(object_code))


def _taken(file: Any, memory: Any) -> Any:
    """Fills memory from a file."""
    view = memoryview(memory).cast("B")
    done = 0
    while done < len(view):
        got = file.readinto(view[done:])
        _refuse(not got)
        done += got
    return memory


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """What JSON made lists of."""
    return {name: _tuple(value) for name, value in values.items()}


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _bound(directory: Path) -> None:
    """Removes the files that were not used for longest until the others have room, and what killed processes left."""
    files.remove_leftovers(directory, older_than_s=HOUR)
    found = []
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # Another process removes them too.
            status = path.lstat()
            found.append((status.st_mtime, status.st_size, path))
    total = 0
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > MAX_BYTES:
            with contextlib.suppress(OSError):  # A directory of the user's.
                path.unlink()
