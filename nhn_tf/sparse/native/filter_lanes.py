"""The generator of dense convolutions of few pixels, whose vectors hold filters instead of pixels.

A map of 3x3 fills 9 of the 32 lanes that its rows take. Here a vector holds the same pixel of neighbouring output
channels, so that lanes are full whatever the map's size, and what a window reads beyond the border is left out. The
cost: results must be brought back to planes, one by one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from nhn_tf.sparse.native.activations import Activation, activate
from nhn_tf.sparse.native.convolution import WEIGHTS_AHEAD
from nhn_tf.sparse.native.emitter import Function, Value
from nhn_tf.sparse.native.layout import LINE

Reads = tuple[tuple[int, int], ...]
"""What a pixel reads: places in the window, and how far from an input plane's first pixel each lies."""


@dataclasses.dataclass(frozen=True)
class FilterGeometry:
    """All that the code depends on.

    Attributes:
      taps: of the window.
      reads: of each pixel.
      target: where each pixel lies, from an output plane's first.
      target_plane: from output channel to output channel.
      filters: output channels of a group; their weights are filled up with zeros to whole vectors.
      pixels: that are computed at a time, in registers.
      segment: input channels whose products are summed up by themselves.
      relu_input: whether negative inputs count as 0.
      activation: of the output.
    """

    taps: int
    reads: tuple[Reads, ...]
    target: tuple[int, ...]
    target_plane: int
    filters: int
    pixels: int
    segment: int
    relu_input: bool
    activation: Activation


def filter_lanes(name: str, geometry: FilterGeometry, lanes: int) -> str:
    """A convolution over lists of input planes, as `convolution`'s; weights are [entries, taps, filters filled up].

    Some pixels at a time, all input planes of the group are added to sums [pixel, vector of filters]. A weight vector
    serves all these pixels, a pixel's value all vectors.
    """
    vectors = -(-geometry.filters // lanes)
    width = vectors * lanes
    count = len(geometry.reads)
    f = Function(
        name,
        ["ptr noalias %arena", "ptr noalias %starts", "ptr noalias %planes", "ptr noalias %weights",
         "ptr noalias %bias", "i64 %target", "i64 %groups"],
        lanes,
    )  # fmt: skip
    totals = f.memory(geometry.pixels * width)
    sums = {(pixel, vector): f.variable() for pixel in range(geometry.pixels) for vector in range(vectors)}
    with f.loop(0, "%groups") as group:
        target = f.at("%arena", f.add("%target", f.mul(group, geometry.filters * geometry.target_plane)))
        start, stop = f.index("%starts", group), f.index("%starts", f.add(group, 1))
        for tile in range(0, count, geometry.pixels):
            places = range(min(tile, count - geometry.pixels), min(tile, count - geometry.pixels) + geometry.pixels)
            for vector in range(vectors):
                bias = f.load(f.at("%bias", f.add(f.mul(group, width), vector * lanes)))
                for pixel in range(geometry.pixels):
                    f.store(bias, f.at(totals, pixel * width + vector * lanes))
            with f.loop(start, stop, geometry.segment) as first:
                for variable in sums.values():
                    f.write(variable, f.constant(0))
                with f.loop(first, f.least(f.add(first, geometry.segment), stop)) as entry:
                    plane = f.at("%arena", f.index("%planes", entry))
                    weights = f.at("%weights", f.mul(entry, geometry.taps * width))
                    for line in range(0, geometry.taps * width, LINE):
                        f.prefetch(f.at(weights, WEIGHTS_AHEAD + line))
                    _add_plane(f, geometry, places, plane, weights, vectors, sums)
                for (pixel, vector), variable in sums.items():
                    total = f.at(totals, pixel * width + vector * lanes)
                    f.store(f.math("fadd", f.load(total), f.read(variable)), total)
            for pixel, vector in sums:
                total = f.at(totals, pixel * width + vector * lanes)
                f.store(activate(f, f.load(total), geometry.activation), total)
            with f.loop(0, geometry.filters) as filter_:
                channel = f.at(target, f.mul(filter_, geometry.target_plane))
                for pixel, place in enumerate(places):
                    number = f.new(f"load float, ptr {f.at(totals, f.add(filter_, pixel * width))}, align 4")
                    f.do(f"store float {number}, ptr {f.at(channel, geometry.target[place])}, align 4")
    return str(f)


def _add_plane(
    f: Function,
    geometry: FilterGeometry,
    places: Sequence[int],
    plane: Value,
    weights: Value,
    vectors: int,
    sums: dict[tuple[int, int], Value],
) -> None:
    """Adds what some pixels read of one input plane to their sums, one tap of the window after another."""
    seen: dict[int, Value] = {}
    for tap in range(geometry.taps):
        readers = [(p, at) for p, place in enumerate(places) for number, at in geometry.reads[place] if number == tap]
        if not readers:
            continue
        held = [f.load(f.at(weights, (tap * vectors + vector) * f.lanes)) for vector in range(vectors)]
        for pixel, at in readers:
            if at not in seen:
                value = f.broadcast(f.at(plane, at))
                seen[at] = f.larger(value, f.constant(0)) if geometry.relu_input else value
            for vector in range(vectors):
                variable = sums[pixel, vector]
                f.write(variable, f.multiply_add(held[vector], seen[at], f.read(variable)))
