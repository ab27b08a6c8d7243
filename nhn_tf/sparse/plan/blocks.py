"""How many rows, vectors and filters a convolution holds in registers: the one with the least estimated work.

The estimate counts, for one input channel and the whole map, multiply-adds and loads as the units of a core take them.
Its constants were fitted to measured times; see docs/experiments.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from nhn_tf.sparse.native.convolution import Block, Tap
from nhn_tf.sparse.native.filter_lanes import Reads
from nhn_tf.sparse.native.layout import Grid
from nhn_tf.sparse.native.machine import Host

LATENCY = 4.0
"""Multiply-adds that must be in flight to keep the unit busy."""

VECTOR_LOAD = 1.5
"""Of one vector, which mostly crosses a cache line, in multiply-adds."""

SCALAR_LOAD = 1.0
"""Of one weight, to all lanes."""

ENTRY_COST = 3.0
"""Loop and addresses of one input channel of one group, in multiply-adds."""

MAX_UNROLLED = 640
"""Multiply-adds that are written out, in one loop body or for all pixels of a map: more take LLVM long."""

MAX_ROWS = 8
MAX_VECTORS = 4
"""Of a block."""

MAX_OF_ONE_ROW = 16
"""Vectors of a block where the map is one row."""

MAX_PIXELS = 49
"""Of a map whose filters may lie in lanes."""

WEIGHT_COST = 0.5
"""Of bringing one weight from far away, once for the whole map, in multiply-adds of vectors."""

RESULT_COST = 2.0
"""Of bringing one result from a lane to its plane, in multiply-adds of vectors."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A block and what it costs.

    Attributes:
      block: to use.
      cost: of one (input, group) entry over the whole map, in multiply-adds.
    """

    block: Block
    cost: float


@dataclasses.dataclass(frozen=True)
class _Window:
    """What the estimate needs to know of a window.

    Attributes:
      taps: how many.
      height: rows from the first to the last tap.
      columns: columns that have taps.
      reads: by the block's rows, the rows that it reads, summed over the columns.
    """

    taps: int
    height: int
    columns: int
    reads: tuple[int, ...]


def _window(taps: Sequence[Tap]) -> _Window:
    by_column: dict[int, set[int]] = {}
    for tap in taps:
        by_column.setdefault(tap.column, set()).add(tap.row)
    reads = [
        sum(len({row + r for row in rows for r in range(block_rows)}) for rows in by_column.values())
        for block_rows in range(MAX_ROWS + 1)
    ]
    rows = [tap.row for tap in taps]
    return _Window(len(taps), max(rows) - min(rows) + 1, len(by_column), tuple(reads))


def _entry_cost(block: Block, window: _Window, grid: Grid, host: Host) -> float:
    sums = block.filters * block.rows * block.vectors
    multiply_adds = max(sums * block.chains, LATENCY) * window.taps / block.chains
    loads = VECTOR_LOAD * window.reads[block.rows] * block.vectors + SCALAR_LOAD * block.filters * window.taps
    tiles = -(-grid.rows // block.rows) * -(-grid.vectors(host.lanes) // block.vectors)
    return tiles * (max(multiply_adds, loads) + 0.15 * min(multiply_adds, loads) + ENTRY_COST)


def _fits(block: Block, window: _Window, host: Host) -> bool:
    """Whether sums, what is held, and one more value have a register each."""
    sums = block.filters * block.rows * block.vectors * block.chains
    held = window.height if block.filters == 1 else (block.rows + window.height - 1) * block.vectors
    unrolled = sums // block.chains * window.taps
    return sums + held + 2 <= host.registers and unrolled <= MAX_UNROLLED


def _choose(candidates: Sequence[Block], window: _Window, grid: Grid, host: Host, filters: int) -> Choice:
    """The block with the least cost for each filter."""
    usable = [block for block in candidates if _fits(block, window, host)] or [Block(1, 1, 1)]

    def cost(block: Block) -> float:
        groups = -(-filters // block.filters)
        return _entry_cost(block, window, grid, host) * groups

    best = min(usable, key=cost)
    return Choice(best, _entry_cost(best, window, grid, host))


def _shapes(grid: Grid, host: Host) -> list[tuple[int, int]]:
    """(rows, vectors) of blocks; of a single row, more vectors."""
    sides = range(1, min(grid.vectors(host.lanes), MAX_VECTORS if grid.rows > 1 else MAX_OF_ONE_ROW) + 1)
    return [(rows, side) for rows in range(1, min(grid.rows, MAX_ROWS) + 1) for side in sides]


def sparse_block(taps: Sequence[Tap], grid: Grid, host: Host) -> Choice:
    """For lists of live kernels, one filter at a time."""
    window = _window(taps)
    candidates = [
        Block(1, rows, vectors, chains)
        for rows, vectors in _shapes(grid, host)
        for chains in range(1, min(window.columns, 3) + 1)
        if chains == 1 or rows * vectors * chains <= 3 * LATENCY
    ]
    return _choose(candidates, window, grid, host, 1)


def dense_block(taps: Sequence[Tap], grid: Grid, host: Host, filters: int, *, least: int = 2) -> Choice:
    """For `filters` filters that all read the same inputs, `least` or more at a time."""
    candidates = [
        Block(count, rows, vectors)
        for rows, vectors in _shapes(grid, host)
        for count in range(least, min(filters, 16) + 1)
    ]
    return _choose(candidates, _window(taps), grid, host, filters)


def filter_block(reads: Sequence[Reads], host: Host, filters: int) -> Choice | None:
    """For a dense convolution of few pixels: vectors of filters, `rows` pixels at a time. None where it cannot gain.

    The cost is of one (input, group) entry over the whole map, as of the others.

    Args:
      reads: of each pixel; empty where there are more than `MAX_PIXELS`.
      host: the machine.
      filters: output channels.
    """
    pixels, products = len(reads), sum(map(len, reads))
    usable = [
        Block(vectors * host.lanes, held, vectors)
        for vectors in range(1, min(-(-filters // host.lanes), 6) + 1)
        for held in range(1, pixels + 1)
        if vectors * (held + 1) + 2 <= host.registers and products * vectors <= MAX_UNROLLED
    ]
    if not usable or filters < host.lanes:
        return None

    def tile_cost(tile: Sequence[Reads], vectors: int) -> float:
        multiply_adds = sum(map(len, tile)) * vectors
        weights, inputs = ({read[part] for pixel in tile for read in pixel} for part in (0, 1))
        loads = SCALAR_LOAD * len(inputs) + VECTOR_LOAD * len(weights) * vectors
        waits = LATENCY * max(map(len, tile))
        return max(multiply_adds, loads, waits) + 0.15 * min(multiply_adds, loads) + ENTRY_COST

    def cost(block: Block) -> float:
        starts = [min(first, pixels - block.rows) for first in range(0, pixels, block.rows)]
        return sum(tile_cost(reads[start : start + block.rows], block.vectors) for start in starts)

    best = min(usable, key=lambda block: cost(block) * -(-filters // block.filters))
    return Choice(best, cost(best))
