"""Steps for what moves values: into maps and out of them, rows to columns, channels to pixels, blends of neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from nhn_tf.sparse.native import mixing_kernels
from nhn_tf.sparse.plan.memory import Planes, Vector
from nhn_tf.sparse.plan.steps import Steps, in_arena
from nhn_tf.sparse.program import operations as ops


def lower_constant(steps: Steps, number: int, op: ops.Constant) -> Planes:
    """Copied in for every image, since others use its place."""
    return steps.from_pixels(number, lambda: (steps.tables.constants(op.values), 0))


def lower_unflatten(steps: Steps, number: int, op: ops.Unflatten, source: Vector) -> Planes:
    return steps.from_pixels(number, lambda: ("arena", source.buffer.start), source)


def lower_transpose(steps: Steps, number: int, op: ops.Transpose, source: Planes) -> Planes:
    """Each row becomes a column, in as many pieces as the new map has parts."""
    target = steps.new_planes(number)
    height, width, _ = steps.program.shapes[op.inputs[0]]
    grid, step = target.layout.grid, source.layout.grid.parts
    rows = [
        (target.layout.row(x) + y * grid.parts, source.layout.row(y) + x * step, min(grid.rows, width - x))
        for y in range(height)
        for x in range(0, width, grid.rows)
    ]
    steps.copy(rows, (step, target.layout.stride), in_arena(source), in_arena(target), source, target)
    return target


def lower_interleave(steps: Steps, number: int, op: ops.Interleave, source: Planes) -> Planes:
    """One copy for each group of channels, to the pixels that are its own."""
    target = steps.new_planes(number)
    (down, right), (top, left), (height, width) = op.factors, op.corner, op.size
    parts, step = target.layout.grid.parts, source.layout.grid.parts
    for group in range(down * right):
        first_row, first_column = (group // right - top) % down, (group % right - left) % right
        rows = [
            (
                target.layout.row(y) + first_column * parts,
                source.layout.row((y + top) // down) + (first_column + left) // right * step,
                -(-(width - first_column) // right),
            )
            for y in range(first_row, height, down)
            if first_column < width
        ]

        def group_of_source(group: int = group) -> tuple[Any, Any]:
            channels = target.channels
            return "arena", source.origins()[group * channels : (group + 1) * channels]

        steps.copy(rows, (step, right * parts), group_of_source, in_arena(target), source, target)
    return target


def lower_resample(steps: Steps, number: int, op: ops.Resample, source: Planes) -> Planes:
    target = steps.new_planes(number)
    terms = max(int(np.count_nonzero(op.matrix, axis=1).max()), 1)
    chosen = np.argsort(op.matrix == 0, axis=1, kind="stable")[:, :terms]
    weights = np.take_along_axis(op.matrix, chosen, axis=1)
    chosen = np.where(weights == 0, chosen[:, :1], chosen)  # What has fewer terms takes its first again, times 0.
    lines, count = len(op.matrix), steps.program.shapes[number][1 - op.axis]
    to, read = (places[op.axis] for places in (_offsets(target, lines), _offsets(source, op.matrix.shape[1])))
    along = [_offsets(planes, count)[1 - op.axis] for planes in (target, source)]

    def emit() -> None:
        put = steps.tables
        tables = (put.indices(source.origins()), put.indices(target.origins()), target.channels)
        sums = (put.indices(to), put.indices(read[chosen]), put.constants(weights), lines)
        pixels = (put.indices(np.stack(along, axis=1)), count)
        put.call(mixing_kernels.resample, terms, arguments=["arena", *tables, *sums, *pixels])

    steps.step(emit, source, target)
    return target


def _offsets(planes: Planes, count: int) -> tuple[np.ndarray, np.ndarray]:
    """From a channel's first pixel to the first of each of so many rows, and of as many columns."""
    layout = planes.layout
    return np.array([layout.row(y) for y in range(count)]), np.arange(count) * layout.grid.parts
