"""The arena: one piece of memory for all maps of one image, reused by lifetime.

Maps of one layout share a *region*. Whatever map lies at a place of it, the halo is at the same positions; as nothing
ever writes there, it is filled once and stays valid for every map that comes later. Regions do not overlap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable

import numpy as np

from nhn_tf.sparse.native.layout import LINE, Layout

MAX_ARENA = 1 << 29
"""float32 values, 2 GiB. Tables address them by int32."""


class CapacityError(ValueError):
    """A network asks for more memory or code than any that the runtime is made for."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What buffers must agree on to share a region.

    Attributes:
      unit: values that a buffer consists of multiples of: one or several planes.
      fill: of the positions that are never written.
      written: tells apart kinds that write to other positions.
    """

    unit: int
    fill: float
    written: Hashable


@dataclasses.dataclass(eq=False)
class Buffer:
    """Memory from one step of the plan to another.

    Attributes:
      kind: decides the region.
      units: how much of it.
      first, last: steps between which it is in use.
      start: element of the arena, once allocated.
    """

    kind: Kind
    units: int
    first: int = -1
    last: int = -1
    start: int = -1

    @property
    def size(self) -> int:
        return self.kind.unit * self.units


@dataclasses.dataclass(frozen=True)
class Region:
    """Elements `start..stop` of the arena, all of one kind."""

    kind: Kind
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, eq=False)
class Planes:
    """The channels of a map: planes of one layout, from one buffer or, joined by a concatenation, several.

    Attributes:
      layout: of every plane.
      spans: (buffer, its first channel, channels).
      step: from a channel to the next, in planes.
    """

    layout: Layout
    spans: tuple[tuple[Buffer, int, int], ...]
    step: int = 1

    @property
    def channels(self) -> int:
        return sum(count for _, _, count in self.spans)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return tuple(buffer for buffer, _, _ in self.spans)

    def split(self, count: int) -> list[Planes]:
        """So many equal parts, of those that lie in one buffer."""
        ((buffer, first, channels),) = self.spans
        each = channels // count
        return [Planes(self.layout, ((buffer, first + part * each, each),), self.step) for part in range(count)]

    def origins(self) -> np.ndarray:
        """int32 [C]: the arena's element at which each channel's first pixel lies."""
        distance = self.layout.plane * self.step
        starts = [
            buffer.start + distance * np.arange(first, first + count, dtype=np.int64)
            for buffer, first, count in self.spans
        ]
        return (np.concatenate(starts) + self.layout.origin).astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Vector:
    """A value (C,), of which the last register may be filled up with anything.

    Attributes:
      buffer: where it lies.
      size: C.
    """

    buffer: Buffer
    size: int

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return (self.buffer,)


def allocate(buffers: Iterable[Buffer], slack: int, *, start: int = 0) -> tuple[int, tuple[Region, ...]]:
    """Sets the start of every buffer.

    Args:
      buffers: those that are used, with their lifetimes.
      slack: values that may be read, but do not count, behind a region's end.
      start: the arena's element at which they begin.

    Returns:
      How many float32 values they take, and their regions.

    Raises:
      CapacityError: it would be too large.
    """
    regions = []
    end = start
    kinds: dict[Kind, list[Buffer]] = {}
    for buffer in buffers:
        kinds.setdefault(buffer.kind, []).append(buffer)
    for kind, members in kinds.items():
        size = _place(sorted(members, key=lambda buffer: buffer.first))
        for buffer in members:
            buffer.start += end
        regions.append(Region(kind, end, end + size))
        end += -(-(size + slack) // LINE) * LINE
    if end > MAX_ARENA:
        raise CapacityError(f"the maps need {4 * end / 2**30:.1f} GiB for one image; the limit is 2 GiB.")
    return end - start, tuple(regions)


def _place(buffers: list[Buffer]) -> int:
    """Gives each buffer the first gap between those in use at the same time; returns the space needed.

    Args:
      buffers: by their first step.
    """
    space = 0
    in_use: list[Buffer] = []  # By start.
    for buffer in buffers:
        in_use = [other for other in in_use if other.last >= buffer.first]
        start = place = 0
        for other in in_use:
            if start + buffer.size <= other.start:
                break
            start = other.start + other.size
            place += 1
        buffer.start = start
        in_use.insert(place, buffer)
        space = max(space, start + buffer.size)
    return space
