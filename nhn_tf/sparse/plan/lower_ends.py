"""Steps for what the caller gives and gets: images come channel by channel into the arena, results go back."""

from __future__ import annotations

import numpy as np

from nhn_tf.sparse.plan.memory import Planes, Vector
from nhn_tf.sparse.plan.steps import Steps, in_arena, vector_in_arena
from nhn_tf.sparse.program import operations as ops


def lower_input(steps: Steps, number: int, op: ops.Input) -> Planes | Vector:
    """Copies an image, pixels [H, W, C], to planes, or a vector as it is."""
    outside = ("inputs", steps.program.inputs.index(number))
    if len(op.size) == 1:
        vector = steps.new_vector(op.size[0])
        steps.copy([(0, 0, op.size[0])], (1, 1), lambda: (outside, [0]), vector_in_arena(vector), vector)
        return vector
    return steps.from_pixels(number, lambda: (outside, 0))


def lower_output(steps: Steps, place: int, value: int, source: Planes | Vector) -> None:
    """Copies a value to where the caller wants output number `place`."""
    outside = ("outputs", place)
    if isinstance(source, Vector):
        steps.copy([(0, 0, source.size)], (1, 1), vector_in_arena(source), lambda: (outside, [0]), source)
        return
    height, width, channels = steps.program.shapes[value]
    rows = [(y * width * channels, source.layout.row(y), width) for y in range(height)]
    parts = source.layout.grid.parts
    steps.copy(rows, (parts, channels), in_arena(source), lambda: (outside, np.arange(channels)), source)
