"""Pictures as bytes: what every figure of the project shares, and the histogram that pruning shows.

Figures are made with matplotlib's Agg canvas and never through pyplot, so there is no window, no current figure and
nothing to close. The same input gives the same bytes: no dates and no random ids go into a file.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

DPI: Final = 144

NARROW: Final = 4.1
"""Inches across which a phone shows a figure without making its letters smaller."""

INK: Final = "#263238"
MUTED: Final = "#78909C"
GRID: Final = "#E3E8EB"
# Of Okabe and Ito's colours, which people who confuse red and green tell apart.
BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREEN: Final = "#009E73"
PURPLE: Final = "#CC79A7"
GREY: Final = "#B0BEC5"

_STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "hatch.linewidth": 0.8,
    "savefig.bbox": None,
    "text.usetex": False,
    "text.parse_math": False,  # names of classes and runs are no formulas
    "svg.hashsalt": "nhn_tf",
    "svg.fonttype": "path",
}

_BINS = 60
_COLUMNS = 4


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The project's look, for the figures that are made and written within."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of class names; a box stands in its place
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches on an Agg canvas."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as PNG, `DPI` pixels an inch."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as SVG, letters drawn as outlines."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def pixels(figure: Figure) -> tuple[int, int]:
    """(height, width) of the figure's PNG."""
    width, height = figure.canvas.get_width_height()
    return height, width


def std_histogram(
    scores: Mapping[str, np.ndarray], thresholds: float | Mapping[str, float], *, criterion: str = "std"
) -> tuple[bytes, tuple[int, int]]:
    """How sensitive the connections are, and where the threshold cuts (paper, section 2.2).

    One panel for all layers when they share a threshold, else one for each layer.

    Args:
      scores: layer name to finite floats of any shape, usually [Cin, Cout]: one score for each kernel.
      thresholds: the score below which a kernel goes: one number, or one for each layer; `inf` where none stayed.
      criterion: what the scores are, for the axis: std, l1, l2, random.

    Returns:
      PNG bytes, and (height, width) in pixels.

    Raises:
      ValueError: no scores, scores that are not finite, or a layer without a threshold.
    """
    flat = {name: np.asarray(array, np.float64).ravel() for name, array in scores.items()}
    if not any(values.size for values in flat.values()):
        raise ValueError("`scores` must hold at least one score. Received: none.")
    if bad := [name for name, values in flat.items() if not np.isfinite(values).all()]:
        raise ValueError(f"`scores` must be finite. Received: NaN or infinity in {', '.join(bad)}.")
    cuts = dict(thresholds) if isinstance(thresholds, Mapping) else dict.fromkeys(flat, float(thresholds))
    if missing := [name for name in flat if name not in cuts]:
        raise ValueError(f"`thresholds` must name every layer. Received: none for {', '.join(missing)}.")

    label = {"std": "standard deviation of a kernel"}.get(criterion, f"{criterion} score of a kernel")
    with style():
        if len({cuts[name] for name in flat}) == 1:
            figure = new_figure(7.0, 3.6)
            axes = figure.subplots()
            cut = cuts[next(iter(flat))]
            _histogram(axes, np.concatenate(list(flat.values())), cut)
            axes.set(xlabel=label, ylabel="kernels", title=f"Kernels of {len(flat)} layers")
            axes.legend(loc="upper right")
        else:
            figure = _panels(flat, cuts)
            figure.supxlabel(label, fontsize=9)
            figure.supylabel("kernels", fontsize=9)
        figure.set_layout_engine("constrained")
        return png(figure), pixels(figure)


def kept_histograms(
    scores: Mapping[str, np.ndarray],
    kept: Mapping[str, np.ndarray],
    thresholds: Mapping[str, float] = {},
    *,
    narrow: bool = False,
) -> Figure:
    """A panel for each layer: how sensitive its kernels are, those that went in grey, and where its threshold cuts.

    Args:
      scores: layer name to float [Cin, Cout], one score for each kernel.
      kept: by the same names, bool [Cin, Cout].
      thresholds: the score below which a layer's kernels went, for the layers of which it is known.
      narrow: as wide as a phone.
    """
    columns = min(2 if narrow else _COLUMNS, len(scores))
    rows = math.ceil(len(scores) / columns)
    with style():
        figure = new_figure(NARROW if narrow else max(2.3 * columns, 5.0), 1.7 * rows + 0.6)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (name, values) in zip(grid, scores.items(), strict=False):
            sides = [values[~kept[name]], values[kept[name]]]
            edges = np.linspace(0.0, max(float(values.max(initial=0.0)), 1e-9), _BINS // 2 + 1)
            axes.hist(sides, bins=edges.tolist(), stacked=True, color=[GREY, BLUE])
            if name in thresholds:
                axes.axvline(thresholds[name], color=ORANGE, linewidth=1.2)
            axes.set_title(f"{name}: {kept[name].mean():.0%} kept", fontsize=8)
            axes.tick_params(labelsize=7)
            axes.locator_params(nbins=4)
        for axes in grid[len(scores) :]:
            axes.set_axis_off()
        figure.supxlabel("standard deviation of a kernel", fontsize=9)
        figure.supylabel("kernels", fontsize=9)
        keys: list[tuple[Any, str]] = [(Patch(facecolor=GREY), "pruned"), (Patch(facecolor=BLUE), "kept")]
        if thresholds:
            keys.append((Line2D([], [], color=ORANGE), "threshold"))
        figure.legend(*zip(*keys, strict=True), loc="outside upper center", ncols=len(keys))
        figure.set_layout_engine("constrained")
    return figure


def _panels(flat: Mapping[str, np.ndarray], cuts: Mapping[str, float]) -> Figure:
    columns = min(_COLUMNS, len(flat))
    rows = math.ceil(len(flat) / columns)
    figure = new_figure(max(2.3 * columns, 5.0), 1.7 * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, values) in zip(grid, flat.items(), strict=False):
        _histogram(axes, values, cuts[name])
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=4)
    for axes in grid[len(flat) :]:
        axes.set_axis_off()
    keys = [Patch(facecolor=GREY), Patch(facecolor=BLUE), Line2D([], [], color=ORANGE)]
    figure.legend(keys, ["pruned", "kept", "the layer's threshold"], loc="outside upper center", ncols=3)
    return figure


def _histogram(axes: Axes, values: np.ndarray, cut: float) -> None:
    """Bars of the scores, those below the cut in grey, and the cut as a line."""
    gone = values < cut
    edges = _edges(values, cut)
    counts = [f"pruned: {int(gone.sum()):,}", f"kept: {int((~gone).sum()):,}"]
    axes.hist([values[gone], values[~gone]], bins=edges.tolist(), stacked=True, color=[GREY, BLUE], label=counts)
    if math.isfinite(cut):
        axes.axvline(cut, color=ORANGE, linewidth=1.5, label=f"threshold: {cut:.4g}")
    axes.set_xlim(edges[0], edges[-1])


def _edges(values: np.ndarray, cut: float) -> np.ndarray:
    """Edges of about `_BINS` equal bins over `values` and 0, one edge at the cut if the bins are fine enough for it."""
    low = min(float(values.min(initial=0.0)), 0.0)
    top = max(float(values.max(initial=0.0)), cut if math.isfinite(cut) else low)
    if top <= low:
        top = low + 1.0
    width = (top - low) / _BINS
    below = round((cut - low) / width) if math.isfinite(cut) else 0
    if below > 0:
        width = (cut - low) / below
    return low + width * np.arange(math.ceil((top - low) / width - 1e-9) + 2)
