"""Generators of the kernels on bfloat16 and int8 maps beside convolutions: from float32 and back, ReLU, sums.

Between the types lie, for each channel, as many float32 planes as a lane has numbers: of the first pixel of each lane,
of the second, and so on. `%scales` holds for each channel what 1 stands for, and 1 / that; bfloat16 does without.
"""

from __future__ import annotations

from nhn_tf.sparse.native import numbers
from nhn_tf.sparse.native.activations import Activation, activate
from nhn_tf.sparse.native.layout import Grid
from nhn_tf.sparse.native.map_kernels import planes_of, planes_of_each_channel

_PARAMETERS = ("ptr noalias %arena", "ptr noalias %source_planes", "ptr noalias %target_planes", "i64 %channels")
_SCALES = "ptr noalias %scales"


def pack(
    name: str,
    grid: Grid,
    plane: int,
    stride: int,
    target_stride: int,
    lanes: int,
    *,
    narrow: str,
    signed: bool,
    emulated: bool,
) -> str:
    """Rounds planes, `plane` apart, to narrow numbers; what lies behind a row's last pixel is left as it is."""
    f = numbers.function(name, [*_PARAMETERS, _SCALES], lanes, narrow=narrow, emulated=emulated)
    with f.loop(0, "%channels") as channel:
        source, target = planes_of(f, channel)
        per = f.broadcast(f.at("%scales", f.add(f.mul(channel, 2), 1)))
        with f.loop(0, grid.rows) as y:
            for x in range(0, grid.columns, lanes):
                start = f.at(source, f.add(f.mul(y, stride), x))
                read = [f.load(f.at(start, place * plane)) for place in range(f.each)]
                to = f.at(target, f.add(f.mul(y, target_stride), x))
                f.store(f.as_float(f.narrowed(read, per, signed=signed)), to, grid.columns - x)
    return str(f)


def unpack(
    name: str,
    grid: Grid,
    stride: int,
    plane: int,
    target_stride: int,
    lanes: int,
    *,
    narrow: str,
    signed: bool,
    emulated: bool,
) -> str:
    """The pixels of each lane to planes, `plane` apart."""
    f = numbers.function(name, [*_PARAMETERS, _SCALES], lanes, narrow=narrow, emulated=emulated)
    with f.loop(0, "%channels") as channel:
        source, target = planes_of(f, channel)
        scale = f.broadcast(f.at("%scales", f.mul(channel, 2)))
        with f.loop(0, grid.rows) as y:
            for x in range(0, grid.columns, lanes):
                read = f.load_packed(f.at(source, f.add(f.mul(y, stride), x)))
                to = f.at(target, f.add(f.mul(y, target_stride), x))
                for place in range(f.each):
                    value = f.widened(read, place, scale, signed=signed)
                    f.store(value, f.at(to, place * plane), grid.columns - x)
    return str(f)


def relu(name: str, rows: int, lines: int, stride: int, lanes: int, *, narrow: str, emulated: bool) -> str:
    """Maps without their negative numbers, in the same layout."""
    f = numbers.function(name, _PARAMETERS, lanes, narrow=narrow, emulated=emulated)
    with planes_of_each_channel(f) as (source, target), f.loop(0, rows) as y, f.turns(lines) as line:
        place = f.add(f.mul(y, stride), f.mul(line, lanes))
        f.store_packed(f.positive(f.load_packed(f.at(source, place))), f.at(target, place))
    return str(f)


def elementwise_packed(
    name: str,
    rows: int,
    lines: int,
    stride: int,
    inputs: int,
    lanes: int,
    *,
    affine: bool,
    activation: Activation,
    masked: bool,
    narrow: str,
    signed: bool,
    emulated: bool,
) -> str:
    """As `map_kernels.elementwise`, in float32, with what lies behind a row's last pixel kept at 0 by `%masks`.

    `%factors` holds, for each channel, scale and shift; `%scales` those of the inputs and of the map that is made,
    [inputs + 1, channels, 2].
    """
    f = numbers.function(
        name, [*_PARAMETERS, "ptr noalias %factors", "ptr noalias %masks", _SCALES], lanes, narrow=narrow,
        emulated=emulated,
    )  # fmt: skip
    with f.loop(0, "%channels") as channel:
        places = [f.add(f.mul("%channels", number), channel) for number in range(inputs + 1)]
        sources = [f.at("%arena", f.index("%source_planes", place)) for place in places[:-1]]
        units = [f.broadcast(f.at("%scales", f.mul(place, 2))) for place in places[:-1]]
        per = f.broadcast(f.at("%scales", f.add(f.mul(places[-1], 2), 1)))
        target = f.at("%arena", f.index("%target_planes", channel))
        if affine:
            factors = f.at("%factors", f.mul(channel, 2))
            scale, shift = f.broadcast(factors), f.broadcast(f.at(factors, 1))
        with f.loop(0, rows) as y, f.turns(lines) as line:
            x = f.mul(line, lanes)
            place = f.add(f.mul(y, stride), x)
            read = [f.load_packed(f.at(source, place)) for source in sources]
            made = []
            for which in range(f.each):
                values = [f.widened(one, which, unit, signed=signed) for one, unit in zip(read, units, strict=True)]
                result = values[0]
                for value in values[1:]:
                    result = f.math("fadd", result, value)
                if affine:
                    result = f.multiply_add(result, scale, shift)
                made.append(activate(f, result, activation))
            packed = f.narrowed(made, per, signed=signed)
            packed = f.masked(packed, f.load_packed(f.at("%masks", x))) if masked else packed
            f.store_packed(packed, f.at(target, place))
    return str(f)
