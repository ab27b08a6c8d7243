"""The pass from a program to a plan: everything that depends on the machine is decided here.

Layouts, memory, dense or sparse, the kernels' blocks. A plan computes image after image, each from end to end, so that
its maps stay in the second-level cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from nhn_tf.sparse.native.layout import PackedLayout
from nhn_tf.sparse.native.machine import Host
from nhn_tf.sparse.plan import (
    lower_convolutions,
    lower_ends,
    lower_maps,
    lower_mixing,
    lower_packed,
    lower_packed_maps,
    lower_packed_vectors,
    lower_pairs,
    lower_rearrangements,
    lower_vectors,
)
from nhn_tf.sparse.plan.memory import Planes, Vector
from nhn_tf.sparse.plan.steps import Decision, Ranges, Steps
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.operations import Op, Program


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Native code as text, and its tables.

    Attributes:
      host: the machine that it is for.
      ir: a module whose function `run` does it all; its arguments: arena, constants, indices, inputs, outputs, next
        image, end, how many images to take at a time, ticks. "" once it is machine code.
      constants: float32, the weights.
      indices: int32, where planes lie.
      arena: float32 values that each thread needs.
      fills: (start, stop, number) of the parts of the arena that hold a number other than 0 where nobody writes.
      group: images that a thread may take at a time.
      inputs, outputs: shapes of the values that come and go.
      decisions: one for each convolution.
      calls: (operation, kernel's name) of each call, in order.
      ranges: (value, its least and its largest number) of what int8 was planned with; empty of other types.
    """

    host: Host
    ir: str
    constants: np.ndarray
    indices: np.ndarray
    arena: int
    fills: tuple[tuple[int, int, float], ...]
    group: int
    inputs: tuple[ops.Shape, ...]
    outputs: tuple[ops.Shape, ...]
    decisions: tuple[Decision, ...]
    calls: tuple[tuple[int, str], ...]
    ranges: tuple[tuple[int, tuple[float, float]], ...]

    @property
    def given_ranges(self) -> Ranges | None:
        """What `lower` was given: of int8 alone, where it may be empty."""
        return dict(self.ranges) if self.host.narrow == "int8" else None


LOWERINGS: Final[Mapping[type[Op], Callable[..., Planes | Vector]]] = {
    ops.Input: lower_ends.lower_input,
    ops.Conv: lower_convolutions.lower_conv,
    ops.Depthwise: lower_pairs.lower_depthwise,
    ops.Pool: lower_maps.lower_pool,
    ops.Elementwise: lower_maps.lower_elementwise,
    ops.Combine: lower_mixing.lower_combine,
    ops.Normalize: lower_mixing.lower_normalize,
    ops.Concatenate: lower_maps.lower_concatenate,
    ops.GlobalPool: lower_maps.lower_global_pool,
    ops.Dense: lower_vectors.lower_dense,
    ops.Softmax: lower_vectors.lower_softmax,
    ops.Reshape: lower_vectors.lower_reshape,
    ops.Pad: lower_maps.lower_pad,
    ops.Repeat: lower_maps.lower_repeat,
    ops.Constant: lower_rearrangements.lower_constant,
    ops.Unflatten: lower_rearrangements.lower_unflatten,
    ops.Transpose: lower_rearrangements.lower_transpose,
    ops.Interleave: lower_rearrangements.lower_interleave,
    ops.Resample: lower_rearrangements.lower_resample,
}
"""Operation to what adds its steps and returns its value, a function of (steps, its number, it, *values it reads)."""

PACKED_LOWERINGS: Final[Mapping[type[Op], Callable[..., Planes | Vector]]] = {
    ops.Conv: lower_packed.lower_conv,
    ops.Elementwise: lower_packed_maps.lower_elementwise,
    ops.Concatenate: lower_maps.lower_concatenate,
    ops.Dense: lower_packed_vectors.lower_dense,
}
"""The same of those that are computed in bfloat16 or int8."""


def lower(program: Program, host: Host, *, ranges: Ranges | None = None, timed: bool = False) -> Plan:
    """Plans a program.

    Args:
      program: to plan.
      host: to plan for.
      ranges: for int8, of what `calibration.ranges` tells.
      timed: whether it shall time its calls.

    Raises:
      CapacityError: it is too large.
    """
    steps = Steps(program, host, ranges)
    values = Values(steps)
    for number, op in enumerate(program.ops):
        steps.op = number
        if number == steps.tail:
            _enter_tail(steps, values)
        packed = number in steps.packed
        reads = [values.read(value, packed=packed) for value in op.inputs]
        values.made.append((PACKED_LOWERINGS if packed else LOWERINGS)[type(op)](steps, number, op, *reads))
    for place, value in enumerate(program.outputs):
        if value >= steps.tail or not steps.in_tail:
            steps.op = value
            lower_ends.lower_output(steps, place, value, values.read(value, packed=False))
    memory = steps.place()
    inputs = tuple(program.shapes[value] for value in program.inputs)
    outputs = tuple(program.shapes[value] for value in program.outputs)
    return Plan(
        host=host,
        ir=steps.tables.module(inputs, outputs, memory.slot, timed=timed),
        constants=steps.tables.array("constants"),
        indices=steps.tables.array("indices"),
        arena=memory.arena,
        fills=tuple((r.start, r.stop, r.kind.fill) for r in memory.regions if r.kind.fill != 0),
        group=memory.group,
        inputs=inputs,
        outputs=outputs,
        decisions=tuple(steps.decisions),
        calls=tuple((call.op, call.name) for call in steps.tables.calls),
        ranges=tuple((ranges or {}).items()),
    )


class Values:
    """What operations have made, in the type in which they did, and, where something reads it so, in the other.

    Args:
      steps: that bring a map from one type to the other.

    Attributes:
      made: by each operation.
    """

    def __init__(self, steps: Steps):
        self.made: list[Planes | Vector] = []
        self._steps = steps
        self._other: dict[int, Planes] = {}

    def read(self, number: int, *, packed: bool) -> Planes | Vector:
        """A value in float32 or in the narrow type."""
        value = self.made[number]
        if isinstance(value, Vector) or isinstance(value.layout, PackedLayout) == packed:
            return value
        if number not in self._other:
            convert = lower_packed_maps.narrow if packed else lower_packed_maps.widen
            self._other[number] = convert(self._steps, number, value)
        return self._other[number]

    def hand_over(self, number: int) -> None:
        """Copies a value to its image's memory for the tail."""
        self.made[number] = self._steps.hand_over(number, self.made[number])
        self._other.pop(number, None)


def _enter_tail(steps: Steps, values: Values) -> None:
    """Gives the caller what is made so far, and the tail what it reads of it."""
    program, start = steps.program, len(values.made)
    for place, value in enumerate(program.outputs):
        if value < start:
            lower_ends.lower_output(steps, place, value, values.read(value, packed=False))
    for value in sorted({value for op in program.ops[start:] for value in op.inputs if value < start}):
        values.hand_over(value)
    steps.in_tail = True
