"""A discovered network as a figure: what `placement` has placed, coloured by what it computes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path

from nhn_tf.report import figures
from nhn_tf.report.placement import LAYER, MARGIN, OPS, PITCH, AddonLine, Box, Layout, Skip, described, lay_out
from nhn_tf.values.genotype import Addon, Genotype
from nhn_tf.values.space import Op, op_named

YELLOW: Final = "#FFD95A"
ORANGE: Final = "#FF9F45"
TEAL: Final = "#9BD8CF"
BLUE: Final = "#A9CBEF"
PURPLE: Final = "#D6B6E4"
PLAIN: Final = "#ECEFF1"
BAND: Final = "#F6F8F9"
ADDON_LINE: Final = "#C2185B"
SKIP_LINE: Final = "#546E7A"
FAR_SKIP_LINE: Final = "#AEBBC2"

_TITLE = 0.34
_LEGEND_ROW = 0.2
_LEGEND_COLUMNS = 3
_LEAST_WIDTH = 6.4

SET_LINES: Final = (figures.ORANGE, figures.BLUE, figures.GREEN)
"""Of several sets of add-ons in one picture: the line of a location has the colour of the best set that has it."""


def draw(
    genotype: Genotype,
    *,
    sets: Sequence[Sequence[Addon]] = (),
    title: str = "",
    separable_as_dense: bool = False,
) -> Figure:
    """Draws a network.

    Args:
      genotype: what to draw; with masks, each layer says which share of its kernels is left.
      sets: of add-ons to show in place of its own, the best first; at most as many as `SET_LINES`.
      title: a line above the picture.
      separable_as_dense: whether the network has full convolutions where the search chose separable ones; the legend
        says so then.

    Returns:
      A figure whose size fits the network.
    """
    layout = lay_out(genotype, sets)
    entries = _legend_entries(layout, separable_as_dense)
    legend_height = _LEGEND_ROW * -(-len(entries) // _LEGEND_COLUMNS) + 0.15
    # Narrow networks are widened evenly, so that title and legend fit.
    extra = max(0.0, _LEAST_WIDTH - (layout.right - layout.left)) / 2
    left, right = layout.left - extra, layout.right + extra
    top = -_TITLE if title else 0.0
    bottom = layout.bottom + legend_height
    with figures.style():
        figure = figures.new_figure(right - left, bottom - top)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top))
        axes.set_axis_off()
        _draw_bands(axes, layout)
        for skip in layout.skips:
            _draw_skip(axes, skip)
        _draw_chain(axes, layout)
        for line in layout.addon_lines:
            _draw_addon_line(axes, line)
        for box in layout.boxes:
            _draw_box(axes, box)
        if title:
            axes.text((left + right) / 2, -_TITLE / 2, title, ha="center", va="center", fontsize=10, fontweight="bold")
        handles, labels = zip(*entries, strict=True)
        axes.legend(
            handles, labels, ncols=_LEGEND_COLUMNS, loc="lower center", bbox_to_anchor=(0.5, 0.0), fontsize=8,
            handlelength=2.0, columnspacing=1.6, handler_map={tuple: HandlerTuple(ndivide=None)},
        )  # fmt: skip
    return figure


def fill_of(op: Op | None) -> str:
    if op is None:
        return PLAIN
    if op.kind == "own":
        return PURPLE
    if op.has_batch_norm:
        return YELLOW if op.kernel_size == 3 else ORANGE
    return TEAL if op.kind == "avg_pool" else BLUE


def hatch_of(op: Op | None) -> str | None:
    return "////" if op is not None and op.kind == "separable_conv" else None


def darker(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"#{int(red * 0.72):02x}{int(green * 0.72):02x}{int(blue * 0.72):02x}"


def _draw_bands(axes: Axes, layout: Layout) -> None:
    left = layout.left + MARGIN * 0.4
    for top, bottom, name in layout.bands:
        width = layout.right - MARGIN * 0.4 - left
        axes.add_patch(Rectangle((left, top), width, bottom - top, facecolor=BAND, edgecolor="none", zorder=0))
        size = 7.5 if bottom - top > PITCH * 1.5 else 6.0
        middle = (top + bottom) / 2
        axes.text(left + 0.13, middle, name, rotation=90, ha="center", va="center", fontsize=size, color=figures.MUTED)


def _draw_skip(axes: Axes, skip: Skip) -> None:
    edge = -LAYER[0] / 2
    out = edge - skip.reach * 4 / 3  # the control points of a cubic that bulges by `reach`
    points = [(edge, skip.start), (out, skip.start), (out, skip.end), (edge - 0.05, skip.end)]
    path = Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    color, zorder = (FAR_SKIP_LINE, 1.0) if skip.far else (SKIP_LINE, 1.1)
    axes.add_patch(PathPatch(path, facecolor="none", edgecolor=color, linewidth=1.0, zorder=zorder))
    _arrowhead(axes, edge, skip.end, (1, 0), SKIP_LINE)


def _draw_chain(axes: Axes, layout: Layout) -> None:
    column = [box for box in layout.boxes if box.role != "addon"]
    for above, below in itertools.pairwise(column):
        top, bottom = above.y + above.height / 2, below.y - below.height / 2
        axes.add_line(Line2D([0, 0], [top, bottom - 0.06], color=figures.INK, linewidth=1.6, zorder=2))
        _arrowhead(axes, 0.0, bottom, (0, 1), figures.INK, size=0.09)


def _draw_addon_line(axes: Axes, line: AddonLine) -> None:
    radius = min(0.12, (line.end - line.start) / 2)
    edge, x = LAYER[0] / 2, line.lane_x
    points = [
        (line.start_x, line.start), (x - radius, line.start), (x, line.start), (x, line.start + radius),
        (x, line.end - radius), (x, line.end), (x - radius, line.end), (edge + 0.05, line.end),
    ]  # fmt: skip
    codes = [Path.MOVETO, Path.LINETO, Path.CURVE3, Path.CURVE3, Path.LINETO, Path.CURVE3, Path.CURVE3, Path.LINETO]
    color = line_color(line)
    axes.add_patch(PathPatch(Path(points, codes), facecolor="none", edgecolor=color, linewidth=1.1, zorder=1.5))
    _arrowhead(axes, edge, line.end, (-1, 0), color, size=0.06)


def line_color(line: AddonLine) -> str:
    return SET_LINES[line.sets[0] - 1] if line.sets else ADDON_LINE


def _arrowhead(axes: Axes, x: float, y: float, toward: tuple[int, int], color: str, size: float = 0.07) -> None:
    """A filled triangle with its tip at (x, y), pointing along the unit vector `toward`."""
    dx, dy = toward[0] * size, toward[1] * size
    corners = [(x, y), (x - dx - dy / 2, y - dy - dx / 2), (x - dx + dy / 2, y - dy + dx / 2)]
    axes.add_patch(Polygon(corners, closed=True, facecolor=color, edgecolor="none", zorder=3.5))


def _draw_box(axes: Axes, box: Box) -> None:
    fill = fill_of(box.op)
    radius = min(0.07, box.height / 3)
    axes.add_patch(
        FancyBboxPatch(
            (box.x - box.width / 2 + radius, box.y - box.height / 2 + radius),
            box.width - 2 * radius,
            box.height - 2 * radius,
            boxstyle=f"round,pad={radius}",
            facecolor=fill,
            edgecolor=darker(fill),
            hatch=hatch_of(box.op),
            linewidth=0.9,
            zorder=3,
        )
    )
    text: dict[str, Any] = {"va": "center_baseline", "zorder": 4}
    if hatch_of(box.op):  # no stroke runs through a letter
        text["bbox"] = {"facecolor": fill, "edgecolor": "none", "boxstyle": "round,pad=0.2"}
    size = {"layer": 9.0, "end": 8.5, "transition": 9.0, "addon": 7.5}[box.role]
    slant = "italic" if box.role == "transition" else "normal"
    axes.text(box.x, box.y, box.label, ha="center", fontsize=size, fontstyle=slant, **text)
    inset = box.width / 2 - 0.1
    if box.number:
        axes.text(box.x - inset, box.y, box.number, ha="left", fontsize=8, fontweight="bold", **text)
    if box.note:
        axes.text(box.x + inset, box.y, box.note, ha="right", fontsize=7.5, **text)


def _legend_entries(layout: Layout, separable_as_dense: bool) -> list[tuple[object, str]]:
    """Handles and labels of what the picture holds, and of nothing else."""
    ops = {box.op.name: box.op for box in layout.of("layer") if box.op}
    names = OPS | ({"separable_conv": "separable, built as full"} if separable_as_dense else {})
    entries: list[tuple[object, str]] = []
    ours = [op for op in ops.values() if op.kind != "own"]
    for op in sorted(ours, key=lambda op: (not op.has_batch_norm, op.kernel_size, op.kind)):
        fill = fill_of(op)
        patch = Patch(facecolor=fill, edgecolor=darker(fill), hatch=hatch_of(op))
        entries.append((patch, described(op, names)))
    if len(ours) < len(ops):
        entries.append((Patch(facecolor=PURPLE, edgecolor=darker(PURPLE)), "ops of your own"))
    if layout.skips:
        lines = tuple(Line2D([], [], color=color, linewidth=1.4) for color in (SKIP_LINE, FAR_SKIP_LINE))
        entries.append((lines, "skip within, across segments"))
    if layout.of("transition"):
        entries.append((Patch(facecolor=PLAIN, edgecolor=darker(PLAIN)), "p: maps halved"))
    numbers = sorted({line.sets[0] for line in layout.addon_lines if line.sets})
    if sizes := sorted({box.op.kernel_size for box in layout.of("addon") if box.op}):
        fills = [fill_of(op_named(f"conv{size}x{size}")) for size in sizes]
        patches = tuple(Patch(facecolor=fill, edgecolor=ADDON_LINE) for fill in fills)
        told = "add-ons and their sets" if numbers else "a: add-on neurons"
        entries.append((patches if len(patches) > 1 else patches[0], told))
    for number in numbers:
        line = Line2D([], [], color=SET_LINES[number - 1], linewidth=1.4)
        entries.append((line, ("in set 1", "in set 2, not in 1", "in set 3 alone")[number - 1]))
    if any(box.note for box in layout.of("layer")):
        mark = Line2D([], [], linestyle="none", marker=r"$\%$", markersize=8, color=figures.INK, markeredgewidth=0)
        entries.append((mark, "share of kernels kept"))
    return entries
