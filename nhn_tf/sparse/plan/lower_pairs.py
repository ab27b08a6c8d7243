"""Steps for a convolution and the depthwise one behind it, some channels at a time.

A map between the two, as of MobileNets, would leave the first cache level, or even the second, and come back. So some
channels are made, and convolved before the next are made in their place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nhn_tf.sparse.native.convolution import Tap, convolution
from nhn_tf.sparse.plan import blocks, lower_convolutions
from nhn_tf.sparse.plan.forms import Form
from nhn_tf.sparse.plan.lower_convolutions import Lists, View, decided, geometry_of, lists_of, planes_read
from nhn_tf.sparse.plan.memory import Planes
from nhn_tf.sparse.plan.steps import Source, Steps
from nhn_tf.sparse.plan.tables import Each, moved
from nhn_tf.sparse.plan.windows import sorted_taps, taps_in_place
from nhn_tf.sparse.program import operations as ops

KEPT = 1 << 13
"""Numbers, 32 KiB, of the channels that are made at a time, about: the first cache level."""

Calls = Callable[[int, int], None]
"""What writes down the calls of a loop, given what its first turn begins with, and how many each turn makes."""


def lower_depthwise(steps: Steps, number: int, op: ops.Depthwise, source: Planes) -> Planes:
    """A depthwise convolution; of a pair, with the one that makes its map, whose source is given."""
    before = op.inputs[0]
    if before not in steps.paired:
        return lower_convolutions.lower_depthwise(steps, number, op, source)
    conv, phases = steps.program.ops[before], steps.phased.get(before)
    assert isinstance(conv, ops.Conv)
    steps.op = before
    if phases is None:
        windows, layout = [steps.window(before, conv, source, 0.0)], steps.layout_of(before)
    else:
        windows, layout = steps.phases_of_source(before, source), phases.layout
        conv = dataclasses.replace(conv, size=phases.size)
    order, taps = sorted_taps(windows[0].taps)
    form = decided(steps, conv, taps, (windows[0], Planes(layout, ())), ())
    steps.op = number
    kernels, width = conv.kernels.reshape(-1, len(taps))[:, order], form.block.filters
    together = min(max(KEPT // (layout.plane * len(windows) * width), 1), -(-len(conv.bias) // width))  # Groups.
    kept = steps.planes_of(layout, together * width * len(windows))
    views = list(zip(windows, kept.split(len(windows)), strict=True))
    window = Source(kept, phases.taps(op, together * width) if phases else taps_in_place(op, layout))
    target = steps.new_planes(number)

    def emit() -> None:
        convolve = _depthwise(steps, op, window, target)
        for first, lists in lists_of(conv.mask, kernels, width):
            make, filters = _convolution(steps, conv, views, taps, form, lists, first), lists.weights.shape[2]
            for done, turns, groups in _turns(len(lists.starts) - 1, together):
                with steps.tables.repeated(turns):
                    steps.tables.op = before
                    make(done, groups)
                    steps.tables.op = number
                    convolve(first + done * filters, groups * filters)

    steps.step(emit, *(window.planes for window in windows), kept, target)
    return target


def _turns(groups: int, together: int) -> Iterator[tuple[int, int, int]]:
    """(first group, turns, groups in each turn) of loops over all groups."""
    whole = groups // together
    if whole:
        yield 0, whole, together
    if groups % together:
        yield whole * together, 1, groups % together


def _convolution(
    steps: Steps, op: ops.Conv, views: Sequence[View], taps: tuple[Tap, ...], form: Form, lists: Lists, first: int
) -> Calls:
    """Makes groups of filters, of lists that begin with filter `first`, always in the same place."""
    put, filters = steps.tables, lists.weights.shape[2]
    block = dataclasses.replace(form.block, filters=filters)
    geometry = geometry_of(op, views[0][0], taps, block, views[0][1], form.grid)
    starts, read = put.indices(lists.starts), planes_read(put, views, lists)
    weights, bias = put.constants(lists.weights), put.constants(op.bias[first:])

    def calls(done: int, groups: int) -> None:
        for planes, (_, target) in zip(read, views, strict=True):
            arguments = [
                "arena", Each(moved(starts, done), groups), planes, weights,
                Each(moved(bias, done * filters), groups * filters), target.origins()[0], groups,
            ]  # fmt: skip
            put.call(convolution, geometry, arguments=arguments)

    return calls


def _depthwise(steps: Steps, op: ops.Depthwise, window: Source, target: Planes) -> Calls:
    """Makes channels of the target of what lies in the window's first planes."""
    put, kept = steps.tables, window.planes
    order, taps = sorted_taps(window.taps)
    grid = target.layout.grid
    geometry = geometry_of(op, window, taps, blocks.sparse_block(taps, grid, steps.host).block, target, grid)
    seam = steps.seam_call(kept) if any(tap.row for tap in taps) else None
    starts, planes = put.indices(np.arange(kept.channels + 1)), put.indices(kept.origins())
    weights = put.constants(op.kernels.reshape(len(op.kernels), -1)[:, order])
    bias, origins, plane = put.constants(op.bias), target.origins(), target.layout.plane

    def calls(first: int, channels: int) -> None:
        if seam:
            seam()
        arguments = [
            "arena", starts, planes, Each(moved(weights, first * len(taps)), channels * len(taps)),
            Each(moved(bias, first), channels), Each(origins[first], channels * plane), channels,
        ]  # fmt: skip
        put.call(convolution, geometry, arguments=arguments)

    return calls
