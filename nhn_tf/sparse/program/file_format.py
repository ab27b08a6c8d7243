"""The .nhn file: a program, portable and checked.

    bytes 0..8     b"NHNTF\\r\\n\\x1a", which copying as text changes at once
    bytes 8..12    version, uint32
    bytes 12..16   length of the header, uint32
    bytes 16..48   SHA-256 of everything behind
    then           the header, JSON: operations with their settings, and the shape of every array
    then           the arrays, one after another: masks as bits, numbers as float32 or float16; all little-endian

Arrays have no positions of their own and masks cannot point anywhere, so a file has no offsets or indices that could
lie. What else it says is checked twice: types here, sizes by `Program`, which derives every shape anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import struct
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np

from nhn_tf.sparse.program.operations import MAX_OPS, MAX_VALUE, OPS, Op, Program, ProgramError
from nhn_tf.storage.files import DamagedFileError, atomic_write, read_bytes

MAGIC: Final = b"NHNTF\r\n\x1a"
MAX_FILE: Final = 1 << 32
"""Bytes."""
VERSION: Final = 1
PREFIX: Final = struct.Struct("<8sII32s")
MAX_HEADER: Final = 1 << 24
DTYPES: Final[dict[str, np.dtype]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


def save(path: str | os.PathLike[str], program: Program, *, dtype: str = "float32") -> None:
    """Writes a program, atomically.

    Args:
      path: of the file.
      program: to write.
      dtype: of all numbers, "float32" or "float16".

    Raises:
      ValueError: another dtype, or numbers that float16 cannot hold.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}. Received: {dtype!r}.")
    text, *blobs = _parts(program, dtype)
    with atomic_write(path) as file:
        file.write(PREFIX.pack(MAGIC, VERSION, len(text), _digest([text, *blobs])))
        file.write(text)
        for blob in blobs:
            file.write(blob)


def _parts(program: Program, dtype: str) -> list[Any]:
    """A file's header and arrays."""
    blobs: list[np.ndarray] = []
    operations = [_operation(op, DTYPES[dtype], blobs) for op in program.ops]
    header = {"dtype": dtype, "operations": operations, "outputs": list(program.outputs)}
    return [json.dumps(header, separators=(",", ":")).encode(), *blobs]


def _digest(parts: Iterable[Any]) -> bytes:
    """SHA-256 of bytes and arrays, one behind another."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.digest()


def _operation(op: Op, dtype: np.dtype, blobs: list[np.ndarray]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    arrays: dict[str, list[int]] = {}
    for field in dataclasses.fields(op):
        value = getattr(op, field.name)
        if not isinstance(value, np.ndarray):
            settings[field.name] = value
            continue
        arrays[field.name] = list(value.shape)
        if value.dtype == np.bool_:
            blobs.append(np.packbits(value))
            continue
        with np.errstate(over="ignore"):
            stored = value.astype(dtype, copy=False)
        if stored is not value and np.isfinite(value).all() and not np.isfinite(stored).all():
            raise ValueError(f"weights up to {np.abs(value).max():.3g} do not fit into {dtype.name}. Use float32.")
        blobs.append(np.ascontiguousarray(stored))
    return {"kind": type(op).__name__, "settings": settings, "arrays": arrays}


def load(path: str | os.PathLike[str]) -> Program:
    """Reads and checks a program.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: it is not a whole, unaltered .nhn file of this version.
    """
    return Source.read(path).program


class Source:
    """A program, or a file of one, of which so far only the checksum was looked at.

    Args:
      given: the program, or a file's bytes.
      path: of the file, for messages.
    """

    def __init__(self, given: Program | bytes, path: str = ""):
        self._given = given
        self._path = path

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Source:
        """A file's.

        Raises:
          FileNotFoundError: there is no such file.
          DamagedFileError: it is not a whole, unaltered file of this version.
        """
        data = read_bytes(path, limit=MAX_FILE)
        with _named(path):
            _check(data)
        return cls(data, str(path))

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of its file: of a program, of the one that `save` would write."""
        given = self._given
        if isinstance(given, bytes):
            return PREFIX.unpack_from(given)[3]
        return _digest(_parts(given, "float32"))

    @property
    def program(self) -> Program:
        """What it is, read from the file when it is first asked for.

        Raises:
          DamagedFileError: the file's content is no sound program.
        """
        given = self._given
        if isinstance(given, bytes):
            _ = self.digest  # It is kept; the bytes are not.
            with _named(self._path):
                given = self._given = _parse(given)
        return given


@contextlib.contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Tells in a sentence which file is refused, and why."""
    try:
        yield
    except (ProgramError, _Refused) as error:
        raise DamagedFileError(f"{path} is no sound .nhn file: {error} Export the network again.") from None


class _Refused(ValueError):
    """What is wrong with a file."""


def _check(data: bytes) -> None:
    if len(data) < PREFIX.size or not data.startswith(MAGIC):
        raise _Refused("it does not start like one.")
    _, version, length, digest = PREFIX.unpack_from(data)
    if version != VERSION:
        raise _Refused(f"its version is {version}; this runtime reads version {VERSION}.")
    if length > min(MAX_HEADER, len(data) - PREFIX.size):
        raise _Refused("it is truncated.")
    if _digest([memoryview(data)[PREFIX.size :]]) != digest:
        raise _Refused("it is truncated or altered (its checksum does not match).")


def _parse(data: bytes) -> Program:
    start = PREFIX.size + PREFIX.unpack_from(data)[2]
    try:
        header = json.loads(data[PREFIX.size : start])
    except (ValueError, RecursionError):
        raise _Refused("its header is not JSON.") from None
    header = _fields(header, "header", dtype=str, operations=list, outputs=list)
    if header["dtype"] not in DTYPES:
        raise _Refused(f"its numbers are of the unknown type {header['dtype']!r}.")
    if len(header["operations"]) > MAX_OPS:
        raise _Refused(f"it has more than {MAX_OPS} operations.")
    arrays = _Arrays(data, start, DTYPES[header["dtype"]])
    operations = tuple(_read_operation(entry, arrays) for entry in header["operations"])
    outputs = _typed(header["outputs"], tuple[int, ...], "outputs")
    if arrays.start != len(data):
        raise _Refused(f"{len(data) - arrays.start} bytes are left over.")
    return Program(operations, outputs)


def _fields(value: Any, name: str, **kinds: type) -> dict[str, Any]:
    """A JSON object with exactly these entries."""
    if not isinstance(value, dict) or value.keys() != kinds.keys():
        raise _Refused(f"the {name} must have the entries {', '.join(kinds)}.")
    for key, kind in kinds.items():
        if not isinstance(value[key], kind):
            raise _Refused(f"{key!r} of the {name} must be a {kind.__name__}.")
    return value


def _read_operation(entry: Any, arrays: _Arrays) -> Op:
    entry = _fields(entry, "operation", kind=str, settings=dict, arrays=dict)
    if entry["kind"] not in OPS:
        raise _Refused(f"the operation {entry['kind']!r} is unknown.")
    kind = OPS[entry["kind"]]
    hints = HINTS[entry["kind"]]
    names = [field.name for field in dataclasses.fields(kind)]
    if sorted((*entry["settings"], *entry["arrays"])) != sorted(names):
        raise _Refused(f"{entry['kind']} must have the settings {', '.join(names)}.")
    values: dict[str, Any] = {}
    for name in names:
        if name in entry["arrays"]:
            if not _is_array(hints[name]):
                raise _Refused(f"{name!r} of {entry['kind']} is no array.")
            values[name] = arrays.take(entry["arrays"][name], bits=name == "mask")
        else:
            values[name] = _typed(entry["settings"][name], hints[name], name)
    return kind(**values)


HINTS: Final = {name: typing.get_type_hints(kind) for name, kind in OPS.items()}
"""The types of each operation's fields."""


def _is_array(hint: Any) -> bool:
    return hint is np.ndarray or np.ndarray in typing.get_args(hint)


def _typed(value: Any, hint: Any, name: str) -> Any:
    """A JSON value as the type that a field is declared with."""
    if typing.get_origin(hint) is tuple:
        kind, *more = typing.get_args(hint)
        size = None if more == [Ellipsis] else 1 + len(more)
        if isinstance(value, list) and all(type(v) is kind for v in value) and size in (None, len(value)):
            return tuple(value)
    elif isinstance(hint, types.UnionType):  # An array that may be absent.
        if value is None:
            return None
    elif hint is float and type(value) in (int, float) and abs(value) < 1e30:
        return float(value)
    elif type(value) is hint:
        return value
    raise _Refused(f"{name!r} has a value of the wrong type.")


class _Arrays:
    """Takes arrays off the file, one after another."""

    def __init__(self, data: bytes, start: int, dtype: np.dtype):
        self.data = data
        self.start = start
        self.dtype = dtype

    def take(self, shape: Any, *, bits: bool) -> np.ndarray:
        """An array of this shape, float32 or bool."""
        if not isinstance(shape, list) or not 1 <= len(shape) <= 4 or not all(type(n) is int for n in shape):
            raise _Refused("an array's shape must be a list of 1 to 4 numbers.")
        extent = 1
        for side in shape:
            extent *= max(side, 1)  # NumPy refuses large sides beside a side of 0, too
            if not 0 <= side <= MAX_VALUE or extent > 8 * len(self.data):
                raise _Refused("an array is larger than the file.")
        count = math.prod(shape)
        size = -(-count // 8) if bits else count * self.dtype.itemsize
        end = self.start + size
        if end > len(self.data):
            raise _Refused("an array ends behind the file.")
        raw = np.frombuffer(self.data, np.uint8 if bits else self.dtype, size if bits else count, self.start)
        self.start = end
        values = np.unpackbits(raw, count=count).astype(bool) if bits else raw.astype(np.float32)
        return values.reshape(shape)
