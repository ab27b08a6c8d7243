"""The generator of convolutions of bfloat16 maps: two input channels at a time, sums in float32.

A lane of a map holds the pixels 2k and 2k + 1 of a row (`layout.PairLayout`). A dot product takes two numbers of one
lane, so that the same pixel of two channels must come into it: once all pixels 2k of both, once all pixels 2k + 1. The
first serves the outputs 2k, whose sums are one vector, with one tap, and the outputs 2k + 1 with its neighbour; and so
each lane of pixels is made once and serves both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from nhn_tf.sparse.native.activations import Activation, activate
from nhn_tf.sparse.native.convolution import WEIGHTS_AHEAD, Block
from nhn_tf.sparse.native.emitter import Value
from nhn_tf.sparse.native.layout import LINE
from nhn_tf.sparse.native.pairs import PairFunction, interleaved, packed


@dataclasses.dataclass(frozen=True)
class PairTap:
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
class PairGeometry:
    """All that the code depends on.

    Attributes:
      rows: of the output.
      lines: vectors in each row.
      parts: elements from a pair of pixels to the next.
      taps: in the order of the weights.
      beside: whether neighbours in a row are found by shifting lanes; else they are read where they lie.
      source_stride, target_stride: from row to row.
      target_plane: from output channel to output channel.
      block: registers' worth of output, one vector of pairs wide.
      activation: of the output.
      masked: whether `%masks` [lines, lanes] tells which bits of a row are its pixels'.
    """

    rows: int
    lines: int
    parts: int
    taps: tuple[PairTap, ...]
    beside: bool
    source_stride: int
    target_stride: int
    target_plane: int
    block: Block
    activation: Activation
    masked: bool


Sums = dict[tuple[int, int, int, int], Value]
"""By chain, filter, pixel of the pair, and row."""


def pair_convolution(name: str, geometry: PairGeometry, lanes: int, *, emulated: bool) -> str:
    """A convolution over lists of pairs of input planes, dense or sparse, of any window.

    As `convolution.convolution`, but `planes` is [entries, 2], and weights [entries, tap, filter] are pairs.
    """
    block = geometry.block
    f = PairFunction(
        name,
        ["ptr noalias %arena", "ptr noalias %starts", "ptr noalias %planes", "ptr noalias %weights",
         "ptr noalias %bias", "ptr noalias %masks", "i64 %target", "i64 %groups"],
        lanes,
        emulated=emulated,
    )  # fmt: skip
    outputs = [(n, pixel, row) for n in range(block.filters) for pixel in (0, 1) for row in range(block.rows)]
    order = packed(lanes) if _pointwise(geometry) else interleaved(lanes)
    variables = {(chain, *output): f.variable() for chain in range(block.chains) for output in outputs}
    with f.tiles(geometry.rows, block.rows) as y, f.turns(geometry.lines) as line:
        x = f.mul(line, lanes)
        source = f.at("%arena", f.add(f.mul(y, geometry.source_stride), x))
        target = f.at("%arena", f.add(f.add(f.mul(y, geometry.target_stride), x), "%target"))
        with f.loop(0, "%groups") as group:
            first_filter = f.mul(group, block.filters)
            for n in range(block.filters):
                bias = f.broadcast(f.at("%bias", f.add(first_filter, n)))
                for key, variable in variables.items():
                    if key[1] == n:
                        f.write(variable, f.constant(0) if key[0] else bias)
            with f.loop(f.index("%starts", group), f.index("%starts", f.add(group, 1))) as entry:
                _add_entry(f, geometry, source, entry, variables)
            mask = f.load_pairs(f.at("%masks", x)) if geometry.masked else None
            for n in range(block.filters):
                channel = f.at(target, f.mul(f.add(first_filter, n), geometry.target_plane))
                for row in range(block.rows):
                    first, second = (_total(f, geometry, variables, (n, pixel, row)) for pixel in (0, 1))
                    pairs = f.rounded(first, second, order)
                    pairs = pairs if mask is None else f.masked(pairs, mask)
                    f.store_pairs(pairs, f.at(channel, row * geometry.target_stride))
    return str(f)


def _pointwise(geometry: PairGeometry) -> bool:
    """Whether no tap reads a neighbour in the row: then the order of pixels within a vector does not matter."""
    return all(tap.column == 0 for tap in geometry.taps)


def _total(f: PairFunction, geometry: PairGeometry, variables: Sums, output: tuple[int, int, int]) -> Value:
    total = f.read(variables[0, *output])
    for chain in range(1, geometry.block.chains):
        total = f.math("fadd", total, f.read(variables[chain, *output]))
    return activate(f, total, geometry.activation)


def _add_entry(f: PairFunction, geometry: PairGeometry, source: Value, entry: Value, variables: Sums) -> None:
    """Adds two live kernels of each filter of a group, or two input channels', to the sums."""
    size = geometry.block.filters * len(geometry.taps)
    planes = [f.at(source, f.index("%planes", f.add(f.mul(entry, 2), which))) for which in (0, 1)]
    weights = f.at("%weights", f.mul(entry, size))
    for line in range(0, size, LINE):
        f.prefetch(f.at(weights, WEIGHTS_AHEAD + line))
    sums = {key: f.read(variable) for key, variable in variables.items()}
    accumulate = _stream_rows if geometry.block.filters == 1 else _hold_rows
    accumulate(f, geometry, _Reader(f, geometry, planes), weights, sums)
    for key, variable in variables.items():
        f.write(variable, sums[key])


class _Reader:
    """Reads lanes of the same pixel of two channels.

    Args:
      f: the function that reads.
      geometry: of the maps.
      planes: of both channels.
    """

    def __init__(self, f: PairFunction, geometry: PairGeometry, planes: Sequence[Value]):
        self._f, self._geometry, self._planes = f, geometry, planes

    def rows(self, plane: int, row: int) -> Callable[[int], Value]:
        """A function of a pixel's place, from a pair's first, that gives its lanes of a row; what is read is kept."""
        f, geometry = self._f, self._geometry
        read: dict[int, list[Value]] = {}
        made: dict[tuple[int, int], Value] = {}

        def loaded(lane: int) -> list[Value]:
            if lane not in read:
                at = plane + row * geometry.source_stride + lane * geometry.parts
                read[lane] = [f.load_pairs(f.at(channel, at)) for channel in self._planes]
            return read[lane]

        def pixels(position: int) -> Value:
            lane, half = divmod(position, 2)
            at = 0 if geometry.beside else lane
            if (at, half) not in made:
                join = f.unpacked if _pointwise(geometry) else f.joined
                first, second = loaded(at)
                made[at, half] = join(first, second, half)
            return f.beside(made[at, half], lane * geometry.parts if geometry.beside else 0)

        return pixels


def _positions(taps: Sequence[PairTap]) -> list[int]:
    """Of the pixels that these taps read for both outputs of a pair, from its first."""
    return sorted({tap.column + pixel for tap in taps for pixel in (0, 1)})


def _stream_rows(f: PairFunction, geometry: PairGeometry, reader: _Reader, weights: Value, sums: Sums) -> None:
    """Adds to one filter, row after row: nothing is read or made twice, and all weights are held. Those that find no
    register LLVM keeps where a dot product reads them as it goes.
    """
    block, taps = geometry.block, geometry.taps
    weight = {tap: f.broadcast_pair(f.at(weights, place)) for place, tap in enumerate(taps)}
    columns = sorted({(tap.plane, tap.column) for tap in taps})
    for plane, source_row in sorted({(tap.plane, tap.row + r) for tap in taps for r in range(block.rows)}):
        used = [tap for tap in taps if tap.plane == plane and 0 <= source_row - tap.row < block.rows]
        pixels = reader.rows(plane, source_row)
        for position in _positions(used):
            value = pixels(position)
            for tap in used:
                if (pixel := position - tap.column) in (0, 1):
                    key = (columns.index((plane, tap.column)) % block.chains, 0, pixel, source_row - tap.row)
                    sums[key] = f.dot(sums[key], value, weight[tap])


def _hold_rows(f: PairFunction, geometry: PairGeometry, reader: _Reader, weights: Value, sums: Sums) -> None:
    """Adds to several filters: the lanes of one position, of all rows, stay in registers, and each weight that is read
    serves the whole block.
    """
    block, taps = geometry.block, geometry.taps
    for plane in sorted({tap.plane for tap in taps}):
        here = [tap for tap in taps if tap.plane == plane]
        rows = {
            row: reader.rows(plane, row) for row in sorted({tap.row + r for tap in here for r in range(block.rows)})
        }
        for position in _positions(here):
            held: dict[int, Value] = {}
            for tap in here:
                if (pixel := position - tap.column) not in (0, 1):
                    continue
                for n in range(block.filters):
                    weight = f.broadcast_pair(f.at(weights, taps.index(tap) * block.filters + n))
                    for r in range(block.rows):
                        if tap.row + r not in held:
                            held[tap.row + r] = rows[tap.row + r](position)
                        key = (0, n, pixel, r)
                        sums[key] = f.dot(sums[key], held[tap.row + r], weight)
