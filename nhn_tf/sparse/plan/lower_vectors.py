"""Steps for what reads vectors (C,), and for maps that become vectors and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nhn_tf.sparse.native import vector_kernels
from nhn_tf.sparse.native.activations import Activation
from nhn_tf.sparse.plan.lower_mixing import lower_softmax_of_pixels
from nhn_tf.sparse.plan.memory import Buffer, Planes, Vector
from nhn_tf.sparse.plan.steps import Steps, in_arena, vector_in_arena
from nhn_tf.sparse.program import operations as ops


def combine(
    steps: Steps, sources: Sequence[Vector], scale: np.ndarray, shift: np.ndarray, options: dict[str, Any]
) -> Vector:
    """activation(scale * (sum of vectors) + shift)."""
    target = steps.new_vector(scale.size)
    size = target.buffer.size
    factors = np.stack([np.pad(values, (0, size - scale.size)) for values in (scale, shift)])

    def emit() -> None:
        put = steps.tables
        starts = put.indices([source.buffer.start for source in sources])
        arguments = ["arena", starts, target.buffer.start, size, put.constants(factors)]
        put.call(vector_kernels.elementwise_vector, len(sources), arguments=arguments, **options)

    steps.step(emit, *sources, target)
    return target


def join(steps: Steps, number: int, sources: Sequence[Vector]) -> Vector:
    """Copies vectors one behind another."""
    target = steps.new_vector(steps.program.shapes[number][0])
    first = 0
    for source in sources:
        rows = [(first, 0, source.size)]
        steps.copy(rows, (1, 1), vector_in_arena(source), vector_in_arena(target), source, target)
        first += source.size
    return target


def lower_dense(steps: Steps, number: int, op: ops.Dense, source: Vector) -> Vector:
    inputs, filters = op.kernel.shape
    target = steps.new_vector(filters)
    vectors = min(target.buffer.units, 4)
    width = vectors * steps.lanes
    count = -(-filters // width)
    # The last block writes whole registers behind the vector's end.
    target = Vector(Buffer(target.buffer.kind, count * vectors), filters)
    more = count * width - filters

    def emit() -> None:
        put = steps.tables
        kernel = np.pad(op.kernel, ((0, 0), (0, more))).reshape(inputs, count, width).transpose(1, 0, 2)
        weights, bias = put.constants(kernel), put.constants(np.pad(op.bias, (0, more)))
        geometry = (vector_kernels.dense, Activation(op.activation, op.slope), vectors)
        places = (source.buffer.start, target.buffer.start)
        put.call_for_group(*geometry, arguments=["arena", *places, inputs, count, weights, bias])

    steps.step(emit, source, target)
    return target


def lower_softmax(steps: Steps, number: int, op: ops.Softmax, source: Any) -> Planes | Vector:
    if isinstance(source, Planes):
        return lower_softmax_of_pixels(steps, number, source)
    target = steps.new_vector(source.size)
    size = target.buffer.size

    def emit() -> None:
        outside = steps.tables.constants(np.where(np.arange(size) < source.size, 0.0, -np.inf))
        arguments = ["arena", source.buffer.start, target.buffer.start, size, outside]
        steps.tables.call(vector_kernels.softmax, arguments=arguments)

    steps.step(emit, source, target)
    return target


def lower_reshape(steps: Steps, number: int, op: ops.Reshape, source: Any) -> Planes | Vector:
    if isinstance(source, Vector):
        return steps.from_pixels(number, lambda: ("arena", source.buffer.start), source)
    height, width, channels = steps.program.shapes[op.inputs[0]]
    vector = steps.new_vector(height * width * channels)
    rows = [(y * width * channels, source.layout.row(y), width) for y in range(height)]

    def places() -> tuple[Any, Any]:
        return "arena", vector.buffer.start + np.arange(channels)

    strides = (source.layout.grid.parts, channels)
    steps.copy(rows, strides, in_arena(source), places, source, vector)
    return vector
