"""The ranges of a network's values on images like those that it will see: what int8 is planned with."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from nhn_tf.sparse.assembly import assemble
from nhn_tf.sparse.native import machine
from nhn_tf.sparse.native.machine import Host
from nhn_tf.sparse.plan.dtypes import packed
from nhn_tf.sparse.plan.lower import lower
from nhn_tf.sparse.program.file_format import Source
from nhn_tf.sparse.program.operations import MAX_OUTPUTS, MAX_VALUE, Program, count
from nhn_tf.sparse.runtime import SparseRuntime, checked_images

BATCH: Final = 8
"""Images at a time."""

Images = np.ndarray | Sequence[np.ndarray]
"""A batch, or one for each input."""


def arrays_of(images: Images) -> tuple[np.ndarray, ...]:
    """One array for each input."""
    return tuple(map(np.asarray, images)) if isinstance(images, (list, tuple)) else (np.asarray(images),)


def digest(arrays: Sequence[np.ndarray]) -> str:
    """SHA-256 of arrays, as hexadecimal digits."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def ranges(program: Program, host: Host, images: Images) -> dict[int, tuple[float, float]]:
    """The least and the largest numbers of what is kept in int8, in float32 on some images.

    Args:
      program: as it will be planned.
      host: that it will be planned for.
      images: as for the runtime.

    Returns:
      Value to its least and its largest number. 0 lies within.

    Raises:
      ValueError: other images than the network takes, none, or such that lead to infinities or NaN.
    """
    given = checked_images(arrays_of(images), [program.shapes[value] for value in program.inputs], "`calibrate`")
    if not len(given[0]):
        raise ValueError("`calibrate` must hold one image or more. Received: none.")
    narrow = packed(program, host)
    read = {value for number in narrow for value in program.ops[number].inputs}
    made = {number for number in narrow if len(program.shapes[number]) == 3}
    wanted = sorted(made | read)
    result = dict.fromkeys(wanted, (0.0, 0.0))
    for values in _pieces(program, wanted):
        runtime = _as_it_is(Program(program.ops, values))
        for value, maps in _seen(runtime, values, given):
            if not np.isfinite(maps).all():
                raise ValueError("`calibrate` must be finite, and so must be what the network makes of it.")
            least, largest = result[value]
            result[value] = min(least, float(maps.min())), max(largest, float(maps.max()))
    return result


def _as_it_is(program: Program) -> SparseRuntime:
    """A program in float32, of which nothing is merged."""
    code = assemble(lower(program, machine.host()))
    return SparseRuntime(Source(program), code, threads=1, again=functools.partial(_as_it_is, program))


def _seen(
    runtime: SparseRuntime, values: tuple[int, ...], images: tuple[np.ndarray, ...]
) -> Iterator[tuple[int, np.ndarray]]:
    """The maps of each value, some images at a time."""
    for first in range(0, len(images[0]), BATCH):
        made = runtime(*(array[first : first + BATCH] for array in images))
        yield from zip(values, made if isinstance(made, tuple) else (made,), strict=True)


def _pieces(program: Program, values: Sequence[int]) -> list[tuple[int, ...]]:
    """Values in groups that can be the outputs of one program."""
    pieces: list[tuple[int, ...]] = []
    size = MAX_VALUE
    for value in values:
        own = count(program.shapes[value])
        if size + own > MAX_VALUE or len(pieces[-1]) == MAX_OUTPUTS:
            pieces.append(())
            size = 0
        pieces[-1] += (value,)
        size += own
    return pieces
