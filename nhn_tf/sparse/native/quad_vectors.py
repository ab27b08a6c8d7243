"""Generators of the kernels that read vectors (C,) in int8: to int8, dense layers.

A 32-bit lane holds four numbers, so that 64 are a vector: the lane L of one holds numbers L, 16 + L, 32 + L and 48 + L
of those 64 (of 16 lanes). A dense layer has filters in its lanes, and multiplies each lane of its input by all of them.
"""

from __future__ import annotations

from nhn_tf.sparse.native.activations import Activation, activate
from nhn_tf.sparse.native.quads import QuadFunction


def quantize(name: str, lanes: int, *, signed: bool, emulated: bool) -> str:
    """Brings numbers to bytes: `%per` is 1 / scale of each, 0 of those behind the last. What is signed gets 128 more.

    `%last` is where the last vector of the source begins; none behind it is read.
    """
    f = QuadFunction(
        name,
        ["ptr noalias %arena", "i64 %source", "i64 %last", "i64 %target", "i64 %vectors", "ptr noalias %per"],
        lanes,
        emulated=emulated,
    )
    source, target = f.at("%arena", "%source"), f.at("%arena", "%target")
    with f.loop(0, "%vectors") as number:
        first = f.mul(number, 4 * lanes)
        values = []
        for place in range(4):
            at = f.add(first, place * lanes)
            per = f.load(f.at("%per", at))
            there = f.new(f"fcmp une {f.vector} {per}, {f.constant(0)}")
            read = f.load(f.at(source, f.least(at, "%last")))
            values.append(f.select(there, f.math("fmul", read, per), f.constant(0)))
        made = f.narrowed(values, f.constant(1), signed=signed)
        f.store_packed(f.above_zero(made) if signed else made, f.at(target, f.mul(number, lanes)))
    return str(f)


def dense(name: str, activation: Activation, vectors: int, lanes: int, *, emulated: bool) -> str:
    """activation(vector @ kernel + bias) in float32; the kernel is [blocks, lanes of the input, vectors * lanes].

    `%settings` is [blocks, 3, vectors * lanes]: the bits of the int32 that sums start from, what their 1 stands for,
    and the bias.
    """
    f = QuadFunction(
        name,
        ["ptr noalias %arena", "i64 %source", "i64 %target", "i64 %inputs", "i64 %blocks", "ptr noalias %kernel",
         "ptr noalias %settings"],
        lanes,
        emulated=emulated,
    )  # fmt: skip
    width = vectors * lanes
    source, target = f.at("%arena", "%source"), f.at("%arena", "%target")
    sums = [f.variable() for _ in range(vectors)]
    with f.loop(0, "%blocks") as block:
        first = f.mul(block, width)
        settings = f.at("%settings", f.mul(first, 3))
        for number, variable in enumerate(sums):
            f.write(variable, f.load(f.at(settings, number * lanes)))
        kernel = f.at("%kernel", f.mul(first, "%inputs"))
        with f.loop(0, "%inputs") as i:
            value = f.broadcast_packed(f.at(source, i))
            row = f.at(kernel, f.mul(i, width))
            for number, variable in enumerate(sums):
                weights = f.load_packed(f.at(row, number * lanes))
                f.write(variable, f.dot(f.read(variable), value, weights))
        for number, variable in enumerate(sums):
            factor, bias = (f.load(f.at(settings, which * width + number * lanes)) for which in (1, 2))
            total = f.multiply_add(f.whole(f.read(variable)), factor, bias)
            f.store(activate(f, total, activation), f.at(target, f.add(first, number * lanes)))
    return str(f)
