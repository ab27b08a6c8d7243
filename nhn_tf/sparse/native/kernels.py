"""Generators of all kernels but convolutions.

Each function returns the LLVM IR of one kernel, made for one geometry; where planes lie is data. Names in kernels:
`%arena` is the float32 memory in which all maps of one image lie; tables of int32 give, for each channel, the arena's
element at which the channel's first pixel lies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from nhn_tf.sparse.native.activations import Activation, activate, exp
from nhn_tf.sparse.native.convolution import Tap
from nhn_tf.sparse.native.emitter import Function, Value
from nhn_tf.sparse.native.layout import Grid


def copy(name: str, source_step: int, target_step: int, lanes: int) -> str:
    """Copies rows of every channel; the steps are from one value of a row to the next.

    `rows` holds (target offset, source offset, count) for each row, from the channel's first pixel.
    """
    f = Function(
        name,
        ["ptr noalias %source", "ptr noalias %target", "ptr noalias %source_planes", "ptr noalias %target_planes",
         "i64 %channels", "ptr noalias %rows", "i64 %count"],
        lanes,
    )  # fmt: skip
    with f.loop(0, "%channels") as channel:
        source = f.at("%source", f.index("%source_planes", channel))
        target = f.at("%target", f.index("%target_planes", channel))
        with f.loop(0, "%count") as row:
            entry = f.at("%rows", f.mul(row, 3), "i32")
            to, start, count = f.at(target, f.index(entry)), f.at(source, f.index(entry, 1)), f.index(entry, 2)
            with f.loop(0, count) as x:
                value = f.new(f"load float, ptr {f.at(start, f.mul(x, source_step))}, align 4")
                f.do(f"store float {value}, ptr {f.at(to, f.mul(x, target_step))}, align 4")
    return str(f)


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
    with f.loop(0, "%channels") as channel:
        source = f.at("%arena", f.index("%source_planes", channel))
        target = f.at("%arena", f.index("%target_planes", channel))
        with f.loop(0, grid.rows) as y, _vectors_of_a_row(f, grid) as (number, start):
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
def _vectors_of_a_row(f: Function, grid: Grid) -> Iterator[tuple[Value, Value]]:
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
        with f.loop(0, grid.rows) as y, _vectors_of_a_row(f, grid) as (_, start):
            place = f.add(f.mul(y, stride), start)
            values = [f.load(f.at(source, place)) for source in sources]
            result = values[0]
            for value in values[1:]:
                result = f.math("fadd", result, value)
            if affine:
                result = f.multiply_add(result, scale, shift)
            f.store(activate(f, result, activation), f.at(target, place), grid.columns)
    return str(f)


def elementwise_vector(name: str, inputs: int, *, affine: bool, activation: Activation, lanes: int) -> str:
    """The same for vectors (C,), which fill whole registers: `%factors` is [2, C], C rounded up."""
    f = Function(
        name,
        ["ptr noalias %arena", "ptr noalias %sources", "i64 %target", "i64 %size", "ptr noalias %factors"],
        lanes,
    )
    sources = [f.at("%arena", f.index("%sources", number)) for number in range(inputs)]
    target = f.at("%arena", "%target")
    with f.loop(0, "%size", lanes) as i:
        values = [f.load(f.at(source, i)) for source in sources]
        result = values[0]
        for value in values[1:]:
            result = f.math("fadd", result, value)
        if affine:
            scale, shift = f.load(f.at("%factors", i)), f.load(f.at("%factors", f.add(i, "%size")))
            result = f.multiply_add(result, scale, shift)
        f.store(activate(f, result, activation), f.at(target, i))
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
        with f.loop(0, grid.rows) as y, _vectors_of_a_row(f, grid) as (number, start):
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


def dense(name: str, activation: Activation, vectors: int, lanes: int) -> str:
    """activation(vector @ kernel + bias); the kernel is [blocks, inputs, vectors * lanes], filled up with zeros."""
    f = Function(
        name,
        ["ptr noalias %arena", "i64 %source", "i64 %target", "i64 %inputs", "i64 %blocks", "ptr noalias %kernel",
         "ptr noalias %bias"],
        lanes,
    )  # fmt: skip
    width = vectors * lanes
    source, target = f.at("%arena", "%source"), f.at("%arena", "%target")
    sums = [f.variable() for _ in range(vectors)]
    with f.loop(0, "%blocks") as block:
        first = f.mul(block, width)
        for number, variable in enumerate(sums):
            f.write(variable, f.load(f.at("%bias", f.add(first, number * lanes))))
        kernel = f.at("%kernel", f.mul(f.mul(block, width), "%inputs"))
        with f.loop(0, "%inputs") as i:
            value = f.broadcast(f.at(source, i))
            row = f.at(kernel, f.mul(i, width))
            for number, variable in enumerate(sums):
                f.write(variable, f.multiply_add(value, f.load(f.at(row, number * lanes)), f.read(variable)))
        for number, variable in enumerate(sums):
            f.store(activate(f, f.read(variable), activation), f.at(target, f.add(first, number * lanes)))
    return str(f)


def softmax(name: str, lanes: int) -> str:
    """exp(x - max) / sum; `%outside` [size] is 0 for the vector's numbers and -infinity in the lanes behind them."""
    f = Function(name, ["ptr noalias %arena", "i64 %source", "i64 %target", "i64 %size", "ptr noalias %outside"], lanes)
    source, target = f.at("%arena", "%source"), f.at("%arena", "%target")
    largest, total = f.variable(), f.variable()

    def logits(i: Value) -> Value:
        outside = f.load(f.at("%outside", i))
        inside = f.new(f"fcmp oeq {f.vector} {outside}, {f.constant(0)}")
        return f.select(inside, f.load(f.at(source, i)), outside)

    f.write(largest, f.constant(float("-inf")))
    with f.loop(0, "%size", lanes) as i:
        f.write(largest, f.largest(f.read(largest), logits(i)))
    top = f.splat(f.reduce("fmaximum", f.read(largest)))
    f.write(total, f.constant(0))
    with f.loop(0, "%size", lanes) as i:
        value = logits(i)
        inside = f.new(f"fcmp une {f.vector} {value}, {f.constant(float('-inf'))}")
        power = f.select(inside, exp(f, f.math("fsub", value, top)), f.constant(0))
        f.store(power, f.at(target, i))
        f.write(total, f.math("fadd", f.read(total), power))
    whole = f.splat(f.reduce("fadd", f.read(total)))
    with f.loop(0, "%size", lanes) as i:
        place = f.at(target, i)
        f.store(f.math("fdiv", f.load(place), whole), place)
    return str(f)
