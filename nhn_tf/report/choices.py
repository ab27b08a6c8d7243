"""What a search chooses, as heat maps: the controller's ops and skips, a population's genes.

Letters: n architectures, G genes, L layers, K population.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nhn_tf.report import figures
from nhn_tf.values.locations import KERNEL_SIZES, LocationSpace
from nhn_tf.values.space import Space

_SHARE: Final = "Blues"
_NONE: Final = "#F6F8F9"


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


def _heat(axes: Axes, values: np.ndarray, top: float) -> None:
    """Values [rows, columns] in 0..top as colours, those that are NaN as the ground's."""
    axes.set_facecolor(_NONE)
    axes.imshow(values, cmap=_SHARE, vmin=0.0, vmax=top, aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
