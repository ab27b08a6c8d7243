"""Generators of the kernels that move values of each channel from one layout to another.

They return LLVM IR made for one pattern of steps; which vectors, rows and channels are moved is data.
"""

from __future__ import annotations

from collections.abc import Sequence

from nhn_tf.sparse.native.emitter import ALIGNMENTS, Function, Value
from nhn_tf.sparse.native.map_kernels import planes_of_each_channel

Pattern = tuple[int | None, ...]
"""For each lane of a vector, how far behind the first value that is read its own lies; None: it is not written."""


def copy_vectors(name: str, patterns: Sequence[tuple[Pattern, int]], lanes: int, *, element: str = "float") -> str:
    """Copies vectors of every channel, put together by shuffles.

    Args:
      name: of the function.
      patterns: (pattern, how many vectors have it).
      lanes: of a vector.
      element: type of a value, as `Function` knows it.

    Returns:
      IR of a function whose `%vectors` holds (target offset, source offset) of each vector from the channel's first
      pixel, pattern after pattern. It reads nothing before the first and nothing behind the last value that it copies.
    """
    f = Function(
        name,
        ["ptr noalias %source", "ptr noalias %target", "ptr noalias %source_planes", "ptr noalias %target_planes",
         "i64 %channels", "ptr noalias %vectors"],
        lanes,
        element,
    )  # fmt: skip
    with planes_of_each_channel(f, "%source", "%target") as (source, target):
        first = 0
        for pattern, count in patterns:
            with f.loop(first, first + count) as vector:
                entry = f.at("%vectors", f.mul(vector, 2), "i32")
                to, start = f.at(target, f.index(entry)), f.at(source, f.index(entry, 1))
                f.store_lanes(_gathered(f, start, pattern), to, [offset is not None for offset in pattern])
            first += count
    return str(f)


def _gathered(f: Function, start: Value, pattern: Pattern) -> Value:
    """The vector of a pattern, of as few loads as will do."""
    left = sorted({offset for offset in pattern if offset is not None})
    last = left[-1]
    result = "poison"
    places = ["poison"] * f.lanes
    while left:
        at = max(0, min(left[0], last + 1 - f.lanes))
        loaded = f.load_first(f.at(start, at), min(last + 1 - at, f.lanes))
        for lane, offset in enumerate(pattern):
            if offset is not None and offset in left and offset < at + f.lanes:
                places[lane] = str(f.lanes + offset - at)
        result = f.shuffle(result, loaded, places)
        left = [offset for offset in left if offset >= at + f.lanes]
        places = [place if place == "poison" else str(lane) for lane, place in enumerate(places)]
    return result


def copy_values(name: str, source_step: int, target_step: int, lanes: int, *, element: str = "float") -> str:
    """Copies rows of every channel, value by value; the steps are from one value of a row to the next.

    `rows` holds (target offset, source offset, count) for each row, from the channel's first pixel.
    """
    f = Function(
        name,
        ["ptr noalias %source", "ptr noalias %target", "ptr noalias %source_planes", "ptr noalias %target_planes",
         "i64 %channels", "ptr noalias %rows", "i64 %count"],
        lanes,
        element,
    )  # fmt: skip
    with planes_of_each_channel(f, "%source", "%target") as (source, target), f.loop(0, "%count") as row:
        entry = f.at("%rows", f.mul(row, 3), "i32")
        to, start, count = f.at(target, f.index(entry)), f.at(source, f.index(entry, 1)), f.index(entry, 2)
        with f.loop(0, count) as x:
            value = f.new(f"load {element}, ptr {f.at(start, f.mul(x, source_step))}, align {ALIGNMENTS[element]}")
            f.do(f"store {element} {value}, ptr {f.at(to, f.mul(x, target_step))}, align {ALIGNMENTS[element]}")
    return str(f)
