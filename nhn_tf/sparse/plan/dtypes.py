"""Which operations are computed in bfloat16, where the machine does so, and make their maps in it.

Convolutions are, of maps that fill the lanes, and what joins, adds up or activates their maps alone; all else computes
in float32. What reads a map in the other type than it was made in gets a copy.
"""

from __future__ import annotations

from nhn_tf.sparse.native.layout import pair_layout
from nhn_tf.sparse.native.machine import Host
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.operations import Program, Shape

LEAST_FILLED = 0.5
"""Of the pixels that a plane's vectors hold, those of the map. Of emptier ones float32, which has half of them, is as
fast, and holds filters in lanes where there are few pixels.
"""


def paired(program: Program, host: Host) -> frozenset[int]:
    """The operations that are computed in bfloat16; none where the machine computes in float32."""
    result: set[int] = set()
    for number, op in enumerate(program.ops if host.pairs else ()):
        follows = isinstance(op, (ops.Concatenate, ops.Elementwise)) and result.issuperset(op.inputs)
        if follows or (isinstance(op, ops.Conv) and _fills(program.shapes[number], host.lanes)):
            result.add(number)
    return frozenset(result)


def _fills(shape: Shape, lanes: int) -> bool:
    """Whether a map's pixels fill its vectors."""
    height, width, _ = shape
    grid = pair_layout(height, width, lanes).grid
    return height * width > LEAST_FILLED * 2 * grid.rows * grid.vectors(lanes) * lanes
