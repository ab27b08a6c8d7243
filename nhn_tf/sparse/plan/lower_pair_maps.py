"""Steps for bfloat16 maps beside convolutions: from float32 and back, ReLU, sums and activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nhn_tf.sparse.native import pair_maps
from nhn_tf.sparse.native.activations import Activation
from nhn_tf.sparse.native.layout import LINE, Layout, PairLayout
from nhn_tf.sparse.plan.memory import Buffer, Planes
from nhn_tf.sparse.plan.steps import Steps
from nhn_tf.sparse.plan.tables import Each, moved
from nhn_tf.sparse.program import operations as ops

POSITIVE = ("relu", "relu6")
"""Activations after which nothing is below 0."""


MIDDLE = 1 << 12
"""float32 values between the types at a time, 16 KiB: they stay in the first cache level."""


def narrow(steps: Steps, number: int, source: Planes) -> Planes:
    """The map of operation `number` in bfloat16."""
    target = steps.new_planes(number, pairs=True)
    between, pixels = Layout(target.layout.grid), source.layout.grid.parts
    rows = [
        (row + half * between.plane, source.layout.row(y) + half * pixels, count)
        for y, row, half, count in _halves(target.layout, between)
    ]
    copy = steps.copy_call(rows, (2 * pixels, between.grid.parts))
    geometry = (between.grid, between.plane, between.stride, target.layout.stride)

    def emit(places: Any, middle: Any, made: Any, channels: int) -> None:
        copy("arena", "arena", places, middle, channels)
        arguments = ["arena", middle, made, channels]
        steps.tables.call(pair_maps.pack, *geometry, emulated=steps.emulated, arguments=arguments)

    _by_channels(steps, between, rows, emit, source, target)
    return target


def widen(steps: Steps, number: int, source: Planes) -> Planes:
    """The map of operation `number` in float32."""
    target = steps.new_planes(number)
    between, pixels = Layout(source.layout.grid), target.layout.grid.parts
    rows = [
        (target.layout.row(y) + half * pixels, row + half * between.plane, count)
        for y, row, half, count in _halves(source.layout, between)
    ]
    copy = steps.copy_call(rows, (between.grid.parts, 2 * pixels))
    geometry = (between.grid, source.layout.stride, between.plane, between.stride)

    def emit(places: Any, middle: Any, made: Any, channels: int) -> None:
        arguments = ["arena", places, middle, channels]
        steps.tables.call(pair_maps.unpack, *geometry, emulated=steps.emulated, arguments=arguments)
        copy("arena", "arena", middle, made, channels)

    _by_channels(steps, between, rows, emit, source, target)
    return target


def _halves(layout: Layout, between: Layout) -> list[tuple[int, int, int, int]]:
    """(row of the map, its place in a plane of first or second pixels, 0 or 1 for these, how many pixels)."""
    assert isinstance(layout, PairLayout)
    return [
        (y, between.row(y), half, (layout.width + 1 - half) // 2)
        for y in range(layout.grid.height)
        for half in (0, 1)
        if layout.width > half
    ]


def _by_channels(
    steps: Steps,
    between: Layout,
    rows: list[tuple[int, int, int]],
    emit_one: Callable[[Any, Any, Any, int], None],
    source: Planes,
    target: Planes,
) -> None:
    """A step that brings some channels after others through planes of first and of second pixels.

    `emit_one` writes down the calls for so many channels, given the tables of where they lie before, between and after.
    """
    share = max(min(MIDDLE // (2 * between.plane), source.channels), 1)
    buffer = steps.new_filled(between, share, 2, 0.0, tuple(sorted((to, count) for to, _, count in rows)))
    middle = Planes(between, ((buffer, 0, share),), step=2)

    def emit() -> None:
        put = steps.tables
        tables = [put.indices(planes.origins()) for planes in (source, middle, target)]
        whole = source.channels - source.channels % share
        with put.repeated(whole // share):
            emit_one(Each(tables[0], share), tables[1], Each(tables[2], share), share)
        if whole < source.channels:
            emit_one(moved(tables[0], whole), tables[1], moved(tables[2], whole), source.channels - whole)

    steps.step(emit, source, middle, target)


def lower_elementwise(steps: Steps, number: int, op: ops.Elementwise, *sources: Planes) -> Planes:
    target = steps.new_planes(number, pairs=True)
    if op.activation in POSITIVE:
        steps.positive.update(target.buffers)
    channels = target.channels
    layout, masks = target.layout, masks_of(target.layout)
    geometry = (layout.grid.rows, lines(layout), layout.stride, len(sources))
    options = {
        "affine": op.scale is not None, "activation": Activation(op.activation, op.slope), "masked": cuts(masks),
        "emulated": steps.emulated,
    }  # fmt: skip

    def emit() -> None:
        put = steps.tables
        places = put.indices(np.concatenate([source.origins() for source in sources]))
        factors = put.constants(np.stack(op.affine(channels), axis=1))
        arguments = ["arena", places, put.indices(target.origins()), channels, factors, put.constants(masks)]
        put.call(pair_maps.elementwise_pairs, *geometry, arguments=arguments, **options)

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
            whole = [Planes(layout, ((each, 0, buffer.units),)) for each in (buffer, made)]

            def emit(read: Planes = whole[0], written: Planes = whole[1]) -> None:
                put = steps.tables
                arguments = ["arena", put.indices(read.origins()), put.indices(written.origins()), read.channels]
                put.call(pair_maps.relu, *geometry, emulated=steps.emulated, arguments=arguments)

            steps.step(emit, *whole)
        spans.append((steps.relus.get(buffer, buffer), first, count))
    return Planes(layout, tuple(spans))


def lines(layout: Layout) -> int:
    return -(-layout.grid.columns // LINE)


def masks_of(layout: Layout) -> np.ndarray:
    """[lines, lanes]: the bits of a row that belong to pixels, as float32."""
    assert isinstance(layout, PairLayout)
    grid = layout.grid
    column = np.arange(lines(layout) * LINE)
    pixel = 2 * (column // grid.parts)
    there = (column < grid.columns)[:, None] & (pixel[:, None] + [0, 1] < layout.width)
    return np.where(there, [0xFFFF, 0xFFFF0000], 0).sum(1).astype(np.uint32).view(np.float32)


def cuts(masks: np.ndarray) -> bool:
    """Whether masks keep less than everything."""
    return bool((masks.view(np.uint32) != 0xFFFFFFFF).any())
