"""Where a map's pixels lie in memory.

A map is kept channel by channel, each channel a *plane*. So that a row fills vector registers, maps narrower than a
vector (and widths that would waste lanes) are cut into q horizontal *parts* of equal height whose pixels are
interleaved: pixel (y, x) lies in part y // rows, at local row y % rows, column x * q + part. With q = 1 that is the
plain row by row order. A shift by one pixel to the right is then a shift by q columns, whatever q is, so that one
kernel serves all. Around the rows lies a halo that convolutions may read: zeros, and, between parts, copies of the
neighbouring part's rows.

Offsets and sizes count float32 values.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Self

LINE = 16
"""float32 values in a cache line; planes start at multiples."""

PART_COST = 1.1
"""Cutting into parts must save this factor of vectors: their halos have to be copied."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """How the pixels of a map are dealt out to rows and columns.

    Attributes:
      height, width: of the map.
      parts: q.
    """

    height: int
    width: int
    parts: int = 1

    @property
    def rows(self) -> int:
        """Local rows of each part. The last part may end in rows that no pixel belongs to."""
        return -(-self.height // self.parts)

    @property
    def columns(self) -> int:
        """Values in a row of all parts together."""
        return self.width * self.parts

    def vectors(self, lanes: int) -> int:
        """Vectors that cover a row."""
        return -(-self.columns // lanes)

    def starts(self, lanes: int) -> tuple[int, ...]:
        """Columns at which these vectors start: the last overlaps its neighbour rather than leave the row."""
        last = max(self.columns - lanes, 0)
        return tuple(min(i * lanes, last) for i in range(self.vectors(lanes)))


@functools.cache
def grid_for(height: int, width: int, lanes: int) -> Grid:
    """The grid of a map size: as few vectors as possible."""

    def cost(parts: int) -> float:
        grid = Grid(height, width, parts)
        return grid.rows * grid.vectors(lanes) * (1.0 if parts == 1 else PART_COST)

    candidates = [parts for parts in (1, 2, 4, 8, 16) if parts <= min(lanes, height)]
    return Grid(height, width, min(candidates, key=cost))


@dataclasses.dataclass(frozen=True)
class Layout:
    """A grid with its halo.

    Attributes:
      grid: of the pixels.
      above, below: rows of halo.
      left, right: columns of halo, in pixels.
      shared: whether one strip is the right halo of a row and the left halo of the next, which both are zeros.
    """

    grid: Grid
    above: int = 0
    below: int = 0
    left: int = 0
    right: int = 0
    shared: bool = True

    @property
    def stride(self) -> int:
        """From a row to the next."""
        between = max(self.left, self.right) if self.shared else self.left + self.right
        return self.grid.columns + between * self.grid.parts

    @property
    def origin(self) -> int:
        """From the start of a plane to its first pixel."""
        return self.above * self.stride + self.left * self.grid.parts

    @property
    def plane(self) -> int:
        """From a plane to the next."""
        rows = self.above + self.grid.rows + self.below
        size = rows * self.stride + (self.left + self.right) * self.grid.parts
        lines = -(-size // LINE)
        # Planes a multiple of 1 KiB apart would fall into a quarter of the cache's sets.
        return (lines + (lines % 16 == 0)) * LINE

    def row(self, y: int) -> int:
        """From the origin to the first pixel of the map's row y; rows outside the map count on from the outer parts."""
        part = min(max(y // self.grid.rows, 0), self.grid.parts - 1)
        return (y - part * self.grid.rows) * self.stride + part

    def with_halo(self, above: int, below: int, left: int, right: int) -> Self:
        """With a halo of so many pixels, or of its own where that is deeper."""
        sides = {"above": above, "below": below, "left": left, "right": right}
        return dataclasses.replace(self, **{side: max(getattr(self, side), depth) for side, depth in sides.items()})

    def seams(self) -> list[tuple[int, int]]:
        """(target, source) offsets of the rows to copy so that the halo between parts, and what lies behind the last
        row, is right. Nothing for one part.
        """
        grid = self.grid
        copies: list[tuple[int, int]] = []
        zeros = -self.stride if self.above else grid.rows * self.stride + grid.parts - 1
        for part in range(grid.parts if grid.parts > 1 and self.above + self.below else 0):
            for local in range(-self.above, grid.rows + self.below):
                y = part * grid.rows + local
                target = local * self.stride + part
                if 0 <= y < grid.height and not 0 <= local < grid.rows:
                    copies.append((target, self.row(y)))
                elif y >= grid.height and 0 <= local < grid.rows:
                    copies.append((target, zeros))
        return copies


@dataclasses.dataclass(frozen=True)
class PackedLayout(Layout):
    """A map in bfloat16 or int8: an element is two or four neighbouring pixels of a row, and columns count elements.

    Rows start at cache lines. What is left of a line behind a row's last pixel is 0. Of rows that fit into one line a
    neighbour is found by shifting lanes, so that they need no halo at their sides.

    Attributes:
      width: of the map, in pixels.
      each: pixels of an element.
      signed: of int8, whether there are numbers below 0.
    """

    width: int = 0
    each: int = 2
    signed: bool = True

    @property
    def stride(self) -> int:
        between = max(self.left, self.right) if self.shared else self.right
        inside = _lines(self.grid.columns + between * self.grid.parts)
        return inside if self.shared else self._before + inside

    @property
    def _before(self) -> int:
        """From where a plane, or a row that shares no halo, starts to its first pixel."""
        return _lines(self.left * self.grid.parts)

    @property
    def origin(self) -> int:
        return self.above * self.stride + self._before

    @property
    def plane(self) -> int:
        size = (self.above + self.grid.rows + self.below) * self.stride + (self._before if self.shared else 0)
        return size + (size // LINE % 2 == 0) * LINE  # An odd number of lines: planes use all of the cache's sets.

    def with_halo(self, above: int, below: int, left: int, right: int) -> Self:
        wide = self.grid.columns > LINE
        beside, behind = (-(-side // self.each) if wide else 0 for side in (left, right))
        return super().with_halo(above, below, beside, behind)


def _lines(size: int) -> int:
    """Elements rounded up to whole cache lines."""
    return -(-size // LINE) * LINE


def packed_layout(height: int, width: int, lanes: int, each: int) -> PackedLayout:
    """Without a halo."""
    return PackedLayout(grid_for(height, -(-width // each), lanes), width=width, each=each)
