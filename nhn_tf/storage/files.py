"""Files that are whole or absent: atomic writes, digests, checked reads.

Every artifact of a run goes through `atomic_write`: written under a temporary name in the same directory, flushed,
fsynced, renamed. A reader therefore sees the old file or the new one, never a half of either. (TensorBoard's event
files alone grow by appending, see `event_writer.py`.)

Reading trusts nothing: no pickles, no decompression, no more memory than the file is long, and one kind of error,
`DamagedFileError`, whatever the bytes are.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import glob
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from nhn_tf.errors import UserError

# A name that starts with a dot and ends so is temporary.
TEMPORARY = ".tmp"
# The largest JSON file a run writes is a thousand times smaller.
MAX_JSON_BYTES = 2**26
# The member of a sealed npz that holds the JSON object.
_SEALED = "values.json"

guards: Final[dict[Path, Callable[[], None]]] = {}
"""Of a directory, what is asked before each write below it; it raises where this process must not write there."""

_UMASK = os.umask(0o022)
os.umask(_UMASK)


class DamagedFileError(UserError):
    """A file that exists but does not hold what it should, or cannot be read; the message names it."""


class WriteError(UserError, OSError):
    """A file that cannot be written; the message names it. An OSError for those who can do without the file."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a temporary sibling of `path`; on a clean exit it becomes `path`, on an error it vanishes.

    Args:
      path: where the finished file shall stand. Missing parent directories are made.
      mode: "wb" or "w" (UTF-8 text).

    Yields:
      The open temporary file.

    Raises:
      WriteError: the disk is full, or the file cannot be written for another reason; `path` is as it was.
    """
    path = Path(path)
    encoding = None if "b" in mode else "utf-8"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
        try:
            with open(descriptor, mode, encoding=encoding) as file:
                os.chmod(temporary, 0o666 & ~_UMASK)  # mkstemp lets only the owner read
                yield file
                file.flush()
                os.fsync(file.fileno())
            _ask(path)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_directory(path.parent)


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Asks the directory's guard, and tells in a sentence what the operating system says while `path` is written.

    Raises:
      WriteError: in place of an OSError.
    """
    _ask(path)
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        reason = f"{error.strerror or error}."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = f"no space left on the device{_free_space(Path(path).parent)}."
        raise WriteError(
            f"{path} cannot be written: {reason}\n"
            f"Nothing that was whole is lost: mend this, then give the same command again."
        ) from None


def _ask(path: str | os.PathLike[str]) -> None:
    """Calls the guards of the directories that `path` lies in."""
    for directory, guard in tuple(guards.items()):
        if directory in Path(path).parents:
            guard()


def _free_space(directory: Path) -> str:
    with contextlib.suppress(OSError):
        return f", {shutil.disk_usage(directory).free / 2**20:,.1f} MiB are free and not enough"
    return ""


def _sync_directory(directory: Path) -> None:
    """Makes a rename durable; file systems that cannot sync a directory are left as they are."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Removes a directory at once for every reader: it takes a temporary name before its files go.

    Raises:
      WriteError: it cannot be renamed or removed.
    """
    with writing(path):
        doomed = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
        path.rename(doomed)
        shutil.rmtree(doomed)


def remove_leftovers(directory: str | os.PathLike[str], *, of: str = "", older_than_s: float = 0.0) -> None:
    """Removes what a killed process left half written or half removed in `directory`, not below it.

    Args:
      directory: it need not exist.
      of: how the names of the files begin that were being written, in a directory that is not only ours.
      older_than_s: spare what has changed since, where another process may be writing.
    """
    for path in Path(directory).glob(f".{glob.escape(of)}*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if time.time() - status.st_mtime < older_than_s:
                continue
            if stat.S_ISDIR(status.st_mode):
                shutil.rmtree(path)
            else:
                path.unlink()


def read_bytes(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: it is larger, no regular file, or cannot be read.
    """
    with _open(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise DamagedFileError(f"{path} is larger than {limit:,} bytes, so it is not what belongs there.")
        return file.read()


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a regular file for reading; what is none (a pipe, a device) could block for ever.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: it is no regular file or cannot be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DamagedFileError(f"{path} is no regular file. Move it away.")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read: {error.strerror or error}.") from None


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON with sorted keys, atomically."""
    with atomic_write(path, "w") as file:
        file.write(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: the file is not JSON.
    """
    try:
        return json.loads(read_bytes(path, limit=MAX_JSON_BYTES).decode("utf-8"))
    except DamagedFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is not valid JSON ({error}). Restore a copy.") from None


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` as JSON gives it back, with the digest of the rest under "digest"."""
    value = json.loads(json.dumps(value))
    return {**value, "digest": digest_json(value)}


def unseal(value: Any) -> dict[str, Any]:
    """What was given to `seal`.

    Raises:
      ValueError: the digest is another's, or missing.
    """
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object.")
    rest = {name: item for name, item in value.items() if name != "digest"}
    if value.get("digest") != digest_json(rest):
        raise ValueError("its digest does not match its content.")
    return rest


def write_sealed(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Writes a JSON object together with its digest, atomically."""
    write_json(path, seal(value))


def read_sealed(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `write_sealed` wrote, without the digest.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: the file is not JSON, or altered.
    """
    value = read_json(path)
    try:
        return unseal(value)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged: {error} Restore a copy.") from None


def write_csv(path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table, atomically."""
    with atomic_write(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def save_npz(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as an uncompressed npz, atomically; equal arrays give equal bytes.

    Any name will do, with slashes too (`np.savez` cannot take one called "file").
    """
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def load_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads what `save_npz` wrote; never unpickles, never takes more memory than the file is long.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: the file is truncated, altered, or no uncompressed npz of plain arrays.
    """
    try:
        with _open(path) as file, zipfile.ZipFile(file) as archive:
            size = os.fstat(file.fileno()).st_size
            arrays = [(member.filename, _read_array(archive, member, size)) for member in archive.infolist()]
    except (FileNotFoundError, DamagedFileError, MemoryError):
        raise
    except Exception as error:  # zipfile and NumPy raise a dozen types on damaged files
        reason = (str(error) or type(error).__name__)[:200]
        raise DamagedFileError(f"{path} is not a readable npz file ({reason}). Restore a copy.") from None
    found = {name.removesuffix(".npy"): array for name, array in arrays}
    if len(found) != len(arrays):
        raise DamagedFileError(f"{path} is not a readable npz file (a name stands twice). Restore a copy.")
    return found


def save_sealed_npz(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], value: Mapping[str, Any]) -> None:
    """Writes named arrays and a JSON object as one npz with a digest of both, atomically."""
    sealed = seal({**value, "arrays_digest": digest_arrays(arrays)})
    save_npz(path, {**arrays, _SEALED: np.frombuffer(json.dumps(sealed).encode(), np.uint8)})


def load_sealed_npz(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads what `save_sealed_npz` wrote: the arrays and the object.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: the file is no such npz, or altered.
    """
    arrays = load_npz(path)
    try:
        value = unseal(json.loads(arrays.pop(_SEALED).tobytes()))
        if value.pop("arrays_digest") != digest_arrays(arrays):
            raise ValueError("its digest does not match its arrays.")
    except KeyError as error:
        raise DamagedFileError(f"{path} is damaged: it has no entry {error}. Restore a copy.") from None
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged: {error} Restore a copy.") from None
    return arrays, value


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file_size: int) -> np.ndarray:
    """An array of the archive, whose header must agree with its length before memory is taken for it."""
    if member.compress_type != zipfile.ZIP_STORED or not member.compress_size == member.file_size <= file_size:
        raise ValueError(f"{member.filename!r} is compressed or larger than the file")
    with archive.open(member) as stream:
        if (version := np.lib.format.read_magic(stream)) != (1, 0):
            raise ValueError(f"{member.filename!r} has version {version}")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype.kind not in "biufc":
            raise ValueError(f"{member.filename!r} holds {dtype}, not numbers")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != member.file_size - stream.tell():
            raise ValueError(f"{member.filename!r} is no {dtype} of shape {shape}")
        flat = np.empty(math.prod(shape), dtype)
        _fill(flat.view(np.uint8), stream)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _fill(target: np.ndarray, stream: IO[bytes]) -> None:
    """Reads a member's rest into uint8 [n]; reading to its very end checks its CRC."""
    start = 0
    while chunk := stream.read(2**20):
        target[start : start + len(chunk)] = np.frombuffer(chunk, np.uint8)
        start += len(chunk)
    if start != len(target):
        raise EOFError("it ends too early")


def digest_json(value: Any) -> str:
    """SHA-256 (hex, 16 digits) of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hex, 16 digits) of named arrays: names, types, shapes and bytes, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()[:16]
