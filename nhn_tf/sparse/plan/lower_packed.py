"""Steps for convolutions in bfloat16 and int8: dense or over lists of live kernels, whichever costs less."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from nhn_tf.sparse.native.activations import Activation
from nhn_tf.sparse.native.convolution import Block
from nhn_tf.sparse.native.layout import PackedLayout, grid_for
from nhn_tf.sparse.native.packed_convolution import PackedGeometry, PackedTap, packed_convolution
from nhn_tf.sparse.native.quads import HOMOGENEOUS, MOST
from nhn_tf.sparse.plan import lower_packed_maps, packed_blocks
from nhn_tf.sparse.plan.forms import SHARED, read_by
from nhn_tf.sparse.plan.lower_convolutions import in_groups
from nhn_tf.sparse.plan.memory import Planes
from nhn_tf.sparse.plan.steps import LEAST_SCALE, Steps
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
class Narrowed:
    """A convolution's weights in the narrow type.

    Attributes:
      kernels: [live, taps], int8, or bits of bfloat16 as uint16.
      settings: float32 [Cout, settings]; see `PackedFunction`.
    """

    kernels: np.ndarray
    settings: np.ndarray


def in_bfloat16(op: ops.Conv) -> Narrowed:
    """Rounded weights; a filter's setting is its bias."""
    return Narrowed(to_bfloat16(op.kernels.reshape(-1, op.window[0] * op.window[1])), op.bias[:, None])


def in_int8(op: ops.Conv, inputs: np.ndarray, outputs: np.ndarray, *, raised: bool) -> Narrowed:
    """Weights from -127 to 127 in steps of their filter's own, and the filters' settings; see `quads.QuadFunction`.

    Args:
      op: the convolution.
      inputs: float32 [Cin], what 1 stands for in each channel that is read.
      outputs: the same of what is made, [Cout].
      raised: whether 128 more is read than the map holds.
    """
    filters, channels = np.nonzero(op.mask.T)
    kernels = op.kernels.reshape(-1, op.window[0] * op.window[1]) * inputs[channels, None]
    most = np.full(op.mask.shape[1], LEAST_SCALE, np.float32)
    np.maximum.at(most, filters, np.abs(kernels).max(1, initial=0))
    step = most / MOST[True]
    whole = np.rint(kernels / step[filters, None])
    start = np.zeros(op.mask.shape[1], np.int32)
    if raised:
        np.add.at(start, filters, (-128 * whole.sum(1)).astype(np.int32))
    unit = outputs if op.activation in HOMOGENEOUS else np.ones_like(outputs)
    with np.errstate(over="ignore"):  # A map that was never other than 0 has tiny steps.
        settings = [start.view(np.float32), step / unit, op.bias / unit, 1 / outputs]
    return Narrowed(whole.astype(np.int8), np.stack(settings, axis=1).astype(np.float32))


@dataclasses.dataclass(frozen=True, eq=False)
class _Lists:
    """What a convolution computes, group by group of filters.

    Attributes:
      starts: int [groups + 1], where each group's entries start, and where the last ends.
      inputs: int [entries, each], input channels; where some are left over, the last entry has channels of zeros too.
      weights: float32 [entries, taps, filters of a group], of which each number is two of bfloat16 or four of int8.
    """

    starts: np.ndarray
    inputs: np.ndarray
    weights: np.ndarray


def _lists(mask: np.ndarray, weights: np.ndarray) -> _Lists:
    """The lists of a mask, bool [Cin, groups], and weights [live, taps, filters of a group], uint16 or int8."""
    counts, each = mask.sum(0), 4 // weights.itemsize
    starts = np.concatenate([[0], np.cumsum(-(-counts // each))])
    within = np.arange(len(weights)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = np.repeat(each * starts[:-1], counts) + within
    inputs = np.full(each * starts[-1], len(mask))
    inputs[places] = np.nonzero(mask.T)[1]
    numbers = np.zeros((each * starts[-1], *weights.shape[1:]), weights.dtype)
    numbers[places] = weights
    lanes = numbers.reshape(-1, each, *weights.shape[1:]).transpose(0, 2, 3, 1)
    return _Lists(starts, inputs.reshape(-1, each), np.ascontiguousarray(lanes).view(np.float32)[..., 0])


def lower_conv(steps: Steps, number: int, op: ops.Conv, source: Planes) -> Planes:
    """A convolution, dense or over lists of live kernels, whichever costs less."""
    given = lower_packed_maps.relu(steps, source) if op.relu_input else source
    positive = op.relu_input or steps.positive.issuperset(source.buffers)
    raised = steps.host.narrow == "int8" and lower_packed_maps.packed_of(source).signed and not positive
    read, taps = _window(steps, number, op, given)
    target = steps.new_packed(number)
    if op.activation in lower_packed_maps.POSITIVE:
        steps.positive.update(target.buffers)
    if steps.host.narrow == "int8":
        narrowed = in_int8(op, steps.scales_of(source)[:, 0], steps.scales_of(target)[:, 0], raised=raised)
    else:
        narrowed = in_bfloat16(op)
    window = packed_blocks.Window(
        taps, target.layout.grid.rows, lower_packed_maps.lines(target.layout), steps.host.each
    )
    block = _cheapest(op.mask, window)
    steps.decide(op, block, sparse=_is_sparse(op.mask, block.filters, steps.host.each), narrow=steps.host.narrow)
    convolve = functools.partial(_convolve, steps, op, read, taps, settings=narrowed.settings, raised=raised)
    if block.filters == 1:
        convolve(block, _lists(op.mask, narrowed.kernels[:, :, None]), target, 0)
        return target
    for first, mask, weights in in_groups(op.mask, narrowed.kernels, block.filters):
        group = dataclasses.replace(block, filters=weights.shape[2])
        convolve(group, _lists(mask, weights), target, first)
    return target


def _window(steps: Steps, number: int, op: ops.Conv, source: Planes) -> tuple[Planes, tuple[PackedTap, ...]]:
    """What the window slides over, in the grid of the output, and its taps, row by row."""
    height, width = op.window
    if slides_in_place(op, steps.program.shapes[op.inputs[0]]):
        taps = [PackedTap(0, y - op.pads[0], x - op.pads[1]) for y in range(height) for x in range(width)]
        if any(tap.row for tap in taps):
            steps.seam(source)
        return source, tuple(taps)
    return _copied_window(steps, op, source)


def _copied_window(steps: Steps, op: ops.Conv, source: Planes) -> tuple[Planes, tuple[PackedTap, ...]]:
    """As `Steps.window` makes it: a plane for each remainder of rows and columns by the stride."""
    down, right, phases = phases_of(op)
    shifts = [[shift for shift, _ in axis] for axis in (down, right)]
    beyond = max(0, *shifts[1])
    given = lower_packed_maps.packed_of(source)
    each, parts = given.each, given.grid.parts
    layout = PackedLayout(
        grid_for(op.size[0], -(-op.size[1] // each), steps.lanes),
        above=max(0, -min(shifts[0])), below=max(0, *shifts[0]),
        left=max(0, -(min(shifts[1]) // each)), right=-(-beyond // each), shared=False, width=op.size[1],
        each=each, signed=given.signed,
    )  # fmt: skip
    height, width, channels = steps.program.shapes[op.inputs[0]]
    rows = []
    for place, (py, px) in enumerate(phases):
        stop = min(op.size[1] + beyond, -(-(width - px) // op.strides[1]))
        for part in range(layout.grid.parts):
            for local in range(-layout.above, layout.grid.rows + layout.below):
                y = (part * layout.grid.rows + local) * op.strides[0] + py
                for within in range(each) if 0 <= y < height else ():
                    to = each * (place * layout.plane + local * layout.stride + part) + within
                    column = within * op.strides[1] + px
                    start = each * (given.row(y) + column // each * parts) + column % each
                    rows.append((to, start, (stop + each - 1 - within) // each))
    rows = [row for row in rows if row[2] > 0]
    buffer = steps.new_filled(layout, channels, len(phases), 0.0, tuple((to, count) for to, _, count in rows))
    planes = Planes(layout, ((buffer, 0, channels),), step=len(phases))
    strides = (each * op.strides[1] * parts, each * layout.grid.parts)
    steps.copy(rows, strides, _in_numbers(source, each), _in_numbers(planes, each), source, planes, each=each)
    taps = [PackedTap(phases.index((py, px)) * layout.plane, dy, dx) for dy, py in down for dx, px in right]
    return planes, tuple(taps)


def _in_numbers(planes: Planes, each: int) -> Callable[[], tuple[Any, Any]]:
    """The end of a copy of single numbers."""
    return lambda: ("arena", each * planes.origins())


def _cheapest(mask: np.ndarray, window: packed_blocks.Window) -> Block:
    """One filter at a time, or several that share a list; see `forms`."""
    filters = mask.shape[1]
    alone = packed_blocks.sparse_block(window)
    if mask.size * len(window.taps) > MAX_TABLE or filters == 1:
        return alone.block
    together = [packed_blocks.dense_block(window, filters)]
    together += [packed_blocks.dense_block(window, count, least=count) for count in SHARED if count < filters]
    each = window.each
    return min([alone, *together], key=lambda choice: _entries(mask, choice.block.filters, each) * choice.cost).block


def _entries(mask: np.ndarray, filters: int, each: int) -> int:
    """How many entries of so many inputs groups of so many filters need."""
    return int((-(-read_by(mask, filters).sum(0) // each)).sum())


def _is_sparse(mask: np.ndarray, filters: int, each: int) -> bool:
    """Whether any group does without some input."""
    return _entries(mask, filters, each) < _entries(np.ones_like(mask), filters, each)


def _convolve(
    steps: Steps,
    op: ops.Conv,
    source: Planes,
    taps: tuple[PackedTap, ...],
    block: Block,
    lists: _Lists,
    target: Planes,
    first: int,
    *,
    settings: np.ndarray,
    raised: bool,
) -> None:
    """A step that makes output channels from `first` on; in the tail, some after others for all images of a group."""
    layout, made = source.layout, lower_packed_maps.packed_of(target)
    masks = lower_packed_maps.masks_of(made)
    geometry = PackedGeometry(
        rows=target.layout.grid.rows,
        lines=lower_packed_maps.lines(target.layout),
        parts=target.layout.grid.parts,
        taps=taps,
        beside=not (layout.left or layout.right) and lower_packed_maps.lines(layout) == 1,
        source_stride=layout.stride,
        target_stride=target.layout.stride,
        target_plane=target.layout.plane,
        block=block,
        activation=Activation(op.activation, op.slope),
        masked=lower_packed_maps.cuts(masks),
        narrow=steps.host.narrow,
        raised=raised,
        signed=made.signed,
    )
    zeros = Planes(layout, ((steps.new_filled(layout, 1, source.step, 0.0, ()), 0, 1),), step=source.step)
    groups = len(lists.starts) - 1
    own = settings[first : first + groups * block.filters]

    def emit() -> None:
        put = steps.tables
        origins = np.concatenate([source.origins(), zeros.origins()])
        starts, planes = put.indices(lists.starts), put.indices(origins[lists.inputs])
        weights, shifts, edges = (
            put.constants(lists.weights),
            put.constants(own),
            put.constants(masks),
        )
        weights_each = len(taps) * block.filters
        for start, stop in chunks(lists.starts * weights_each) if put.in_tail else [(0, groups)]:
            done = start * block.filters
            arguments = [
                "arena", moved(starts, start), planes, weights, moved(shifts, done * own.shape[1]), edges,
                target.origins()[first + done], stop - start,
            ]  # fmt: skip
            put.call(packed_convolution, geometry, emulated=steps.host.emulated, arguments=arguments)

    steps.step(emit, source, zeros, target)
