"""Steps for dense layers in int8, between vectors in float32."""

from __future__ import annotations

import numpy as np

from nhn_tf.sparse.native import quad_vectors
from nhn_tf.sparse.native.activations import Activation
from nhn_tf.sparse.native.quads import MOST
from nhn_tf.sparse.plan.memory import Buffer, Kind, Vector
from nhn_tf.sparse.plan.steps import LEAST_SCALE, Steps, step_of
from nhn_tf.sparse.plan.tables import Each
from nhn_tf.sparse.program import operations as ops


def lower_dense(steps: Steps, number: int, op: ops.Dense, source: Vector) -> Vector:
    """Inputs in steps of the vector's own, each filter's weights in steps of theirs; sums are exact."""
    inputs, filters = op.kernel.shape
    ends = steps.ranges[op.inputs[0]]
    signed = ends[0] < 0
    unit = step_of(ends, signed=signed)
    count = -(-inputs // (4 * steps.lanes))
    # It is read in whole vectors.
    read = Vector(Buffer(Kind(steps.lanes, 0.0, "bytes"), count), 4 * steps.lanes * count)
    target = steps.new_vector(filters)
    vectors = min(target.buffer.units, 4)
    width = vectors * steps.lanes
    blocks = -(-filters // width)
    target = Vector(Buffer(target.buffer.kind, blocks * vectors), filters)
    kernel, step = _whole(op.kernel * unit)
    start = -128 * kernel.sum(0).astype(np.int32) if signed else np.zeros(filters, np.int32)
    more = blocks * width - filters
    settings = np.pad(np.stack([start.view(np.float32), step, op.bias]), ((0, 0), (0, more)))
    settings = settings.reshape(3, blocks, width).transpose(1, 0, 2)

    def emit() -> None:
        put = steps.tables
        per = put.constants(np.pad(np.full(inputs, 1 / unit), (0, read.size - inputs)))
        last = source.buffer.size - steps.lanes
        arguments = ["arena", source.buffer.start, last, read.buffer.start, count, per]
        put.call(quad_vectors.quantize, signed=signed, emulated=steps.host.emulated, arguments=arguments)
        padded = np.pad(kernel, ((0, read.size - inputs), (0, more)))
        numbers = padded.reshape(count, 4, steps.lanes, blocks, width).transpose(3, 0, 2, 4, 1)
        lanes = np.ascontiguousarray(numbers).view(np.float32)
        weights, own = put.constants(lanes), put.constants(settings)
        geometry = (quad_vectors.dense, Activation(op.activation, op.slope), vectors)
        emulated, each = steps.host.emulated, count * steps.lanes
        if not put.in_tail:
            arguments = ["arena", read.buffer.start, target.buffer.start, each, blocks, weights, own]
            put.call(*geometry, emulated=emulated, arguments=arguments)
            return
        with put.repeated(blocks):  # Block after block, each for all images of a group.
            to = Each(target.buffer.start, width)
            arguments = ["arena", read.buffer.start, to, each, 1, Each(weights, each * width), Each(own, 3 * width)]
            put.call(*geometry, emulated=emulated, arguments=arguments)

    steps.step(emit, source, read, target)
    return target


def _whole(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 weights and, of each filter, what 1 stands for."""
    step = np.maximum(np.abs(kernel).max(0) / MOST[True], LEAST_SCALE).astype(np.float32)
    return np.rint(kernel / step).astype(np.int8), step
