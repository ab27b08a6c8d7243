"""What is chosen, as heat maps: the controller's ops and skips, a population's genes, the kernels that go and stay.

Letters: n architectures or kernels, G genes, L layers, K population, Cin Cout channels, k side of the largest kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nhn_tf.pruning.criteria import kernel_std
from nhn_tf.report import figures
from nhn_tf.values.locations import KERNEL_SIZES, LocationSpace
from nhn_tf.values.space import Space

_SHARE: Final = "Blues"
_WEIGHTS: Final = "RdBu_r"
_NONE: Final = "#F6F8F9"
_COLUMNS, _ROWS = 10, 3
SHEET: Final = _COLUMNS * _ROWS
"""So many kernels a sheet shows at most."""


class Square(NamedTuple):
    """One spatial kernel, float [kh, kw], of the layer called so, and its standard deviation."""

    layer: str
    kernel: np.ndarray
    std: float


def shares(genes: np.ndarray, space: Space) -> tuple[np.ndarray, np.ndarray]:
    """How often architectures choose what, which are the probabilities where a controller has drawn them.

    Args:
      genes: int [n, G] of the space.
      space: theirs.

    Returns:
      float [L, ops], the share of each op in each layer, and float [L, L], in row k and column i that of layer k's skip
      from output i (0 is the stem's), NaN where there is none to choose.
    """
    layers = space.num_layers
    ops = (genes[:, :layers, None] == np.arange(len(space.ops))).mean(axis=0)
    skips = np.full((layers, layers), np.nan)
    for layer in range(1, layers):
        skips[layer, :layer] = genes[:, space.skip_slice(layer)].mean(axis=0)
    return ops, skips


def of_controller(genes: np.ndarray, space: Space) -> Figure:
    """The shares of ops and skips among architectures, int [n, G], as two heat maps beside each other."""
    ops, skips = shares(genes, space)
    layers = space.num_layers
    with figures.style():
        height = 1.2 + 0.2 * layers
        figure = figures.new_figure(7.2, height)
        left, right = figure.subplots(1, 2)
        _heat(left, ops, 1.0)
        left.set_xticks(range(len(space.ops)), space.ops, rotation=35, ha="right", fontsize=7)
        left.set(ylabel="layer", title="Probability of each op")
        _heat(right, skips, 1.0)
        right.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
        right.set(xlabel="from output (0: the stem)", title="of each skip")
        for axes in (left, right):
            axes.yaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
        figure.subplots_adjust(left=0.07, right=0.98, top=1 - 0.35 / height, bottom=0.8 / height, wspace=0.15)
    return figure


def of_population(genes: np.ndarray, locations: LocationSpace) -> Figure:
    """A population of location codes, int [K, G]: a column for each individual, a row for each gene.

    The colour is the source that an add-on reads, white where there is none.
    """
    layers, most = locations.space.num_layers, int(locations.num_sources.max())
    with figures.style():
        height = 0.9 + 0.13 * genes.shape[1]
        figure = figures.new_figure(7.2, height)
        axes = figure.subplots()
        _heat(axes, np.where(genes.T < 0, np.nan, genes.T + 1.0), float(most))
        axes.set_yticks(
            [layers * number for number in range(len(KERNEL_SIZES))], [f"{size}×{size}" for size in KERNEL_SIZES]
        )
        for number in range(1, len(KERNEL_SIZES)):
            axes.axhline(layers * number - 0.5, color=figures.INK, linewidth=1.0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=20, integer=True))
        axes.set(
            xlabel="individual: the best of the last cycle first, then crossovers, then new ones",
            ylabel="layer, by kernel size",
            title="Add-ons: the darker, the nearer the layer that they read",
        )
        figure.subplots_adjust(left=0.09, right=0.98, top=1 - 0.35 / height, bottom=0.5 / height)
    return figure


def flattest(kernels: Mapping[str, np.ndarray], among: Mapping[str, np.ndarray]) -> list[Square]:
    """The kernels of the lowest standard deviation, `SHEET` at most, the lowest first; equals in order of position.

    Args:
      kernels: layer name to float [kh, kw, Cin, Cout].
      among: the connections that count, layer name to bool [Cin, Cout]; all those of a layer that has no entry.
    """
    return _in_order(kernels, among, 1.0)


def strongest(kernels: Mapping[str, np.ndarray], among: Mapping[str, np.ndarray]) -> list[Square]:
    """As `flattest`, those of the highest standard deviation, the highest first."""
    return _in_order(kernels, among, -1.0)


def _in_order(kernels: Mapping[str, np.ndarray], among: Mapping[str, np.ndarray], sign: float) -> list[Square]:
    found: list[tuple[float, Square]] = []
    for name, kernel in kernels.items():
        std = kernel_std(kernel)
        rank = np.where(among[name], sign * std, np.inf) if name in among else sign * std
        for place in np.argsort(rank, axis=None, kind="stable")[:SHEET]:
            i, j = np.unravel_index(place, std.shape)
            if np.isfinite(rank[i, j]):
                found.append((float(rank[i, j]), Square(name, kernel[:, :, i, j], float(std[i, j]))))
    return [square for _, square in sorted(found, key=lambda pair: pair[0])[:SHEET]]


def tiled(squares: Sequence[Square], side: int) -> np.ndarray:
    """Kernels beside and below each other, `_COLUMNS` in a row, each in the middle of side x side cells.

    Returns:
      float [rows * (side + 1), _COLUMNS * (side + 1)], NaN around the kernels.
    """
    rows = -(-len(squares) // _COLUMNS)
    sheet = np.full((rows * (side + 1), _COLUMNS * (side + 1)), np.nan)
    for number, square in enumerate(squares):
        row, column = divmod(number, _COLUMNS)
        height, width = square.kernel.shape
        top = row * (side + 1) + (side - height) // 2
        left = column * (side + 1) + (side - width) // 2
        sheet[top : top + height, left : left + width] = square.kernel
    return sheet


def of_kernels(sheets: Mapping[str, Sequence[Square]], *, scale: float = 0.0) -> Figure:
    """A sheet of kernels for each title, all in one scale of colours, white at 0; the layer's name below each kernel.

    Args:
      sheets: by title, kernels; at least one in all.
      scale: the weight whose colour is full; the largest one shown where that is larger.
    """
    shown = {title: squares for title, squares in sheets.items() if squares}
    kernels = [square.kernel for squares in shown.values() for square in squares]
    side = max(max(kernel.shape) for kernel in kernels)
    scale = max([scale, *(float(np.abs(kernel).max()) for kernel in kernels)]) or 1.0
    tiles = {title: tiled(squares, side) for title, squares in shown.items()}
    with figures.style():
        inch = 7.0 / (_COLUMNS * (side + 1))
        heights = [inch * tile.shape[0] for tile in tiles.values()]
        figure = figures.new_figure(7.2, sum(heights) + 0.4 * len(tiles) + 0.6)
        grid = figure.subplots(len(tiles), 1, squeeze=False, height_ratios=heights).ravel()
        for axes, (title, tile) in zip(grid, tiles.items(), strict=True):
            _heat(axes, tile, scale, bottom=-scale, colours=_WEIGHTS)
            axes.set_facecolor(figures.GRID)
            axes.set_aspect("equal")
            axes.set(xticks=[], yticks=[])
            squares = shown[title]
            axes.set_title(f"{title}: standard deviation {squares[0].std:.3g} to {squares[-1].std:.3g}", fontsize=9)
            for number, square in enumerate(squares):
                row, column = divmod(number, _COLUMNS)
                place = (column * (side + 1) + (side - 1) / 2, row * (side + 1) + side)
                axes.text(*place, square.layer.split("/")[0], fontsize=5.0, ha="center", va="center")
        bar = figure.colorbar(grid[0].images[0], ax=list(grid), orientation="horizontal", aspect=60, pad=0.02)
        bar.set_label("weight", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        figure.set_layout_engine("constrained")
    return figure


def _heat(axes: Axes, values: np.ndarray, top: float, *, bottom: float = 0.0, colours: str = _SHARE) -> None:
    """Values [rows, columns] in bottom..top as colours, those that are NaN as the ground's."""
    axes.set_facecolor(_NONE)
    axes.imshow(values, cmap=colours, vmin=bottom, vmax=top, aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
