"""Generators of the kernels on bfloat16 maps beside convolutions: from float32 and back, ReLU, sums and activations.

Between the types lie, for each channel, two float32 planes: of the first and of the second pixel of each pair.
"""

from __future__ import annotations

from nhn_tf.sparse.native.activations import Activation, activate
from nhn_tf.sparse.native.layout import Grid
from nhn_tf.sparse.native.map_kernels import planes_of_each_channel
from nhn_tf.sparse.native.pairs import PairFunction, interleaved

_PARAMETERS = ("ptr noalias %arena", "ptr noalias %source_planes", "ptr noalias %target_planes", "i64 %channels")


def pack(name: str, grid: Grid, plane: int, stride: int, target_stride: int, lanes: int, *, emulated: bool) -> str:
    """Rounds both planes, `plane` apart, to pairs; what lies behind a row's last pixel is left as it is."""
    f = PairFunction(name, _PARAMETERS, lanes, emulated=emulated)
    with planes_of_each_channel(f) as (source, target), f.loop(0, grid.rows) as y:
        for x in range(0, grid.columns, lanes):
            start = f.at(source, f.add(f.mul(y, stride), x))
            pairs = f.rounded(f.load(start), f.load(f.at(start, plane)), interleaved(lanes))
            to = f.at(target, f.add(f.mul(y, target_stride), x))
            f.store(f.as_float(pairs), to, grid.columns - x)
    return str(f)


def unpack(name: str, grid: Grid, stride: int, plane: int, target_stride: int, lanes: int, *, emulated: bool) -> str:
    """The pixels of each pair to both planes, `plane` apart."""
    f = PairFunction(name, _PARAMETERS, lanes, emulated=emulated)
    with planes_of_each_channel(f) as (source, target), f.loop(0, grid.rows) as y:
        for x in range(0, grid.columns, lanes):
            pairs = f.load_pairs(f.at(source, f.add(f.mul(y, stride), x)))
            to = f.at(target, f.add(f.mul(y, target_stride), x))
            for half in (0, 1):
                f.store(f.widened(pairs, half), f.at(to, half * plane), grid.columns - x)
    return str(f)


def relu(name: str, rows: int, lines: int, stride: int, lanes: int, *, emulated: bool) -> str:
    """Maps without their negative numbers, in the same layout."""
    f = PairFunction(name, _PARAMETERS, lanes, emulated=emulated)
    with planes_of_each_channel(f) as (source, target), f.loop(0, rows) as y, f.turns(lines) as line:
        place = f.add(f.mul(y, stride), f.mul(line, lanes))
        f.store_pairs(f.positive(f.load_pairs(f.at(source, place))), f.at(target, place))
    return str(f)


def elementwise_pairs(
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
    emulated: bool,
) -> str:
    """As `map_kernels.elementwise`, in float32, with what lies behind a row's last pixel kept at 0 by `%masks`."""
    f = PairFunction(name, [*_PARAMETERS, "ptr noalias %factors", "ptr noalias %masks"], lanes, emulated=emulated)
    with f.loop(0, "%channels") as channel:
        places = [f.add(f.mul("%channels", number), channel) for number in range(inputs)]
        sources = [f.at("%arena", f.index("%source_planes", place)) for place in places]
        target = f.at("%arena", f.index("%target_planes", channel))
        if affine:
            factors = f.at("%factors", f.mul(channel, 2))
            scale, shift = f.broadcast(factors), f.broadcast(f.at(factors, 1))
        with f.loop(0, rows) as y, f.turns(lines) as line:
            x = f.mul(line, lanes)
            place = f.add(f.mul(y, stride), x)
            read = [f.load_pairs(f.at(source, place)) for source in sources]
            made = []
            for half in (0, 1):
                result = f.widened(read[0], half)
                for pairs in read[1:]:
                    result = f.math("fadd", result, f.widened(pairs, half))
                if affine:
                    result = f.multiply_add(result, scale, shift)
                made.append(activate(f, result, activation))
            pairs = f.rounded(made[0], made[1], interleaved(lanes))
            pairs = f.masked(pairs, f.load_pairs(f.at("%masks", x))) if masked else pairs
            f.store_pairs(pairs, f.at(target, place))
    return str(f)
