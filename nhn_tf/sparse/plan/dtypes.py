"""Which operations are computed in bfloat16 or int8, where the machine does so, and make their maps in it.

Convolutions are, where it pays, and what joins, adds up or activates their maps alone; of int8, dense layers of many
weights, too, between vectors in float32. All else computes in float32.
What reads a map in the other type than it was made in gets a copy.
"""

from __future__ import annotations

from collections.abc import Collection

from nhn_tf.sparse.native.layout import packed_layout
from nhn_tf.sparse.native.machine import Host
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.operations import Program, Shape

LEAST_FILLED = 0.5
"""Of the pixels that a plane's vectors hold, those of the map. Of emptier ones float32, which has half of them or a
quarter, is as fast, and holds filters in lanes where there are few pixels.
"""

LEAST_DENSE = 1 << 15
"""Weights of a dense layer that is computed in int8: of fewer, little is saved."""

MOST_PRODUCTS = 60_000
"""In a sum of int8: 2^31 / (255 * 127) would be too many."""

CONVERSION = 20.0
"""What bringing a number from one type to the other costs, in float32 multiply-adds."""

ROUNDS = 16
"""Of looking for convolutions that do not pay: each that is taken out makes its neighbours convert more."""


def packed(program: Program, host: Host) -> frozenset[int]:
    """The operations that are computed in the machine's narrow type; none where it computes in float32."""
    if not host.narrow:
        return frozenset()
    convs = {
        number
        for number, op in enumerate(program.ops)
        if isinstance(op, ops.Conv)
        and _fills(program.shapes[number], host)
        and len(op.mask) * op.window[0] * op.window[1] <= MOST_PRODUCTS
    }
    for _ in range(ROUNDS):
        chosen = _with_followers(program, convs)
        lost = _losses(program, convs, chosen, host.each)
        if not lost:
            break
        convs -= lost
    return frozenset(_with_followers(program, convs)) | (_dense(program) if host.narrow == "int8" else frozenset())


def _dense(program: Program) -> frozenset[int]:
    """Dense layers whose weights outweigh bringing their inputs to int8."""
    return frozenset(
        number
        for number, op in enumerate(program.ops)
        if isinstance(op, ops.Dense) and op.kernel.size >= LEAST_DENSE and len(op.kernel) <= MOST_PRODUCTS
    )


def _fills(shape: Shape, host: Host) -> bool:
    """Whether a map's pixels fill its vectors."""
    height, width, _ = shape
    grid = packed_layout(height, width, host.lanes, host.each).grid
    return height * width > LEAST_FILLED * host.each * grid.rows * grid.vectors(host.lanes) * host.lanes


def _with_followers(program: Program, convs: Collection[int]) -> set[int]:
    """These convolutions, and what reads such maps alone and needs no type of its own."""
    result = set(convs)
    for number, op in enumerate(program.ops):
        if isinstance(op, (ops.Concatenate, ops.Elementwise)) and result.issuperset(op.inputs):
            result.add(number)
    return result


def _losses(program: Program, convs: Collection[int], chosen: Collection[int], each: int) -> set[int]:
    """Convolutions that save less than the copies cost that only they need: of their multiply-adds half in bfloat16,
    three quarters in int8.
    """
    outside = set(program.outputs)  # Values that are read in float32.
    for number, op in enumerate(program.ops):
        if number not in chosen:
            outside.update(op.inputs)
    lost = set()
    for number in convs:
        op = program.ops[number]
        assert isinstance(op, ops.Conv)
        copied = [value for value in op.inputs if value not in chosen] + [number] * (number in outside)
        cost = CONVERSION * sum(ops.count(program.shapes[value]) for value in copied)
        if op.kernels.size * op.size[0] * op.size[1] * (1 - 1 / each) < cost:
            lost.add(number)
    return lost
