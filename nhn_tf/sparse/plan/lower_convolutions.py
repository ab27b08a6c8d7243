"""Steps for convolutions: dense or over lists of live kernels, whichever costs less."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from nhn_tf.sparse.native.activations import Activation
from nhn_tf.sparse.native.convolution import SEGMENT, Block, ConvGeometry, Tap, convolution
from nhn_tf.sparse.native.filter_lanes import FilterGeometry, Reads, filter_lanes
from nhn_tf.sparse.native.layout import Grid
from nhn_tf.sparse.plan import blocks
from nhn_tf.sparse.plan.forms import Form, cheapest, read_by
from nhn_tf.sparse.plan.memory import Planes
from nhn_tf.sparse.plan.steps import Source, Steps
from nhn_tf.sparse.plan.tables import Each, Tables, moved
from nhn_tf.sparse.plan.tail import chunks
from nhn_tf.sparse.plan.windows import sorted_taps
from nhn_tf.sparse.program import operations as ops

View = tuple[Source, Planes]
"""What is read, and where the result goes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Lists:
    """What a convolution computes, group by group of filters.

    Attributes:
      starts: int [groups + 1], where each group's entries start, and where the last ends.
      inputs: int [entries], input channels.
      weights: float32 [entries, taps, filters of a group].
    """

    starts: np.ndarray
    inputs: np.ndarray
    weights: np.ndarray


def lists_of(mask: np.ndarray, kernels: np.ndarray, filters: int) -> Iterator[tuple[int, Lists]]:
    """The first filter and the lists of `in_groups`."""
    groups = [(0, mask, kernels[..., None])] if filters == 1 else in_groups(mask, kernels, filters)
    for first, read, weights in groups:
        yield first, Lists(np.concatenate([[0], np.cumsum(read.sum(0))]), np.nonzero(read.T)[1], weights)


def lower_conv(steps: Steps, number: int, op: ops.Conv, source: Planes) -> Planes:
    """A convolution in the cheapest of its forms. The first of a pair waits for the other: it hands on its source."""
    if number in steps.paired:
        return source
    if number in steps.phased:
        return _lower_in_phases(steps, number, op, source)
    target = steps.new_planes(number)
    _lower(steps, op, [(steps.window(number, op, source, 0.0), target)])
    return target


def _lower_in_phases(steps: Steps, number: int, op: ops.Conv, source: Planes) -> Planes:
    """A 1x1 convolution that writes each phase of its map to a plane of its own; see `pairs.phased`."""
    phases, windows = steps.phased[number], steps.phases_of_source(number, source)
    targets = steps.planes_of(phases.layout, len(op.bias) * len(windows)).split(len(windows))
    _lower(steps, dataclasses.replace(op, size=phases.size), list(zip(windows, targets, strict=True)))
    return targets[0]


def _lower(steps: Steps, op: ops.Conv, views: Sequence[View]) -> None:
    """A convolution of one map or of several that differ in their place alone."""
    window = views[0][0]
    order, taps = sorted_taps(window.taps)
    kernels_of = op.kernels.reshape(-1, len(taps))[:, order]
    reads = _reads(steps, op, window, order)
    form = decided(steps, op, taps, views[0], reads)
    for first, lists in lists_of(op.mask, kernels_of, form.block.filters):
        block = dataclasses.replace(form.block, filters=lists.weights.shape[2])
        if form.in_lanes:
            _convolve_in_lanes(steps, op, views, reads, block, lists, first)
        else:
            _convolve(steps, op, views, taps, block, lists, first, form.grid)


def _reads(steps: Steps, op: ops.Conv, window: Source, order: np.ndarray) -> tuple[Reads, ...]:
    """What each output pixel reads within the map, by the window's taps in `order`; empty of maps of many pixels."""
    if math.prod(op.size) > blocks.MAX_PIXELS:
        return ()
    shape, layout = steps.program.shapes[op.inputs[0]], window.planes.layout
    places = [divmod(int(tap), op.window[1]) for tap in order]
    reads = []
    for y, x in np.ndindex(op.size):
        first = layout.row(y) + x * layout.grid.parts
        down, right = y * op.strides[0] - op.pads[0], x * op.strides[1] - op.pads[1]
        reads.append(
            tuple(
                (place, first + window.taps[tap].row * layout.stride + window.taps[tap].column)
                for place, (tap, (row, column)) in enumerate(zip(order, places, strict=True))
                if 0 <= down + row < shape[0] and 0 <= right + column < shape[1]
            )
        )
    return tuple(reads)


def in_groups(mask: np.ndarray, kernels: np.ndarray, filters: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Groups of so many filters that share their inputs, then one with what is left.

    Args:
      mask: bool [Cin, Cout].
      kernels: live ones, [live, taps], in the order in which `Conv` has them.
      filters: of a group.

    Yields:
      The first filter; what each group reads, bool [Cin, groups]; and its weights, [live, taps, filters].
    """
    inputs, outputs = mask.shape
    full = np.zeros((outputs, inputs, kernels.shape[1]), kernels.dtype)
    full[mask.T] = kernels
    whole = outputs - outputs % filters
    for first, stop in ((0, whole), (whole, outputs)):
        if first < stop:
            width = min(filters, stop - first)
            part = full[first:stop].reshape(-1, width, *full.shape[1:])
            read = read_by(mask[:, first:stop], width)
            yield first, read, part.transpose(0, 2, 3, 1)[read.T]


def decided(steps: Steps, op: ops.Conv, taps: tuple[Tap, ...], view: View, reads: Sequence[Reads]) -> Form:
    """The cheapest form, noted among the decisions.

    Where a 1x1 window reads and writes rows without gaps, they may be one long row, which leaves fewer lanes empty.
    """
    (window, target), grid = view, view[1].layout.grid
    grids = [grid]
    if taps == (Tap(0, 0),) and window.planes.layout.stride == target.layout.stride == grid.columns:
        grids.append(Grid(1, grid.rows * grid.columns))
    form = min((cheapest(op.mask, taps, grid, steps.host, reads) for grid in grids), key=lambda form: form.cost)
    steps.decide(op, form.block, sparse=form.sparse, filter_lanes=form.in_lanes)
    return form


def lower_depthwise(steps: Steps, number: int, op: ops.Depthwise, source: Planes) -> Planes:
    """Each channel by itself. One whose window strides is copied and computed before the next is touched."""
    window = steps.window(number, op, source, 0.0, by_channel=True)
    order, taps = sorted_taps(window.taps)
    target = steps.new_planes(number)
    block = blocks.sparse_block(taps, target.layout.grid, steps.host).block
    kernels = op.kernels.reshape(len(op.kernels), -1)[:, order]
    if window.refill is None:
        inputs = np.repeat(np.arange(source.channels), op.multiplier)
        lists = Lists(np.arange(len(inputs) + 1), inputs, kernels[..., None])
        _convolve(steps, op, [(window, target)], taps, block, lists, 0, target.layout.grid)
        return target
    geometry = geometry_of(op, window, taps, block, target, target.layout.grid)
    refill, filters = window.refill, op.multiplier

    def emit() -> None:
        put = steps.tables
        starts, inputs = np.arange(filters + 1), np.repeat(window.planes.origins(), filters)
        tables = (put.indices(starts), put.indices(inputs))
        weights, bias = put.constants(kernels), put.constants(op.bias)
        with put.repeated(source.channels):
            refill()
            arguments = [
                "arena", *tables, Each(weights, filters * len(taps)), Each(bias, filters),
                Each(target.origins()[0], filters * target.layout.plane), filters,
            ]  # fmt: skip
            put.call(convolution, geometry, arguments=arguments)

    steps.step(emit, source, window.planes, target)
    return target


def planes_read(put: Tables, views: Sequence[View], lists: Lists) -> list[tuple[str, int]]:
    """Tables of the planes that the lists' entries read, one for each view."""
    return [put.indices(window.planes.origins()[lists.inputs]) for window, _ in views]


def _convolve(
    steps: Steps,
    op: ops.Conv | ops.Depthwise,
    views: Sequence[View],
    taps: tuple[Tap, ...],
    block: Block,
    lists: Lists,
    first: int,
    grid: Grid,
) -> None:
    """A step that makes output channels from `first` on; in the tail, some after others for all images of a group."""
    geometry = geometry_of(op, views[0][0], taps, block, views[0][1], grid)
    groups = len(lists.starts) - 1
    bias = op.bias[first : first + groups * block.filters]

    def emit() -> None:
        put = steps.tables
        starts, weights, shifts = put.indices(lists.starts), put.constants(lists.weights), put.constants(bias)
        read = planes_read(put, views, lists)
        weights_each = len(taps) * block.filters
        for start, stop in chunks(lists.starts * weights_each) if put.in_tail else [(0, groups)]:
            done = start * block.filters
            for planes, (_, target) in zip(read, views, strict=True):
                arguments = [
                    "arena", moved(starts, start), planes, weights, moved(shifts, done),
                    target.origins()[first + done], stop - start,
                ]  # fmt: skip
                put.call(convolution, geometry, arguments=arguments)

    steps.step(emit, *(planes for window, target in views for planes in (window.planes, target)))


def _convolve_in_lanes(
    steps: Steps,
    op: ops.Conv,
    views: Sequence[View],
    reads: tuple[Reads, ...],
    block: Block,
    lists: Lists,
    first: int,
) -> None:
    """The same for maps of few pixels, with filters in lanes."""
    target, taps = views[0][1], lists.weights.shape[1]
    grid = target.layout.grid
    geometry = FilterGeometry(
        taps=taps,
        reads=reads,
        target=tuple(target.layout.row(y) + x * grid.parts for y, x in np.ndindex(op.size)),
        target_plane=target.layout.plane,
        filters=block.filters,
        pixels=block.rows,
        segment=max(SEGMENT // taps, 1),
        relu_input=op.relu_input,
        activation=Activation(op.activation, op.slope),
    )
    groups = len(lists.starts) - 1
    width = -(-block.filters // steps.lanes) * steps.lanes
    more = width - block.filters
    bias = op.bias[first : first + groups * block.filters].reshape(groups, -1)

    def emit() -> None:
        put = steps.tables
        starts = put.indices(lists.starts)
        read = planes_read(put, views, lists)
        weights = put.constants(np.pad(lists.weights, ((0, 0), (0, 0), (0, more))))
        shifts = put.constants(np.pad(bias, ((0, 0), (0, more))))
        for start, stop in chunks(lists.starts * taps * width) if put.in_tail else [(0, groups)]:
            for planes, (_, target) in zip(read, views, strict=True):
                arguments = [
                    "arena", moved(starts, start), planes, weights, moved(shifts, start * width),
                    target.origins()[first + start * block.filters], stop - start,
                ]  # fmt: skip
                put.call(filter_lanes, geometry, arguments=arguments)

    steps.step(emit, *(planes for window, target in views for planes in (window.planes, target)))


def geometry_of(
    op: ops.Conv | ops.Depthwise, window: Source, taps: tuple[Tap, ...], block: Block, target: Planes, grid: Grid
) -> ConvGeometry:
    layout = window.planes.layout
    return ConvGeometry(
        grid=grid,
        taps=taps,
        source_stride=layout.stride,
        target_stride=target.layout.stride,
        target_plane=target.layout.plane,
        block=block,
        segment=max(SEGMENT // len(taps), 1),
        relu_input=op.relu_input,
        activation=Activation(op.activation, op.slope),
    )
