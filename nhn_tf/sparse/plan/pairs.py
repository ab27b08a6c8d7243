"""Which convolutions are planned with the depthwise one behind them.

A window that strides slides over a copy of its map, a plane for each *phase*, the remainder of rows and columns by the
stride. A 1x1 convolution computes each pixel by itself, so the copy may as well be made of what it reads, before it: of
fewer channels, where it has more filters than inputs, as in front of depthwise convolutions.

A map between the two that the first cache level does not hold is not made whole, but some channels at a time
(`lower_pairs`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from nhn_tf.sparse.native.convolution import Tap
from nhn_tf.sparse.native.layout import Grid, Layout, grid_for
from nhn_tf.sparse.native.machine import Host
from nhn_tf.sparse.plan import blocks
from nhn_tf.sparse.plan.forms import cheapest
from nhn_tf.sparse.plan.windows import phases_of, slides_in_place
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.operations import Program

COPY_COST = 8.0
"""Of copying a vector by phases, in multiply-adds of vectors."""

MOST_PHASES = 16
"""Each is copied and computed by calls of its own, which are code."""

LEAST_MAP = 1 << 12
"""Numbers of a map between the two that is not made whole: more than half of the first cache level."""


@dataclasses.dataclass(frozen=True)
class Phases:
    """How a map is written.

    Attributes:
      size: (H, W) of a phase.
      strides: of the reader.
      places: (row, column) remainder of each phase that it reads.
      layout: of a phase's planes.
    """

    size: tuple[int, int]
    strides: tuple[int, int]
    places: tuple[tuple[int, int], ...]
    layout: Layout

    def taps(self, reader: ops.Windowed, channels: int) -> tuple[Tap, ...]:
        """The reader's window, in its order, where all channels of a phase come before those of the next."""
        down, right, _ = phases_of(reader)
        distance, parts = channels * self.layout.plane, self.layout.grid.parts
        return tuple(
            Tap(dy, dx * parts + self.places.index((py, px)) * distance) for dy, py in down for dx, px in right
        )


def phased(program: Program, packed: Collection[int], tail: int, host: Host) -> dict[int, Phases]:
    """The convolutions that write phases.

    Args:
      program: to plan.
      packed: operations that are not computed in float32.
      tail: the operation that the tail begins with; maps are handed over to it as they are.
      host: the machine.
    """
    result = {}
    for number, behind in _read_by_depthwise(program, packed, tail).items():
        op, reader = program.ops[number], program.ops[behind]
        assert isinstance(op, ops.Conv)
        assert isinstance(reader, ops.Depthwise)
        if not _divides(op, program.shapes[op.inputs[0]], reader):
            continue
        down, right, places = phases_of(reader)
        grid = grid_for(*reader.size, host.lanes)
        if len(places) <= MOST_PHASES and _gains(op, grid, len(places), host):
            rows, columns = ([shift for shift, _ in axis] for axis in (down, right))
            layout = Layout(grid).with_halo(-min(rows), max(rows), -min(columns), max(columns))
            result[number] = Phases(reader.size, reader.strides, tuple(places), layout)
    return result


def paired(program: Program, packed: Collection[int], tail: int, phased: Collection[int]) -> frozenset[int]:
    """The convolutions that are computed with what reads them.

    Args:
      program: to plan.
      packed: operations that are not computed in float32.
      tail: the operation that the tail begins with.
      phased: convolutions that write phases of their map.
    """
    result = set()
    for number, behind in _read_by_depthwise(program, packed, tail).items():
        reader = program.ops[behind]
        assert isinstance(reader, ops.Depthwise)
        in_place = number in phased or slides_in_place(reader, program.shapes[number])
        large = ops.count(program.shapes[number]) >= LEAST_MAP
        if behind < tail and in_place and large and reader.multiplier == 1:
            result.add(number)
    return frozenset(result)


def _read_by_depthwise(program: Program, packed: Collection[int], tail: int) -> dict[int, int]:
    """Convolutions that only a depthwise one reads, to that, both in float32 and on one side of the tail's beginning.

    Arguments are those of `phased`.
    """
    readers: list[list[int]] = [[] for _ in program.ops]
    for number, op in enumerate(program.ops):
        for value in op.inputs:
            readers[value].append(number)
    return {
        number: behind[0]
        for number, (op, behind) in enumerate(zip(program.ops, readers, strict=True))
        if isinstance(op, ops.Conv)
        and len(behind) == 1
        and isinstance(program.ops[behind[0]], ops.Depthwise)
        and number not in program.outputs
        and number not in packed
        and behind[0] not in packed
        and (number < tail) == (behind[0] < tail)
    }


def _divides(op: ops.Conv, shape: ops.Shape, reader: ops.Depthwise) -> bool:
    """Whether a convolution of a map of this shape computes each pixel by itself, and the reader's phases are equal."""
    strides = zip(shape, reader.size, reader.strides, strict=False)
    return (
        op.window == (1, 1)
        and op.pads == (0, 0)
        and slides_in_place(op, shape)
        and reader.strides != (1, 1)
        and all(side == size * stride for side, size, stride in strides)
    )


def _gains(op: ops.Conv, phase: Grid, phases: int, host: Host) -> bool:
    """Whether copying what the convolution reads, and computing phases, costs less than copying what it makes."""
    whole = grid_for(*op.size, host.lanes)

    def cost(grid: Grid, times: int, copied: int) -> float:
        pixels = grid.height * grid.width
        reads = [((0, pixel),) for pixel in range(pixels)] if pixels <= blocks.MAX_PIXELS else []
        copies = COPY_COST * copied * whole.rows * whole.vectors(host.lanes)
        return times * cheapest(op.mask, (Tap(0, 0),), grid, host, reads).cost + copies

    inputs, filters = op.mask.shape
    return cost(phase, phases, inputs) < cost(whole, 1, filters)
