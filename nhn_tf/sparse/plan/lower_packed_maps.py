"""Steps for bfloat16 and int8 maps beside convolutions: from float32 and back, ReLU, sums and activations."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from nhn_tf.sparse.native import packed_maps
from nhn_tf.sparse.native.activations import Activation
from nhn_tf.sparse.native.layout import LINE, Layout, PackedLayout
from nhn_tf.sparse.plan.memory import Buffer, Planes
from nhn_tf.sparse.plan.steps import Steps
from nhn_tf.sparse.plan.tables import Each, moved
from nhn_tf.sparse.program import operations as ops

POSITIVE = ("relu", "relu6")
"""Activations after which nothing is below 0."""


MIDDLE = 1 << 12
"""float32 values between the types at a time, 16 KiB: they stay in the first cache level."""


def narrow(steps: Steps, number: int, source: Planes) -> Planes:
    """The map of operation `number` in the narrow type."""
    target = steps.new_packed(number)
    layout, pixels = packed_of(target), source.layout.grid.parts
    between = Layout(layout.grid)
    rows = [
        (row + place * between.plane, source.layout.row(y) + place * pixels, count)
        for y, row, place, count in _places(layout, between)
    ]
    copy = steps.copy_call(rows, (layout.each * pixels, between.grid.parts))
    geometry = (between.grid, between.plane, between.stride, layout.stride)

    def emit(places: Any, middle: Any, made: Any, channels: int, scales: Any) -> None:
        copy("arena", "arena", places, middle, channels)
        arguments = ["arena", middle, made, channels, scales]
        steps.tables.call(packed_maps.pack, *geometry, signed=layout.signed, **steps.narrow, arguments=arguments)

    written = tuple(sorted((to, count) for to, _, count in rows))
    _by_channels(steps, between, written, emit, source, target, steps.scales_of(target))
    return target


def widen(steps: Steps, number: int, source: Planes) -> Planes:
    """The map of operation `number` in float32."""
    target = steps.new_planes(number)
    layout, pixels = packed_of(source), target.layout.grid.parts
    between = Layout(layout.grid)
    rows = [
        (target.layout.row(y) + place * pixels, row + place * between.plane, count)
        for y, row, place, count in _places(layout, between)
    ]
    copy = steps.copy_call(rows, (between.grid.parts, layout.each * pixels))
    geometry = (between.grid, layout.stride, between.plane, between.stride)

    def emit(places: Any, middle: Any, made: Any, channels: int, scales: Any) -> None:
        arguments = ["arena", places, middle, channels, scales]
        steps.tables.call(packed_maps.unpack, *geometry, signed=layout.signed, **steps.narrow, arguments=arguments)
        copy("arena", "arena", middle, made, channels)

    _by_channels(steps, between, "whole rows", emit, source, target, steps.scales_of(source))
    return target


def packed_of(planes: Planes) -> PackedLayout:
    """The layout of a map that is in the narrow type."""
    if not isinstance(planes.layout, PackedLayout):
        raise TypeError(f"the map must be packed. Received: {planes.layout}.")
    return planes.layout


def _places(layout: PackedLayout, between: Layout) -> list[tuple[int, int, int, int]]:
    """(row of the map, its place in a plane of first, second .. pixels, 0, 1 .. for these, how many pixels)."""
    return [
        (y, between.row(y), place, (layout.width + layout.each - 1 - place) // layout.each)
        for y in range(layout.grid.height)
        for place in range(min(layout.each, layout.width))
    ]


def _by_channels(
    steps: Steps,
    between: Layout,
    written: Hashable,
    emit_one: Callable[[Any, Any, Any, int, Any], None],
    source: Planes,
    target: Planes,
    scales: np.ndarray,
) -> None:
    """A step that brings some channels after others through planes of first, of second .. pixels.

    `written` tells apart which places between are. `emit_one` writes down the calls for so many channels, given the
    tables of where they lie before, between and after, and their scales.
    """
    each = steps.host.each
    share = max(min(MIDDLE // (each * between.plane), source.channels), 1)
    buffer = steps.new_filled(between, share, each, 0.0, written)
    middle = Planes(between, ((buffer, 0, share),), step=each)

    def emit() -> None:
        put = steps.tables
        tables = [put.indices(planes.origins()) for planes in (source, middle, target)]
        units = put.constants(scales)
        whole = source.channels - source.channels % share
        with put.repeated(whole // share):
            emit_one(Each(tables[0], share), tables[1], Each(tables[2], share), share, Each(units, 2 * share))
        if whole < source.channels:
            left = source.channels - whole
            emit_one(moved(tables[0], whole), tables[1], moved(tables[2], whole), left, moved(units, 2 * whole))

    steps.step(emit, source, middle, target)


def lower_elementwise(steps: Steps, number: int, op: ops.Elementwise, *sources: Planes) -> Planes:
    target = steps.new_packed(number)
    if op.activation in POSITIVE:
        steps.positive.update(target.buffers)
    channels = target.channels
    layout, masks = target.layout, masks_of(packed_of(target))
    geometry = (layout.grid.rows, lines(layout), layout.stride, len(sources))
    options = {
        "affine": op.scale is not None, "activation": Activation(op.activation, op.slope), "masked": cuts(masks),
        "signed": packed_of(target).signed, **steps.narrow,
    }  # fmt: skip

    def emit() -> None:
        put = steps.tables
        places = put.indices(np.concatenate([source.origins() for source in sources]))
        factors = put.constants(np.stack(op.affine(channels), axis=1))
        scales = put.constants([steps.scales_of(planes) for planes in (*sources, target)])
        arguments = ["arena", places, put.indices(target.origins()), channels, factors, put.constants(masks), scales]
        put.call(packed_maps.elementwise_packed, *geometry, arguments=arguments, **options)

    steps.step(emit, *sources, target)
    return target


def relu(steps: Steps, source: Planes) -> Planes:
    """A map without its negative numbers: made once, rather than wherever a group of filters reads it, and only of
    channels that may have some.
    """
    layout = source.layout
    geometry = (layout.grid.rows, lines(layout), layout.stride)
    spans = []
    for buffer, first, count in source.spans:
        if buffer not in steps.positive and buffer not in steps.relus:
            made = steps.relus[buffer] = Buffer(buffer.kind, buffer.units)
            if buffer in steps.scales:
                steps.scales[made] = steps.scales[buffer]
            whole = [Planes(layout, ((each, 0, buffer.units),)) for each in (buffer, made)]

            def emit(read: Planes = whole[0], written: Planes = whole[1]) -> None:
                put = steps.tables
                arguments = ["arena", put.indices(read.origins()), put.indices(written.origins()), read.channels]
                put.call(packed_maps.relu, *geometry, **steps.narrow, arguments=arguments)

            steps.step(emit, *whole)
        spans.append((steps.relus.get(buffer, buffer), first, count))
    return Planes(layout, tuple(spans))


def lines(layout: Layout) -> int:
    return -(-layout.grid.columns // LINE)


def masks_of(layout: PackedLayout) -> np.ndarray:
    """[lines, lanes]: the bits of a row that belong to pixels, as float32."""
    grid, each = layout.grid, layout.each
    column = np.arange(lines(layout) * LINE)
    pixel = each * (column // grid.parts)
    there = (column < grid.columns)[:, None] & (pixel[:, None] + np.arange(each) < layout.width)
    bits = 32 // each
    ones = ((1 << bits) - 1) << bits * np.arange(each, dtype=np.int64)
    return np.where(there, ones, 0).sum(1).astype(np.uint32).view(np.float32)


def cuts(masks: np.ndarray) -> bool:
    """Whether masks keep less than everything."""
    return bool((masks.view(np.uint32) != 0xFFFFFFFF).any())
