"""Steps for a convolution and the depthwise one behind it, some channels at a time.

A map between the two, as of MobileNets, would leave the first cache level, or even the second, and come back. So some
channels are made, and convolved before the next are made in their place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from nhn_tf.sparse.native.convolution import Tap, convolution
from nhn_tf.sparse.plan import blocks, lower_convolutions
from nhn_tf.sparse.plan.lower_convolutions import decided, geometry_of, lists_of, planes_read
from nhn_tf.sparse.plan.memory import Planes
from nhn_tf.sparse.plan.steps import Source, Steps
from nhn_tf.sparse.plan.tables import Each, moved
from nhn_tf.sparse.plan.windows import sorted_taps, taps_in_place
from nhn_tf.sparse.program import operations as ops

KEPT = 1 << 13
"""Numbers, 32 KiB, of the channels that are made at a time, about: the first cache level."""


def lower_depthwise(steps: Steps, number: int, op: ops.Depthwise, source: Planes) -> Planes:
    """A depthwise convolution; of a pair, with the one that makes its map, whose source is given."""
    if op.inputs[0] not in steps.paired:
        return lower_convolutions.lower_depthwise(steps, number, op, source)
    before = op.inputs[0]
    conv = steps.program.ops[before]
    assert isinstance(conv, ops.Conv)
    steps.op = before
    if (phases := steps.phased.get(before)) is not None:
        read = [Source(planes, (Tap(0, 0),)) for planes in steps.phases_of_source(before, source)]
        conv, layout = dataclasses.replace(conv, size=phases.size), phases.layout
    else:
        read, layout = [steps.window(before, conv, source, 0.0)], steps.layout_of(before)
    order, taps = sorted_taps(read[0].taps)
    form = decided(steps, conv, taps, (read[0], Planes(layout, ())), ())
    steps.op = number
    width = form.block.filters
    together = min(max(KEPT // (layout.plane * len(read) * width), 1), -(-conv.mask.shape[1] // width))  # Groups.
    kept = steps.planes_of(layout, together * width * len(read))
    views = [(window, _part(kept, place * together * width)) for place, window in enumerate(read)]
    target = steps.new_planes(number)
    behind = phases.taps(op, together * width) if phases else taps_in_place(op, layout)
    behind_order, behind = sorted_taps(behind)
    follow = dataclasses.replace(op, kernels=op.kernels.reshape(len(op.kernels), -1)[:, behind_order])
    seam = steps.seam_call(kept) if any(tap.row for tap in behind) else None
    kernels = conv.kernels.reshape(-1, len(taps))[:, order]
    geometry = geometry_of(
        op,
        Source(kept, behind),
        behind,
        blocks.sparse_block(behind, target.layout.grid, steps.host).block,
        target,
        target.layout.grid,
    )

    def emit() -> None:
        put = steps.tables
        own, planes = put.indices(np.arange(together * width + 1)), put.indices(kept.origins())
        weights, bias = put.constants(follow.kernels), put.constants(op.bias)
        for first, lists in lists_of(conv.mask, kernels, width):
            filters = lists.weights.shape[2]
            starts, read_planes = put.indices(lists.starts), planes_read(put, views, lists)
            conv_weights, conv_bias = put.constants(lists.weights), put.constants(conv.bias[first:])
            block = dataclasses.replace(form.block, filters=filters)
            conv_geometry = geometry_of(conv, read[0], taps, block, kept, form.grid)
            for done, turns, groups in _turns(len(lists.starts) - 1, together):
                count, channel = groups * filters, first + done * filters
                with put.repeated(turns):
                    put.op = before
                    for planes_of, (_, part) in zip(read_planes, views, strict=True):
                        arguments = [
                            "arena", Each(moved(starts, done), groups), planes_of, conv_weights,
                            Each(moved(conv_bias, done * filters), count), part.origins()[0], groups,
                        ]  # fmt: skip
                        put.call(convolution, conv_geometry, arguments=arguments)
                    put.op = number
                    if seam:
                        seam()
                    arguments = [
                        "arena", own, planes, Each(moved(weights, channel * len(behind)), count * len(behind)),
                        Each(moved(bias, channel), count), Each(target.origins()[channel], count * target.layout.plane),
                        count,
                    ]  # fmt: skip
                    put.call(convolution, geometry, arguments=arguments)

    steps.step(emit, *(window.planes for window in read), kept, target)
    return target


def _part(planes: Planes, first: int) -> Planes:
    """The planes from one on."""
    ((buffer, _, count),) = planes.spans
    return Planes(planes.layout, ((buffer, first, count - first),))


def _turns(groups: int, together: int) -> Iterator[tuple[int, int, int]]:
    """(first group, turns, groups in each turn) of loops over all groups."""
    whole = groups // together
    if whole:
        yield 0, whole, together
    if groups % together:
        yield whole * together, 1, groups % together
