"""The generator of convolution kernels, kernel-sparse and dense.

It returns LLVM IR made for one geometry: sizes, strides and taps are constants in it, so that every address is a base
plus a constant. Which planes are read and all weights are data, so that layers of one geometry share a kernel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from nhn_tf.sparse.native.activations import Activation, activate
from nhn_tf.sparse.native.emitter import Function, Value
from nhn_tf.sparse.native.layout import LINE, Grid

WEIGHTS_AHEAD = 512
"""Weights are fetched so many values before their use: a large network's come from memory, and the hardware's own
prefetching stops at every page.
"""

SEGMENT = 256
"""Products that are summed up by themselves before they join the total. Rounding errors grow with the square root of a
sum's length, and an unpruned 5x5 convolution of 384 channels adds up 9,600 products.
"""

SHORTEST = 4
"""Values in the shortest vector that is loaded as one."""


@dataclasses.dataclass(frozen=True)
class Tap:
    """One position of a convolution's or a pool's window.

    Attributes:
      row: rows down from the output's own.
      column: float32 values to the right of it.
    """

    row: int
    column: int


@dataclasses.dataclass(frozen=True)
class Block:
    """What a convolution computes at a time, in registers.

    Attributes:
      filters: output channels that share the inputs they read.
      rows: of the map.
      vectors: side by side.
      chains: partial sums of each output, added up at the end. A multiply-add waits for the one before it in its sum;
        blocks of few outputs need several sums to keep the unit busy.
    """

    filters: int
    rows: int
    vectors: int
    chains: int = 1


@dataclasses.dataclass(frozen=True)
class ConvGeometry:
    """All that a convolution's code depends on.

    Attributes:
      grid: of the output, and of what is read.
      taps: sorted by column, then by row.
      source_stride, target_stride: from row to row.
      target_plane: from output channel to output channel.
      block: registers' worth of output.
      segment: input channels whose products are summed up by themselves, about `SEGMENT` products.
      relu_input: whether negative inputs count as 0.
      activation: of the output.
    """

    grid: Grid
    taps: tuple[Tap, ...]
    source_stride: int
    target_stride: int
    target_plane: int
    block: Block
    segment: int
    relu_input: bool
    activation: Activation


def convolution(name: str, geometry: ConvGeometry, lanes: int) -> str:
    """A convolution over lists of live kernels, dense or sparse, of any window.

    Output channels come in groups of `block.filters`. A group has a list of input planes, `planes[starts[group]:
    starts[group + 1]]`, and for each of them weights [tap, filter]. One filter a group makes it kernel-sparse; many,
    with every input plane in each list, a dense convolution. Tile by tile of the map, so that what a tile reads stays
    in the first cache levels, all groups are computed. The sums of a segment of the list start at 0 and stay in
    registers; then they join the totals, which start at the bias.
    """
    block, grid = geometry.block, geometry.grid
    lanes = _lanes_of_a_row(grid, lanes)
    f = Function(
        name,
        ["ptr noalias %arena", "ptr noalias %starts", "ptr noalias %planes", "ptr noalias %weights",
         "ptr noalias %bias", "i64 %target", "i64 %groups"],
        lanes,
    )  # fmt: skip
    columns = _columns_of_a_tile(grid, block.vectors, lanes)
    outputs = [
        (filter_, row, column) for filter_ in range(block.filters) for row in range(block.rows) for column in columns
    ]
    sums = {(chain, *output): f.variable() for chain in range(block.chains) for output in outputs}
    totals = {output: f.variable() for output in outputs}
    with f.tiles(grid.rows, block.rows) as y, f.tiles(grid.columns, block.vectors * lanes) as x:
        source = f.at("%arena", f.add(f.mul(y, geometry.source_stride), x))
        target = f.at("%arena", f.add(f.add(f.mul(y, geometry.target_stride), x), "%target"))
        with f.loop(0, "%groups") as group:
            first_filter = f.mul(group, block.filters)
            for filter_ in range(block.filters):
                bias = f.broadcast(f.at("%bias", f.add(first_filter, filter_)))
                for output in outputs:
                    if output[0] == filter_:
                        f.write(totals[output], bias)
            start, stop = f.index("%starts", group), f.index("%starts", f.add(group, 1))
            with f.loop(start, stop, geometry.segment) as first:
                for variable in sums.values():
                    f.write(variable, f.constant(0))
                with f.loop(first, f.least(f.add(first, geometry.segment), stop)) as entry:
                    _add_entry(f, geometry, columns, source, entry, sums)
                for output, total in totals.items():
                    for chain in range(block.chains):
                        f.write(total, f.math("fadd", f.read(total), f.read(sums[chain, *output])))
            for (filter_, row, column), total in totals.items():
                value = activate(f, f.read(total), geometry.activation)
                channel = f.at(target, f.mul(f.add(first_filter, filter_), geometry.target_plane))
                f.store(value, f.at(channel, row * geometry.target_stride + column), grid.columns)
    return str(f)


def _add_entry(
    f: Function,
    geometry: ConvGeometry,
    columns: Sequence[int],
    source: Value,
    entry: Value,
    sums: dict[tuple[int, int, int, int], Value],
) -> None:
    """Adds one live kernel of each filter of a group, or one input channel's, to the sums."""
    size = geometry.block.filters * len(geometry.taps)
    plane = f.at(source, f.index("%planes", entry))
    weights = f.at("%weights", f.mul(entry, size))
    for line in range(0, size, LINE):
        f.prefetch(f.at(weights, WEIGHTS_AHEAD + line))
    values = {key: f.read(variable) for key, variable in sums.items()}
    accumulate = _stream_inputs if geometry.block.filters == 1 else _hold_inputs
    accumulate(f, geometry, columns, plane, weights, values)
    for key, variable in sums.items():
        f.write(variable, values[key])


def _lanes_of_a_row(grid: Grid, lanes: int) -> int:
    """Of `lanes`, or of shorter vectors that hold a row, too: fewer of their loads cross a cache line."""
    while lanes > SHORTEST and grid.columns <= lanes // 2:
        lanes //= 2
    return lanes


def _columns_of_a_tile(grid: Grid, vectors: int, lanes: int) -> tuple[int, ...]:
    """Columns, from the tile's first, at which its vectors start."""
    starts = grid.starts(lanes)
    return starts if vectors == len(starts) else tuple(i * lanes for i in range(vectors))


def _input(f: Function, geometry: ConvGeometry, plane: Value, row: int, column: int) -> Value:
    value = f.load(f.at(plane, row * geometry.source_stride + column))
    return f.larger(value, f.constant(0)) if geometry.relu_input else value


def _by_column(taps: Sequence[Tap]) -> dict[int, dict[int, int]]:
    """column -> row -> place of the tap."""
    result: dict[int, dict[int, int]] = {}
    for place, tap in enumerate(taps):
        result.setdefault(tap.column, {})[tap.row] = place
    return result


Sums = dict[tuple[int, int, int, int], Value]
"""By chain, filter, row and column."""


def _stream_inputs(
    f: Function, geometry: ConvGeometry, columns: Sequence[int], plane: Value, weights: Value, sums: Sums
) -> None:
    """Adds one input channel, for one filter: the weights of a column of taps stay in registers, and each vector that
    is read serves all rows of the block that it can, up to the window's height.
    """
    for number, (shift, places) in enumerate(_by_column(geometry.taps).items()):
        chain = number % geometry.block.chains
        weight = {row: f.broadcast(f.at(weights, place)) for row, place in places.items()}
        for source_row in sorted({row + r for row in places for r in range(geometry.block.rows)}):
            for column in columns:
                value = _input(f, geometry, plane, source_row, column + shift)
                for row in places:
                    key = (chain, 0, source_row - row, column)
                    if key in sums:
                        sums[key] = f.multiply_add(value, weight[row], sums[key])


def _hold_inputs(
    f: Function, geometry: ConvGeometry, columns: Sequence[int], plane: Value, weights: Value, sums: Sums
) -> None:
    """Adds one input channel, for several filters: the vectors of a column of taps stay in registers, and each weight
    that is read serves the whole block.
    """
    block = geometry.block
    for shift, places in _by_column(geometry.taps).items():
        rows = sorted({row + r for row in places for r in range(block.rows)})
        held = {(row, column): _input(f, geometry, plane, row, column + shift) for row in rows for column in columns}
        for row, place in places.items():
            for filter_ in range(block.filters):
                weight = f.broadcast(f.at(weights, place * block.filters + filter_))
                for r in range(block.rows):
                    for column in columns:
                        key = (0, filter_, r, column)
                        sums[key] = f.multiply_add(held[r + row, column], weight, sums[key])
