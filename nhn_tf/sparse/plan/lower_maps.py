"""Steps for what else reads maps: pools, sums and activations, joining, padding, upsampling."""

from __future__ import annotations

from typing import Any

import numpy as np

from nhn_tf.sparse.native import map_kernels
from nhn_tf.sparse.native.activations import Activation
from nhn_tf.sparse.plan import lower_vectors
from nhn_tf.sparse.plan.memory import CapacityError, Planes, Vector
from nhn_tf.sparse.plan.steps import Steps, in_arena
from nhn_tf.sparse.plan.tables import Each
from nhn_tf.sparse.plan.windows import in_vectors, window_counts
from nhn_tf.sparse.program import operations as ops

MAX_SPANS = 1024


def lower_pool(steps: Steps, number: int, op: ops.Pool, source: Planes) -> Planes:
    """Each channel by itself. One whose window strides is copied and computed before the next is touched."""
    window = steps.window(number, op, source, float("-inf") if op.kind == "max" else 0.0, by_channel=True)
    target = steps.new_planes(number)
    grid = target.layout.grid
    height, width, _ = steps.program.shapes[op.inputs[0]]
    geometry = (op.kind, grid, window.taps, window.planes.layout.stride, target.layout.stride)

    def emit() -> None:
        put = steps.tables
        counts = np.outer(window_counts(op, 0, height), window_counts(op, 1, width))
        shares = put.constants(in_vectors(grid, steps.lanes, 1.0 / counts) if op.kind == "average" else ())
        sources, targets = put.indices(window.planes.origins()), put.indices(target.origins())
        if window.refill is None:
            put.call(map_kernels.pool, *geometry, arguments=["arena", sources, targets, target.channels, shares])
            return
        with put.repeated(target.channels):
            window.refill()
            put.call(map_kernels.pool, *geometry, arguments=["arena", sources, Each(targets, 1), 1, shares])

    steps.step(emit, source, window.planes, target)
    return target


def lower_elementwise(steps: Steps, number: int, op: ops.Elementwise, *sources: Any) -> Planes | Vector:
    shape = steps.program.shapes[number]
    options: dict[str, Any] = {"affine": op.scale is not None, "activation": Activation(op.activation, op.slope)}
    scale, shift = op.affine(shape[-1])
    if len(shape) == 1:
        return lower_vectors.combine(steps, sources, scale, shift, options)
    target = steps.new_planes(number)
    layout = target.layout

    def emit() -> None:
        put = steps.tables
        origins = np.concatenate([source.origins() for source in sources])
        tables = (put.indices(origins), put.indices(target.origins()))
        arguments = ["arena", *tables, shape[2], put.constants(np.stack([scale, shift], axis=1))]
        put.call(map_kernels.elementwise, layout.grid, layout.stride, len(sources), arguments=arguments, **options)

    steps.step(emit, *sources, target)
    return target


def lower_concatenate(steps: Steps, number: int, op: ops.Concatenate, *sources: Any) -> Planes | Vector:
    """Of maps: nothing to do, they are read through tables."""
    if isinstance(sources[0], Planes):
        spans = tuple(span for source in sources for span in source.spans)
        if len(spans) > MAX_SPANS:
            raise CapacityError(f"a map is joined of more than {MAX_SPANS} others.")
        return Planes(sources[0].layout, spans)
    return lower_vectors.join(steps, number, sources)


def lower_global_pool(steps: Steps, number: int, op: ops.GlobalPool, source: Planes) -> Vector:
    target = steps.new_vector(source.channels)
    grid = source.layout.grid
    kind = "max" if op.kind == "max" else "sum"
    geometry = (kind, grid, source.layout.stride)

    def emit() -> None:
        put = steps.tables
        maps = np.full((grid.height, grid.width), 1.0 / (grid.height * grid.width))
        if op.weights is not None:
            maps = op.weights.transpose(2, 0, 1)
        counted = in_vectors(grid, steps.lanes, np.ones((grid.height, grid.width)), once=True)
        tables = (put.constants(in_vectors(grid, steps.lanes, maps)), put.constants(counted))
        arguments = ["arena", put.indices(source.origins()), target.buffer.start, target.size, *tables]
        put.call(map_kernels.global_pool, *geometry, per_channel=op.weights is not None, arguments=arguments)

    steps.step(emit, source, target)
    return target


def lower_pad(steps: Steps, number: int, op: ops.Pad, source: Planes) -> Planes:
    height, width, channels = steps.program.shapes[op.inputs[0]]
    layout = steps.layout_of(number)
    parts = layout.grid.parts
    (top, left), (rows_out, columns_out) = op.pads, op.size
    start, stop = max(0, -left), min(width, columns_out - left)
    rows = [
        (
            layout.row(y) + (start + left) * parts,
            source.layout.row(y - top) + start * source.layout.grid.parts,
            stop - start,
        )
        for y in range(rows_out)
        if 0 <= y - top < height and start < stop
    ]
    buffer = steps.new_filled(layout, channels, 1, 0.0, tuple((to, count) for to, _, count in rows))
    target = Planes(layout, ((buffer, 0, channels),))
    steps.copy(rows, (source.layout.grid.parts, parts), in_arena(source), in_arena(target), source, target)
    return target


def lower_repeat(steps: Steps, number: int, op: ops.Repeat, source: Planes) -> Planes:
    height, width, _ = steps.program.shapes[op.inputs[0]]
    target = steps.new_planes(number)
    (down, right), parts = op.factors, target.layout.grid.parts
    rows = [
        (target.layout.row(y * down + dy) + dx * parts, source.layout.row(y), width)
        for y in range(height)
        for dy in range(down)
        for dx in range(right)
    ]
    strides = (source.layout.grid.parts, right * parts)
    steps.copy(rows, strides, in_arena(source), in_arena(target), source, target)
    return target
