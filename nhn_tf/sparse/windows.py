"""Index arithmetic of windows that slide over maps. Letters: H W spatial."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nhn_tf.sparse.convolution import Tap
from nhn_tf.sparse.layout import Grid, Layout
from nhn_tf.sparse.program import Pool, Shape


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
    """Values [H, W] as the vectors that cover the grid, [rows, vectors, lanes], 0 in lanes without a pixel.

    With `once`, also 0 where an earlier vector has the pixel already.
    """
    starts = np.array(grid.starts(lanes))
    column = starts[:, None] + np.arange(lanes)
    seen = np.concatenate([[0], starts[:-1] + lanes])[:, None] if once else 0
    y = (column % grid.parts) * grid.rows + np.arange(grid.rows)[:, None, None]
    x = np.broadcast_to(column // grid.parts, y.shape)
    there = (y < grid.height) & (column < grid.columns) & (column >= seen)
    result = np.zeros(y.shape, np.float32)
    result[there] = values[y[there], x[there]]
    return result
