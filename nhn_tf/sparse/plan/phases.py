"""1x1 convolutions that write their map as the window behind them reads it.

A window that strides slides over a copy of its map, a plane for each *phase*, the remainder of rows and columns by the
stride. A 1x1 convolution computes each pixel by itself, so the copy may as well be made of what it reads, before it: of
fewer channels, where it has more filters than inputs, as in front of depthwise convolutions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from nhn_tf.sparse.native.convolution import Tap
from nhn_tf.sparse.native.layout import Layout, grid_for
from nhn_tf.sparse.plan.windows import phases_of, slides_in_place
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.operations import Program


@dataclasses.dataclass(frozen=True)
class Phases:
    """How a map is written.

    Attributes:
      reader: the only operation that reads it.
      size: (H, W) of a phase.
      strides: of the reader.
      places: (row, column) remainder of each phase that it reads.
      layout: of a phase's planes.
    """

    reader: int
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


def phased(program: Program, packed: Collection[int], tail: int, lanes: int) -> dict[int, Phases]:
    """The convolutions that write phases.

    Args:
      program: to plan.
      packed: operations that are not computed in float32.
      tail: the operation that the tail begins with; maps are handed over to it as they are.
      lanes: float32 values in a vector.
    """
    readers: list[list[int]] = [[] for _ in program.ops]
    for number, op in enumerate(program.ops):
        for value in op.inputs:
            readers[value].append(number)
    result = {}
    for number, op in enumerate(program.ops):
        if number in packed or number in program.outputs or len(readers[number]) != 1:
            continue
        (behind,) = readers[number]
        reader = program.ops[behind]
        if behind in packed or (number < tail) != (behind < tail) or not isinstance(reader, ops.Depthwise):
            continue
        if isinstance(op, ops.Conv) and _gains(op, program.shapes[op.inputs[0]], reader):
            down, right, places = phases_of(reader)
            (rows, columns), grid = (
                ([shift for shift, _ in axis] for axis in (down, right)),
                grid_for(*reader.size, lanes),
            )
            layout = Layout(grid).with_halo(-min(rows), max(rows), -min(columns), max(columns))
            result[number] = Phases(behind, reader.size, reader.strides, tuple(places), layout)
    return result


def _gains(op: ops.Conv, shape: ops.Shape, reader: ops.Depthwise) -> bool:
    """Whether the convolution may write phases, and a copy of what it reads, of this shape, is the smaller one."""
    return (
        op.window == (1, 1)
        and slides_in_place(op, shape)
        and reader.strides != (1, 1)
        and all(side == size * stride for side, size, stride in zip(shape, reader.size, reader.strides, strict=False))
        and op.mask.shape[0] < op.mask.shape[1]
    )
