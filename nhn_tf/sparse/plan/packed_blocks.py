"""What a convolution of packed numbers holds in registers: the block with the least estimated work.

As `blocks`, for one entry of two input channels in bfloat16, four in int8, and the whole map. The unit is a dot
product, of which Zen 4 begins one each cycle; the constants were fitted to times on it (docs/performance.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from nhn_tf.sparse.native.convolution import Block
from nhn_tf.sparse.native.packed_convolution import PackedTap
from nhn_tf.sparse.plan.blocks import Choice

LATENCY = 10.0
"""Dot products that must be in flight to keep the unit busy: it takes 6 cycles, and LLVM's order is not the best."""

LANES_MADE = 1.6
"""Of reading a vector of two channels and bringing one pixel of both into its lanes."""

WEIGHT_LOAD = 1.0
"""Of one pair of weights, to all lanes."""

ENTRY_COST = 3.0
"""Loop and addresses of one entry."""

HELD = 25
"""Sums and vectors of pixels in registers, of 32: with more, LLVM moves them to memory and back."""

MAX_UNROLLED = 640
"""Dot products in one loop body."""

MAX_ROWS = 8
MAX_FILTERS = 10


@dataclasses.dataclass(frozen=True)
class Window:
    """What the estimate needs to know.

    Attributes:
      taps: of the window.
      rows: of the map.
      lines: vectors in a row.
      each: numbers in a lane.
    """

    taps: tuple[PackedTap, ...]
    rows: int
    lines: int
    each: int = 2

    @property
    def height(self) -> int:
        """Rows from the first to the last tap."""
        rows = [tap.row for tap in self.taps]
        return max(rows) - min(rows) + 1

    def made(self, rows: int) -> int:
        """Vectors that are made for a block of so many rows."""
        places = {
            (tap.plane, tap.row + r, tap.column + pixel)
            for tap in self.taps
            for r in range(rows)
            for pixel in range(self.each)
        }
        return len(places)


def _cost(block: Block, window: Window) -> float:
    """Of one entry over the whole map."""
    sums, taps = window.each * block.filters * block.rows, len(window.taps)
    dots = max(sums * block.chains, LATENCY) * taps / block.chains
    others = LANES_MADE * window.made(block.rows) + WEIGHT_LOAD * block.filters * taps
    tiles = -(-window.rows // block.rows) * window.lines
    return tiles * (max(dots, others) + 0.15 * min(dots, others) + ENTRY_COST)


def _fits(block: Block, window: Window) -> bool:
    sums = window.each * block.filters * block.rows * block.chains
    held = 4 if block.filters == 1 else (block.rows + window.height - 1) * (window.each if len(window.taps) == 1 else 1)
    return sums + held <= HELD and sums // block.chains * len(window.taps) <= MAX_UNROLLED


def _best(candidates: Sequence[Block], window: Window, filters: int) -> Choice:
    usable = [block for block in candidates if _fits(block, window)] or [Block(1, 1, 1)]
    best = min(usable, key=lambda block: _cost(block, window) * -(-filters // block.filters))
    return Choice(best, _cost(best, window))


def sparse_block(window: Window) -> Choice:
    """For lists of pairs of live kernels, one filter at a time."""
    columns = len({(tap.plane, tap.column) for tap in window.taps})
    rows, chains = range(1, min(window.rows, MAX_ROWS) + 1), range(1, min(columns, 3) + 1)
    return _best([Block(1, r, 1, c) for r in rows for c in chains], window, 1)


def dense_block(window: Window, filters: int, *, least: int = 2) -> Choice:
    """For `filters` filters that all read the same inputs, `least` or more at a time."""
    most = min(filters, MAX_FILTERS)
    rows = range(1, min(window.rows, MAX_ROWS) + 1)
    return _best([Block(count, r, 1) for count in range(least, most + 1) for r in rows], window, filters)
