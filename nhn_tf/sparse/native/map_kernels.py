"""Generators of the kernels that read maps and are no convolutions: pools, sums, activations.

Each function returns the LLVM IR of one kernel, made for one geometry; where planes lie is data. Names in kernels:
`%arena` is the float32 memory in which all maps of one image lie; tables of int32 give, for each channel, the arena's
element at which the channel's first pixel lies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from nhn_tf.sparse.native.activations import Activation, activate
from nhn_tf.sparse.native.convolution import Tap
from nhn_tf.sparse.native.emitter import Function, Value
from nhn_tf.sparse.native.layout import Grid


def pool(
    name: str, kind: str, grid: Grid, taps: Sequence[Tap], source_stride: int, target_stride: int, lanes: int
) -> str:
    """The largest or the average value of each window.

    `%shares` holds, for an average, 1 / (pixels in the window) of every output: [rows, vectors, lanes].
    """
    f = Function(
        name,
        ["ptr noalias %arena", "ptr noalias %source_planes", "ptr noalias %target_planes", "i64 %channels",
         "ptr noalias %shares"],
        lanes,
    )  # fmt: skip
    with (
        planes_of_each_channel(f) as (source, target),
        f.loop(0, grid.rows) as y,
        vectors_of_a_row(f, grid) as (number, start),
    ):
        place = f.at(source, f.add(f.mul(y, source_stride), start))
        values = [f.load(f.at(place, tap.row * source_stride + tap.column)) for tap in taps]
        result = values[0]
        for value in values[1:]:
            result = f.largest(result, value) if kind == "max" else f.math("fadd", result, value)
        if kind == "average":
            share = f.mul(f.add(f.mul(y, grid.vectors(lanes)), number), lanes)
            result = f.math("fmul", result, f.load(f.at("%shares", share)))
        f.store(result, f.at(target, f.add(f.mul(y, target_stride), start)), grid.columns)
    return str(f)


@contextlib.contextmanager
def planes_of_each_channel(
    f: Function, source: Value = "%arena", target: Value = "%arena"
) -> Iterator[tuple[Value, Value]]:
    """A channel's first pixel in the source and in the target, by `%source_planes` and `%target_planes`."""
    with f.loop(0, "%channels") as channel:
        yield planes_of(f, channel, source, target)


def planes_of(f: Function, channel: Value, source: Value = "%arena", target: Value = "%arena") -> tuple[Value, Value]:
    """The same of one channel."""
    return f.at(source, f.index("%source_planes", channel)), f.at(target, f.index("%target_planes", channel))


@contextlib.contextmanager
def vectors_of_a_row(f: Function, grid: Grid) -> Iterator[tuple[Value, Value]]:
    """Number and first column of each vector; a loop, since unrolling wide maps would take LLVM long."""
    with f.loop(0, grid.vectors(f.lanes)) as number:
        yield number, f.least(f.mul(number, f.lanes), max(grid.columns - f.lanes, 0))


def elementwise(
    name: str, grid: Grid, stride: int, inputs: int, *, affine: bool, activation: Activation, lanes: int
) -> str:
    """activation(scale * (sum of maps) + shift), with `%factors` [channels, 2] of scale and shift.

    `%source_planes` is [inputs, channels].
    """
    f = Function(
        name,
        ["ptr noalias %arena", "ptr noalias %source_planes", "ptr noalias %target_planes", "i64 %channels",
         "ptr noalias %factors"],
        lanes,
    )  # fmt: skip
    with f.loop(0, "%channels") as channel:
        sources = []
        for number in range(inputs):
            place = f.add(f.mul("%channels", number), channel)
            sources.append(f.at("%arena", f.index("%source_planes", place)))
        target = f.at("%arena", f.index("%target_planes", channel))
        if affine:
            factors = f.at("%factors", f.mul(channel, 2))
            scale, shift = f.broadcast(factors), f.broadcast(f.at(factors, 1))
        with f.loop(0, grid.rows) as y, vectors_of_a_row(f, grid) as (_, start):
            place = f.add(f.mul(y, stride), start)
            values = [f.load(f.at(source, place)) for source in sources]
            result = values[0]
            for value in values[1:]:
                result = f.math("fadd", result, value)
            if affine:
                result = f.multiply_add(result, scale, shift)
            f.store(activate(f, result, activation), f.at(target, place), grid.columns)
    return str(f)


def global_pool(name: str, kind: str, grid: Grid, stride: int, *, per_channel: bool, lanes: int) -> str:
    """Each channel's map as one number: the sum of map times weights, or its largest value.

    `%weights` and `%counted` (1 where a lane holds a pixel that no earlier vector had, else 0) are
    [rows, vectors, lanes], the weights for each channel or once for all.
    """
    f = Function(
        name,
        ["ptr noalias %arena", "ptr noalias %source_planes", "i64 %target", "i64 %channels", "ptr noalias %weights",
         "ptr noalias %counted"],
        lanes,
    )  # fmt: skip
    table = grid.rows * grid.vectors(lanes) * lanes
    neutral = f.constant(float("-inf") if kind == "max" else 0.0)
    result = f.variable()
    with f.loop(0, "%channels") as channel:
        source = f.at("%arena", f.index("%source_planes", channel))
        weights = f.at("%weights", f.mul(channel, table)) if per_channel else "%weights"
        f.write(result, neutral)
        with f.loop(0, grid.rows) as y, vectors_of_a_row(f, grid) as (number, start):
            place = f.mul(f.add(f.mul(y, grid.vectors(lanes)), number), lanes)
            counts = f.new(f"fcmp une {f.vector} {f.load(f.at('%counted', place))}, {f.constant(0)}")
            pixels = f.load(f.at(source, f.add(f.mul(y, stride), start)))
            value, so_far = f.select(counts, pixels, neutral), f.read(result)
            if kind == "max":
                f.write(result, f.largest(so_far, value))
            else:
                f.write(result, f.multiply_add(value, f.load(f.at(weights, place)), so_far))
        total = f.reduce("fmaximum" if kind == "max" else "fadd", f.read(result))
        f.do(f"store float {total}, ptr {f.at('%arena', f.add('%target', channel))}, align 4")
    return str(f)
