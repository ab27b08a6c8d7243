"""The generator of convolutions of bfloat16 and int8 maps: two or four input channels at a time.

A lane of a bfloat16 map holds the pixels 2k and 2k + 1 of a row (`layout.PackedLayout`). A dot product takes two
numbers of one lane, so that the same pixel of two channels must come into it: once all pixels 2k of both, once all
pixels 2k + 1. The first serves the outputs 2k, whose sums are one vector, with one tap, and the outputs 2k + 1 with its
neighbour; and so each lane of pixels is made once and serves both. Of int8 it is four pixels and four channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from nhn_tf.sparse.native import numbers
from nhn_tf.sparse.native.activations import Activation
from nhn_tf.sparse.native.convolution import WEIGHTS_AHEAD, Block
from nhn_tf.sparse.native.emitter import Value
from nhn_tf.sparse.native.layout import LINE
from nhn_tf.sparse.native.packed import PackedFunction
from nhn_tf.sparse.native.quads import HIGH_BITS, QuadFunction


@dataclasses.dataclass(frozen=True)
class PackedTap:
    """One position of a window.

    Attributes:
      plane: elements from the channel's plane to the one that it reads.
      row: rows down from the output's own.
      column: pixels to the right of it.
    """

    plane: int
    row: int
    column: int


@dataclasses.dataclass(frozen=True)
class PackedGeometry:
    """All that the code depends on.

    Attributes:
      rows: of the output.
      lines: vectors in each row.
      parts: elements from some pixels of a row, those of a lane, to the next.
      taps: in the order of the weights.
      beside: whether neighbours in a row are found by shifting lanes; else they are read where they lie.
      source_stride, target_stride: from row to row.
      target_plane: from output channel to output channel.
      block: registers' worth of output, one vector of lanes wide.
      activation: of the output.
      masked: whether `%masks` [lines, lanes] tells which bits of a row are its pixels'.
      narrow: type of the maps' numbers.
      raised: whether 128 more is read than an int8 map holds.
      signed: whether the map that is made has numbers below 0.
    """

    rows: int
    lines: int
    parts: int
    taps: tuple[PackedTap, ...]
    beside: bool
    source_stride: int
    target_stride: int
    target_plane: int
    block: Block
    activation: Activation
    masked: bool
    narrow: str
    raised: bool
    signed: bool


Sums = dict[tuple[int, int, int, int], Value]
"""By chain, filter, pixel of the lane, and row."""


def packed_convolution(name: str, geometry: PackedGeometry, lanes: int, *, emulated: bool) -> str:
    """A convolution over lists of two or four input planes, dense or sparse, of any window.

    As `convolution.convolution`, but `planes` is [entries, each], weights [entries, tap, filter] are lanes, and
    `settings` [filters, settings] are those of the type's function.
    """
    block = geometry.block
    f = numbers.function(
        name,
        ["ptr noalias %arena", "ptr noalias %starts", "ptr noalias %planes", "ptr noalias %weights",
         "ptr noalias %settings", "ptr noalias %masks", "i64 %target", "i64 %groups"],
        lanes,
        narrow=geometry.narrow,
        emulated=emulated,
    )  # fmt: skip
    outputs = [(n, pixel, row) for n in range(block.filters) for pixel in range(f.each) for row in range(block.rows)]
    variables = {(chain, *output): f.variable() for chain in range(block.chains) for output in outputs}
    with f.tiles(geometry.rows, block.rows) as y, f.turns(geometry.lines) as line:
        x = f.mul(line, lanes)
        source = f.at("%arena", f.add(f.mul(y, geometry.source_stride), x))
        target = f.at("%arena", f.add(f.add(f.mul(y, geometry.target_stride), x), "%target"))
        with f.loop(0, "%groups") as group:
            first_filter = f.mul(group, block.filters)
            settings = [f.at("%settings", f.mul(f.add(first_filter, n), f.settings)) for n in range(block.filters)]
            for n in range(block.filters):
                start = f.start(settings[n])
                for key, variable in variables.items():
                    if key[1] == n:
                        f.write(variable, f.constant(0) if key[0] else start)
            with f.loop(f.index("%starts", group), f.index("%starts", f.add(group, 1))) as entry:
                _add_entry(f, geometry, source, entry, variables)
            mask = f.load_packed(f.at("%masks", x)) if geometry.masked else None
            for n in range(block.filters):
                channel = f.at(target, f.mul(f.add(first_filter, n), geometry.target_plane))
                for row in range(block.rows):
                    sums = [_total(f, geometry, variables, (n, pixel, row)) for pixel in range(f.each)]
                    made = f.finished(
                        sums, settings[n], geometry.activation, pointwise=_pointwise(geometry), signed=geometry.signed
                    )
                    made = made if mask is None else f.masked(made, mask)
                    f.store_packed(made, f.at(channel, row * geometry.target_stride))
    return str(f)


def _pointwise(geometry: PackedGeometry) -> bool:
    """Whether no tap reads a neighbour in the row: then the order of pixels within a vector does not matter."""
    return all(tap.column == 0 for tap in geometry.taps)


def _total(f: PackedFunction, geometry: PackedGeometry, variables: Sums, output: tuple[int, int, int]) -> Value:
    total = f.read(variables[0, *output])
    for chain in range(1, geometry.block.chains):
        total = f.plus(total, f.read(variables[chain, *output]))
    return total


def _add_entry(f: PackedFunction, geometry: PackedGeometry, source: Value, entry: Value, variables: Sums) -> None:
    """Adds a lane's live kernels of each filter of a group, or as many input channels', to the sums."""
    size = geometry.block.filters * len(geometry.taps)
    first = f.mul(entry, f.each)
    planes = [f.at(source, f.index("%planes", f.add(first, which))) for which in range(f.each)]
    weights = f.at("%weights", f.mul(entry, size))
    for line in range(0, size, LINE):
        f.prefetch(f.at(weights, WEIGHTS_AHEAD + line))
    sums = {key: f.read(variable) for key, variable in variables.items()}
    accumulate = _stream_rows if geometry.block.filters == 1 else _hold_rows
    accumulate(f, geometry, _Reader(f, geometry, planes), weights, sums)
    for key, variable in variables.items():
        f.write(variable, sums[key])


class _Reader:
    """Reads lanes of the same pixel of the channels of an entry.

    Args:
      f: the function that reads.
      geometry: of the maps.
      planes: of these channels.
    """

    def __init__(self, f: PackedFunction, geometry: PackedGeometry, planes: Sequence[Value]):
        self._f, self._geometry, self._planes = f, geometry, planes

    def rows(self, plane: int, row: int) -> Callable[[int], Value]:
        """A function of a pixel's place, from a lane's first, that gives its lanes of a row; what is made is kept."""
        f, geometry = self._f, self._geometry
        made: dict[int, list[Value]] = {}

        def read(lane: int) -> list[Value]:
            at = plane + row * geometry.source_stride + lane * geometry.parts
            vectors = [f.load_packed(f.at(channel, at)) for channel in self._planes]
            if geometry.raised and isinstance(f, QuadFunction):
                vectors = [f.above_zero(vector) for vector in vectors]
            return f.spread(vectors, pointwise=_pointwise(geometry))

        def pixels(position: int) -> Value:
            lane, place = divmod(position, f.each)
            at = 0 if geometry.beside else lane
            if at not in made:
                made[at] = read(at)
            aside = lane * geometry.parts if geometry.beside else 0
            return f.beside(made[at][place], aside, HIGH_BITS if geometry.raised else 0)

        return pixels


def _positions(taps: Sequence[PackedTap], each: int) -> list[int]:
    """Of the pixels that these taps read for all outputs of a lane, from its first."""
    return sorted({tap.column + pixel for tap in taps for pixel in range(each)})


def _stream_rows(f: PackedFunction, geometry: PackedGeometry, reader: _Reader, weights: Value, sums: Sums) -> None:
    """Adds to one filter, row after row: nothing is read or made twice, and all weights are held. Those that find no
    register LLVM keeps where a dot product reads them as it goes.
    """
    block, taps = geometry.block, geometry.taps
    weight = {tap: f.broadcast_packed(f.at(weights, place)) for place, tap in enumerate(taps)}
    columns = sorted({(tap.plane, tap.column) for tap in taps})
    for plane, source_row in sorted({(tap.plane, tap.row + r) for tap in taps for r in range(block.rows)}):
        used = [tap for tap in taps if tap.plane == plane and 0 <= source_row - tap.row < block.rows]
        pixels = reader.rows(plane, source_row)
        for position in _positions(used, f.each):
            value = pixels(position)
            for tap in used:
                if (pixel := position - tap.column) in range(f.each):
                    key = (columns.index((plane, tap.column)) % block.chains, 0, pixel, source_row - tap.row)
                    sums[key] = f.dot(sums[key], value, weight[tap])


def _hold_rows(f: PackedFunction, geometry: PackedGeometry, reader: _Reader, weights: Value, sums: Sums) -> None:
    """Adds to several filters: the lanes of one position, of all rows, stay in registers, and each weight that is read
    serves the whole block.
    """
    block, taps = geometry.block, geometry.taps
    for plane in sorted({tap.plane for tap in taps}):
        here = [tap for tap in taps if tap.plane == plane]
        rows = {
            row: reader.rows(plane, row) for row in sorted({tap.row + r for tap in here for r in range(block.rows)})
        }
        for position in _positions(here, f.each):
            held: dict[int, Value] = {}
            for tap in here:
                if (pixel := position - tap.column) not in range(f.each):
                    continue
                for n in range(block.filters):
                    weight = f.broadcast_packed(f.at(weights, taps.index(tap) * block.filters + n))
                    for r in range(block.rows):
                        if tap.row + r not in held:
                            held[tap.row + r] = rows[tap.row + r](position)
                        key = (0, n, pixel, r)
                        sums[key] = f.dot(sums[key], held[tap.row + r], weight)
