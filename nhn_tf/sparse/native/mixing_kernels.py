"""Generators of the kernels in which values meet: maps of several shapes, the channels of a pixel, pixels of a map.

They are made for one geometry, as those in `map_kernels`; simple loops, since networks spend little time in them.
A vector is a row of one plane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from nhn_tf.sparse.native.activations import exp
from nhn_tf.sparse.native.emitter import Function, Value
from nhn_tf.sparse.native.layout import Grid
from nhn_tf.sparse.native.map_kernels import planes_of_each_channel, vectors_of_a_row

_PLANES: Final = ("ptr noalias %arena", "ptr noalias %source_planes", "ptr noalias %target_planes", "i64 %channels")


COMBINING: Final[Mapping[str, Callable[[Function, Value, Value], Value]]] = {
    "sum": lambda f, a, b: f.math("fadd", a, b),
    "product": lambda f, a, b: f.math("fmul", a, b),
    "quotient": lambda f, a, b: f.math("fdiv", a, b),
    "maximum": lambda f, a, b: f.largest(a, b),
    "minimum": lambda f, a, b: f.call("minimum", a, b),
}


def combine(name: str, kind: str, grid: Grid, stride: int, spread: Sequence[bool], lanes: int) -> str:
    """Maps, one after another, element by element; of those that are `spread` one number for each channel.

    `%source_planes` is [inputs, channels].
    """
    f = Function(name, _PLANES, lanes)
    with f.loop(0, "%channels") as channel:
        places = [f.add(f.mul("%channels", number), channel) for number in range(len(spread))]
        sources = [f.at("%arena", f.index("%source_planes", place)) for place in places]
        target = f.at("%arena", f.index("%target_planes", channel))
        with f.loop(0, grid.rows) as y, vectors_of_a_row(f, grid) as (_, start):
            place = f.add(f.mul(y, stride), start)
            values = [
                f.broadcast(source) if once else f.load(f.at(source, place))
                for source, once in zip(sources, spread, strict=True)
            ]
            result = values[0]
            for value in values[1:]:
                result = COMBINING[kind](f, result, value)
            f.store(result, f.at(target, place), grid.columns)
    return str(f)


def normalize_pixels(name: str, grid: Grid, stride: int, *, center: bool, lanes: int) -> str:
    """(x - mean) / sqrt(variance + epsilon) over the channels of each pixel; `%numbers`: 1 / channels, epsilon."""
    f = Function(name, [*_PLANES, "ptr noalias %numbers"], lanes)
    share, epsilon = f.broadcast("%numbers"), f.broadcast(f.at("%numbers", 1))
    total = f.variable()
    with f.loop(0, grid.rows) as y, vectors_of_a_row(f, grid) as (_, start):
        place = f.add(f.mul(y, stride), start)
        mean = f.constant(0)
        if center:
            f.write(total, f.constant(0))
            with f.loop(0, "%channels") as channel:
                f.write(total, f.math("fadd", f.read(total), _value(f, "%source_planes", channel, place)))
            mean = f.math("fmul", f.read(total), share)
        f.write(total, f.constant(0))
        with f.loop(0, "%channels") as channel:
            off = f.math("fsub", _value(f, "%source_planes", channel, place), mean)
            f.write(total, f.multiply_add(off, off, f.read(total)))
        scale = _inverse_root(f, f.multiply_add(f.read(total), share, epsilon))
        with f.loop(0, "%channels") as channel:
            off = f.math("fsub", _value(f, "%source_planes", channel, place), mean)
            target = f.at("%arena", f.index("%target_planes", channel))
            f.store(f.math("fmul", off, scale), f.at(target, place), grid.columns)
    return str(f)


def _value(f: Function, planes: Value, channel: Value, place: Value) -> Value:
    return f.load(f.at(f.at("%arena", f.index(planes, channel)), place))


def _inverse_root(f: Function, value: Value) -> Value:
    return f.math("fdiv", f.constant(1), f.call("sqrt", value))


def softmax_pixels(name: str, grid: Grid, stride: int, lanes: int) -> str:
    """exp(x - max) / sum over the channels of each pixel."""
    f = Function(name, _PLANES, lanes)
    largest, total = f.variable(), f.variable()
    with f.loop(0, grid.rows) as y, vectors_of_a_row(f, grid) as (_, start):
        place = f.add(f.mul(y, stride), start)
        f.write(largest, f.constant(float("-inf")))
        with f.loop(0, "%channels") as channel:
            f.write(largest, f.largest(f.read(largest), _value(f, "%source_planes", channel, place)))
        f.write(total, f.constant(0))
        with f.loop(0, "%channels") as channel:
            power = exp(f, f.math("fsub", _value(f, "%source_planes", channel, place), f.read(largest)))
            target = f.at("%arena", f.index("%target_planes", channel))
            f.store(power, f.at(target, place), grid.columns)
            f.write(total, f.math("fadd", f.read(total), power))
        with f.loop(0, "%channels") as channel:
            target = f.at(f.at("%arena", f.index("%target_planes", channel)), place)
            f.store(f.math("fdiv", f.load(target), f.read(total)), target, grid.columns)
    return str(f)


def normalize_groups(name: str, grid: Grid, stride: int, *, center: bool, lanes: int) -> str:
    """(x - mean) / sqrt(variance + epsilon) over all pixels of each group of `%size` channels.

    `%numbers`: 1 / (numbers of a group), epsilon. `%counted` [rows, vectors, lanes] is 1 where a lane holds a pixel
    that no earlier vector had, else 0.
    """
    f = Function(name, [*_PLANES, "i64 %size", "ptr noalias %numbers", "ptr noalias %counted"], lanes)
    share, epsilon = f.broadcast("%numbers"), f.broadcast(f.at("%numbers", 1))
    total, part = f.variable(), f.variable()

    def summed(first: Value, mean: Value, *, squares: bool) -> Value:
        """Over a group: a channel's sum by itself, which rounds less."""
        f.write(total, f.constant(0))
        with f.loop(first, f.add(first, "%size")) as channel:
            f.write(part, f.constant(0))
            with f.loop(0, grid.rows) as y, vectors_of_a_row(f, grid) as (number, start):
                counted = f.at("%counted", f.mul(f.add(f.mul(y, grid.vectors(lanes)), number), lanes))
                counts = f.new(f"fcmp une {f.vector} {f.load(counted)}, {f.constant(0)}")
                off = f.math("fsub", _value(f, "%source_planes", channel, f.add(f.mul(y, stride), start)), mean)
                value = f.math("fmul", off, off) if squares else off
                f.write(part, f.math("fadd", f.read(part), f.select(counts, value, f.constant(0))))
            f.write(total, f.math("fadd", f.read(total), f.read(part)))
        return f.splat(f.reduce("fadd", f.read(total)))

    with f.loop(0, "%channels") as group:
        first = f.mul(group, "%size")
        mean = f.math("fmul", summed(first, f.constant(0), squares=False), share) if center else f.constant(0)
        scale = _inverse_root(f, f.multiply_add(summed(first, mean, squares=True), share, epsilon))
        with f.loop(first, f.add(first, "%size")) as channel:
            target = f.at("%arena", f.index("%target_planes", channel))
            with f.loop(0, grid.rows) as y, vectors_of_a_row(f, grid) as (_, start):
                place = f.add(f.mul(y, stride), start)
                off = f.math("fsub", _value(f, "%source_planes", channel, place), mean)
                f.store(f.math("fmul", off, scale), f.at(target, place), grid.columns)
    return str(f)


def resample(name: str, terms: int, lanes: int) -> str:
    """Each line of pixels, a row or a column, as a weighted sum of `terms` lines of the source.

    `%to` [lines], `%from` and `%weights` [lines, terms] tell offsets of lines and factors; `%along` [count, 2] those of
    a line's pixels, in the target and in the source.
    """
    f = Function(
        name,
        [*_PLANES, "ptr noalias %to", "ptr noalias %from", "ptr noalias %weights", "i64 %lines", "ptr noalias %along",
         "i64 %count"],
        lanes,
    )  # fmt: skip
    with planes_of_each_channel(f) as (source, target), f.loop(0, "%lines") as line:
        entries = [f.add(f.mul(line, terms), term) for term in range(terms)]
        weights = [f.new(f"load float, ptr {f.at('%weights', entry)}, align 4") for entry in entries]
        read = [f.at(source, f.index("%from", entry)) for entry in entries]
        to = f.at(target, f.index("%to", line))
        with f.loop(0, "%count") as pixel:
            place = f.index("%along", f.add(f.mul(pixel, 2), 1))
            total = "0.0"
            for start, weight in zip(read, weights, strict=True):
                value = f.new(f"load float, ptr {f.at(start, place)}, align 4")
                total = f.new(f"fadd float {total}, {f.new(f'fmul float {value}, {weight}')}")
            f.do(f"store float {total}, ptr {f.at(to, f.index('%along', f.mul(pixel, 2)))}, align 4")
    return str(f)
