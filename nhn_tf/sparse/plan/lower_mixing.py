"""Steps for what combines values of several shapes, or normalises over channels and pixels.

To these kernels a vector is a row of one plane, or of several that lie side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nhn_tf.sparse.native import mixing_kernels
from nhn_tf.sparse.native.layout import Grid
from nhn_tf.sparse.plan.memory import Planes, Vector
from nhn_tf.sparse.plan.steps import Steps
from nhn_tf.sparse.plan.windows import in_vectors
from nhn_tf.sparse.program import operations as ops


def lower_combine(steps: Steps, number: int, op: ops.Combine, *sources: Any) -> Planes | Vector:
    shapes, whole = [steps.program.shapes[value] for value in op.inputs], steps.program.shapes[number]
    target = steps.new_value(number)
    if len(whole) == 3:
        spread = tuple(len(shape) == 1 or shape[:2] != whole[:2] for shape in shapes)
    else:
        spread = tuple(shape != whole for shape in shapes)
    grid, stride = _grid(target)

    def emit() -> None:
        put = steps.tables
        origins = _origins(target)
        read = [
            _origins(source, shape[-1] if len(whole) == 3 else 1) for source, shape in zip(sources, shapes, strict=True)
        ]
        places = np.concatenate([np.broadcast_to(one, origins.shape) for one in read])
        arguments = ["arena", put.indices(places), put.indices(origins), origins.size]
        put.call(mixing_kernels.combine, op.kind, grid, stride, spread, arguments=arguments)

    steps.step(emit, *sources, target)
    return target


def lower_normalize(steps: Steps, number: int, op: ops.Normalize, source: Any) -> Planes | Vector:
    target = steps.new_value(number)
    by_pixel = op.groups == 0 and isinstance(target, Planes)
    groups = max(op.groups, 1)
    grid, stride = _grid(target, groups)

    def emit() -> None:
        put = steps.tables
        read, written = _origins(source, groups), _origins(target, groups)
        averaged = written.size if by_pixel else grid.height * grid.width * written.size // groups
        arguments: list[Any] = ["arena", put.indices(read), put.indices(written)]
        numbers = put.constants([1 / averaged, op.epsilon])
        if by_pixel:
            arguments += [written.size, numbers]
            put.call(mixing_kernels.normalize_pixels, grid, stride, center=op.center, arguments=arguments)
        else:
            counted = in_vectors(grid, steps.lanes, np.ones((grid.height, grid.width)), once=True)
            arguments += [groups, written.size // groups, numbers, put.constants(counted)]
            put.call(mixing_kernels.normalize_groups, grid, stride, center=op.center, arguments=arguments)

    steps.step(emit, source, target)
    return target


def lower_softmax_of_pixels(steps: Steps, number: int, source: Planes) -> Planes:
    target = steps.new_planes(number)
    geometry = _grid(target)

    def emit() -> None:
        tables = (steps.tables.indices(source.origins()), steps.tables.indices(target.origins()))
        arguments = ["arena", *tables, target.channels]
        steps.tables.call(mixing_kernels.softmax_pixels, *geometry, arguments=arguments)

    steps.step(emit, source, target)
    return target


def _grid(value: Planes | Vector, planes: int = 1) -> tuple[Grid, int]:
    """The grid of each plane, and the distance of its rows."""
    if isinstance(value, Vector):
        return Grid(1, value.size // planes), 0
    return value.layout.grid, value.layout.stride


def _origins(value: Planes | Vector, planes: int = 1) -> np.ndarray:
    """Where the first number of each plane lies; a vector is cut into so many."""
    if isinstance(value, Vector):
        return value.buffer.start + np.arange(planes) * (value.size // planes)
    return value.origins()
