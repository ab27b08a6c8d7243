"""Steps for convolutions in bfloat16: dense or over lists of pairs of live kernels, whichever costs less."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from nhn_tf.sparse.native.activations import Activation
from nhn_tf.sparse.native.convolution import Block
from nhn_tf.sparse.native.layout import PairLayout, grid_for
from nhn_tf.sparse.native.pair_convolution import PairGeometry, PairTap, pair_convolution
from nhn_tf.sparse.plan import lower_pair_maps, pair_blocks
from nhn_tf.sparse.plan.lower_convolutions import SHARED, in_groups, read_by
from nhn_tf.sparse.plan.memory import Planes
from nhn_tf.sparse.plan.steps import Steps
from nhn_tf.sparse.plan.tables import MAX_TABLE, moved
from nhn_tf.sparse.plan.tail import chunks
from nhn_tf.sparse.plan.windows import phases_of, slides_in_place
from nhn_tf.sparse.program import operations as ops


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 numbers rounded to the nearest bfloat16, ties to even, as uint16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


@dataclasses.dataclass(frozen=True, eq=False)
class _Lists:
    """What a convolution computes, group by group of filters.

    Attributes:
      starts: int [groups + 1], where each group's entries start, and where the last ends.
      inputs: int [entries, 2], input channels; beside an odd one that is left stands one of zeros, the last.
      weights: float32 [entries, taps, filters of a group], of which each number is two of bfloat16.
    """

    starts: np.ndarray
    inputs: np.ndarray
    weights: np.ndarray


def _lists(mask: np.ndarray, weights: np.ndarray) -> _Lists:
    """The lists of a mask, bool [Cin, groups], and weights [live, taps, filters of a group]."""
    counts = mask.sum(0)
    starts = np.concatenate([[0], np.cumsum(-(-counts // 2))])
    within = np.arange(len(weights)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = np.repeat(2 * starts[:-1], counts) + within
    inputs = np.full(2 * starts[-1], len(mask))
    inputs[places] = np.nonzero(mask.T)[1]
    numbers = np.zeros((2 * starts[-1], *weights.shape[1:]), np.uint16)
    numbers[places] = to_bfloat16(weights)
    pairs = numbers.reshape(-1, 2, *weights.shape[1:]).transpose(0, 2, 3, 1)
    return _Lists(starts, inputs.reshape(-1, 2), np.ascontiguousarray(pairs).view(np.float32)[..., 0])


def lower_conv(steps: Steps, number: int, op: ops.Conv, source: Planes) -> Planes:
    """A convolution, dense or over lists of live kernels, whichever costs less."""
    read, taps = _window(steps, number, op, lower_pair_maps.relu(steps, source) if op.relu_input else source)
    target = steps.new_planes(number, pairs=True)
    if op.activation in lower_pair_maps.POSITIVE:
        steps.positive.update(target.buffers)
    block = _cheapest(op.mask, pair_blocks.Window(taps, target.layout.grid.rows, lower_pair_maps.lines(target.layout)))
    steps.decide(op, block, sparse=_is_sparse(op.mask, block.filters), pairs=True)
    kernels = op.kernels.reshape(-1, len(taps))
    if block.filters == 1:
        _convolve(steps, op, read, taps, block, _lists(op.mask, kernels[:, :, None]), target, 0)
        return target
    for first, mask, weights in in_groups(op.mask, kernels, block.filters):
        group = dataclasses.replace(block, filters=weights.shape[2])
        _convolve(steps, op, read, taps, group, _lists(mask, weights), target, first)
    return target


def _window(steps: Steps, number: int, op: ops.Conv, source: Planes) -> tuple[Planes, tuple[PairTap, ...]]:
    """What the window slides over, in the grid of the output, and its taps, row by row."""
    height, width = op.window
    if slides_in_place(op, steps.program.shapes[op.inputs[0]]):
        taps = [PairTap(0, y - op.pads[0], x - op.pads[1]) for y in range(height) for x in range(width)]
        if any(tap.row for tap in taps):
            steps.seam(source)
        return source, tuple(taps)
    return _copied_window(steps, op, source)


def _copied_window(steps: Steps, op: ops.Conv, source: Planes) -> tuple[Planes, tuple[PairTap, ...]]:
    """As `Steps.window` makes it: a plane for each remainder of rows and columns by the stride."""
    down, right, phases = phases_of(op)
    shifts = [[shift for shift, _ in axis] for axis in (down, right)]
    beyond = max(0, *shifts[1])
    layout = PairLayout(
        grid_for(op.size[0], -(-op.size[1] // 2), steps.lanes),
        above=max(0, -min(shifts[0])), below=max(0, *shifts[0]),
        left=max(0, -(min(shifts[1]) // 2)), right=-(-beyond // 2), shared=False, width=op.size[1],
    )  # fmt: skip
    height, width, channels = steps.program.shapes[op.inputs[0]]
    rows = []
    for place, (py, px) in enumerate(phases):
        stop = min(op.size[1] + beyond, -(-(width - px) // op.strides[1]))
        for part in range(layout.grid.parts):
            for local in range(-layout.above, layout.grid.rows + layout.below):
                y = (part * layout.grid.rows + local) * op.strides[0] + py
                for half in (0, 1) if 0 <= y < height else ():
                    to = 2 * (place * layout.plane + local * layout.stride + part) + half
                    column = half * op.strides[1] + px
                    start = 2 * (source.layout.row(y) + column // 2 * source.layout.grid.parts) + column % 2
                    rows.append((to, start, (stop + 1 - half) // 2))
    rows = [row for row in rows if row[2] > 0]
    buffer = steps.new_filled(layout, channels, len(phases), 0.0, tuple((to, count) for to, _, count in rows))
    planes = Planes(layout, ((buffer, 0, channels),), step=len(phases))
    strides = (2 * op.strides[1] * source.layout.grid.parts, 2 * layout.grid.parts)
    steps.copy(rows, strides, _in_halves(source), _in_halves(planes), source, planes, halves=True)
    taps = [PairTap(phases.index((py, px)) * layout.plane, dy, dx) for dy, py in down for dx, px in right]
    return planes, tuple(taps)


def _in_halves(planes: Planes) -> Callable[[], tuple[Any, Any]]:
    """The end of a copy of single bfloat16 numbers."""
    return lambda: ("arena", 2 * planes.origins())


def _cheapest(mask: np.ndarray, window: pair_blocks.Window) -> Block:
    """One filter at a time, or several that share a list; see `lower_convolutions`."""
    filters = mask.shape[1]
    alone = pair_blocks.sparse_block(window)
    if mask.size * len(window.taps) > MAX_TABLE or filters == 1:
        return alone.block
    together = [pair_blocks.dense_block(window, filters)]
    together += [pair_blocks.dense_block(window, count, least=count) for count in SHARED if count < filters]
    return min([alone, *together], key=lambda choice: _entries(mask, choice.block.filters) * choice.cost).block


def _entries(mask: np.ndarray, filters: int) -> int:
    """How many pairs of inputs groups of so many filters need."""
    return int((-(-read_by(mask, filters).sum(0) // 2)).sum())


def _is_sparse(mask: np.ndarray, filters: int) -> bool:
    """Whether any group does without some input."""
    return _entries(mask, filters) < _entries(np.ones_like(mask), filters)


def _convolve(
    steps: Steps,
    op: ops.Conv,
    source: Planes,
    taps: tuple[PairTap, ...],
    block: Block,
    lists: _Lists,
    target: Planes,
    first: int,
) -> None:
    """A step that makes output channels from `first` on; in the tail, some after others for all images of a group."""
    layout = source.layout
    masks = lower_pair_maps.masks_of(target.layout)
    geometry = PairGeometry(
        rows=target.layout.grid.rows,
        lines=lower_pair_maps.lines(target.layout),
        parts=target.layout.grid.parts,
        taps=taps,
        beside=not (layout.left or layout.right) and lower_pair_maps.lines(layout) == 1,
        source_stride=layout.stride,
        target_stride=target.layout.stride,
        target_plane=target.layout.plane,
        block=block,
        activation=Activation(op.activation, op.slope),
        masked=lower_pair_maps.cuts(masks),
    )
    zeros = Planes(layout, ((steps.new_filled(layout, 1, source.step, 0.0, ()), 0, 1),), step=source.step)
    groups = len(lists.starts) - 1
    bias = op.bias[first : first + groups * block.filters]

    def emit() -> None:
        put = steps.tables
        origins = np.concatenate([source.origins(), zeros.origins()])
        starts, planes = put.indices(lists.starts), put.indices(origins[lists.inputs])
        weights, shifts, edges = (
            put.constants(lists.weights),
            put.constants(bias),
            put.constants(masks),
        )
        weights_each = len(taps) * block.filters
        for start, stop in chunks(lists.starts * weights_each) if put.in_tail else [(0, groups)]:
            done = start * block.filters
            arguments = [
                "arena", moved(starts, start), planes, weights, moved(shifts, done), edges,
                target.origins()[first + done], stop - start,
            ]  # fmt: skip
            put.call(pair_convolution, geometry, emulated=steps.emulated, arguments=arguments)

    steps.step(emit, source, zeros, target)
