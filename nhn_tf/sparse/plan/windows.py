"""Windows that slide over maps: the halos that they need, index arithmetic. Letters: H W spatial."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import numpy as np

from nhn_tf.sparse.native.convolution import Tap
from nhn_tf.sparse.native.layout import Grid, Layout
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.operations import Pool, Program, Shape

L = TypeVar("L", bound=Layout)


def slides_in_place(op: ops.Windowed, shape: Shape) -> bool:
    """Whether the window can slide over its input, of this shape, as it lies, rather than over a copy made for it."""
    same = op.strides == (1, 1) and op.size == shape[:2]
    return same and (op.window == (1, 1) or not (isinstance(op, Pool) and op.kind == "max"))


def taps_in_place(op: ops.Windowed, layout: Layout) -> tuple[Tap, ...]:
    """The window, row by row, of an operation that slides over its input as it lies."""
    (height, width), (top, left), parts = op.window, op.pads, layout.grid.parts
    return tuple(Tap(y - top, (x - left) * parts) for y in range(height) for x in range(width))


def map_layouts(program: Program, readers: Collection[int], empty: Callable[[int, int], L]) -> list[L | None]:
    """The layout of every value that is a map, None for vectors.

    Maps that are joined or added up share one. Its halo is as deep as any window needs that reads one of them in place.
    Maps that only 1x1 convolutions read have none: their rows fill whole cache lines, on which the speed of small maps
    depends.

    Args:
      program: that computes the values.
      readers: the operations that read them in these layouts.
      empty: the layout of a map of so many rows and columns, without a halo.
    """
    shapes = program.shapes
    groups = joined(program)
    layouts = [empty(shape[0], shape[1]) if len(shape) == 3 else None for shape in shapes]
    for op in (program.ops[number] for number in readers):
        if isinstance(op, ops.Windowed) and slides_in_place(op, shapes[op.inputs[0]]):
            (top, left), (height, width) = op.pads, op.window
            above, below, beside, behind = (max(n, 0) for n in (top, height - 1 - top, left, width - 1 - left))
            group = groups[op.inputs[0]]
            if (layout := layouts[group]) is not None:
                layouts[group] = layout.with_halo(above, below, beside, behind)
    return [layouts[group] for group in groups]


def joined(program: Program) -> list[int]:
    """For each value, one that stands for all with which it must share a layout."""
    leader = list(range(len(program.ops)))

    def find(value: int) -> int:
        while leader[value] != value:
            leader[value] = leader[leader[value]]
            value = leader[value]
        return value

    for number, op in enumerate(program.ops):
        if isinstance(op, (ops.Concatenate, ops.Elementwise, ops.Combine, ops.Normalize, ops.Softmax)):
            for value in op.inputs:
                if program.shapes[value][:-1] == program.shapes[number][:-1]:
                    leader[find(value)] = find(number)
    return [find(value) for value in range(len(leader))]


def phases_of(op: ops.Windowed) -> tuple[list[tuple[int, int]], list[tuple[int, int]], list[tuple[int, int]]]:
    """How a window with stride s reads a map of which every s-th row and column lie in a plane of their own.

    Output row y and window row d read map row y s + d - pad, which is row y + shift of the plane of every s-th row from
    `phase` on, where d - pad = shift s + phase.

    Returns:
      (shift, phase) of each row of the window, the same of each column, and the (row, column) phases there are.
    """
    down, right = ([divmod(d - op.pads[axis], op.strides[axis]) for d in range(op.window[axis])] for axis in (0, 1))
    return down, right, sorted({(py, px) for _, py in down for _, px in right})


def phase_rows(
    target: Layout, source: Layout, shape: Shape, strides: tuple[int, int], phase: tuple[int, int]
) -> list[tuple[int, int, int]]:
    """(target offset, source offset, count) of the rows of one plane of a copied window, halo included."""
    height, width, _ = shape
    grid = target.grid
    # Columns x of the target with 0 <= x * stride + phase < width.
    first = max(-target.left, -(phase[1] // strides[1]))
    stop = min(grid.width + target.right, -(-(width - phase[1]) // strides[1]))
    rows = []
    for part in range(grid.parts):
        for local in range(-target.above, grid.rows + target.below):
            y = (part * grid.rows + local) * strides[0] + phase[0]
            if 0 <= y < height and first < stop:
                to = local * target.stride + part + first * grid.parts
                start = source.row(y) + (first * strides[1] + phase[1]) * source.grid.parts
                rows.append((to, start, stop - first))
    return rows


def sorted_taps(taps: Sequence[Tap]) -> tuple[np.ndarray, tuple[Tap, ...]]:
    """Taps by column, then by row, and the places that they had."""
    order = sorted(range(len(taps)), key=lambda place: (taps[place].column, taps[place].row))
    return np.array(order), tuple(taps[place] for place in order)


def window_counts(op: Pool, axis: int, side: int) -> np.ndarray:
    """How many positions of the window lie on the map, for each output along an axis."""
    first = np.arange(op.size[axis]) * op.strides[axis] - op.pads[axis]
    return np.minimum(first + op.window[axis], side) - np.maximum(first, 0)


def in_vectors(grid: Grid, lanes: int, values: np.ndarray, *, once: bool = False) -> np.ndarray:
    """Values [..., H, W] as the vectors that cover the grid, [..., rows, vectors, lanes], 0 in lanes without a pixel.

    With `once`, also 0 where an earlier vector has the pixel already.
    """
    starts = np.array(grid.starts(lanes))
    column = starts[:, None] + np.arange(lanes)
    seen = np.concatenate([[0], starts[:-1] + lanes])[:, None] if once else 0
    y = (column % grid.parts) * grid.rows + np.arange(grid.rows)[:, None, None]
    x = np.broadcast_to(column // grid.parts, y.shape)
    there = (y < grid.height) & (column < grid.columns) & (column >= seen)
    result = np.zeros((*values.shape[:-2], *y.shape), np.float32)
    result[..., there] = values[..., y[there], x[there]]
    return result
