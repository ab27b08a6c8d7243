"""A picture of a discovered network, in the manner of the paper's figure 2.

Layers stand one below the other, coloured by what they compute. Skips are arcs on their left; add-ons are small blocks
`a` on lines to their right, from where they read to the layer they join; a small block `p` halves the maps between two
segments. `lay_out` decides where everything stands, `draw` puts it on a figure.

All lengths are inches; x grows to the right, y downwards, and the column of layers has its middle at x = 0.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Final, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke

from nhn_tf.report import figures
from nhn_tf.values import names
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.space import Op, op_named

YELLOW: Final = "#FFD95A"
ORANGE: Final = "#FF9F45"
TEAL: Final = "#9BD8CF"
BLUE: Final = "#A9CBEF"
PLAIN: Final = "#ECEFF1"
BAND: Final = "#F6F8F9"
ADDON_LINE: Final = "#C2185B"
SKIP_LINE: Final = "#546E7A"
FAR_SKIP_LINE: Final = "#AEBBC2"

_PITCH = 0.54  # from layer to layer
_TRANSITION_PITCH = 0.47  # from a layer to a `p`, and on
_LAYER = (2.3, 0.34)
_TRANSITION = (0.34, 0.24)
_ADDON = (0.62, 0.2)
_LANE = 0.74  # from add-on lane to add-on lane
_FIRST_LANE = 0.55  # from the column's edge to the first lane's middle
_REACH = 0.36  # how far a skip over one layer bulges out
_OUT, _IN = 0.09, -0.08  # lines leave below a block's middle and arrive above it
_MARGIN = 0.22
_TITLE = 0.34
_LEGEND_ROW = 0.2
_LEGEND_COLUMNS = 3
_LEAST_WIDTH = 6.4


@dataclasses.dataclass(frozen=True)
class Box:
    """A block: what it is, its middle and size, and the texts in its middle, at its left and at its right."""

    role: Literal["end", "layer", "transition", "addon"]
    x: float
    y: float
    width: float
    height: float
    label: str
    op: Op | None = None
    number: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Skip:
    """An arc from y to y; `reach` is how far left of the column it bulges, `far` whether it leaves its segment."""

    start: float
    end: float
    reach: float
    far: bool


@dataclasses.dataclass(frozen=True)
class AddonLine:
    """A line that leaves a block's right edge, runs down a lane and comes back to a layer's right edge."""

    start_x: float
    start: float
    end: float
    lane_x: float


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where everything stands.

    Attributes:
      boxes: every block.
      skips: every arc on the left.
      addon_lines: every line on the right.
      bands: for each segment (top, bottom, name).
      left, right, bottom: the extent; the top is y = 0.
    """

    boxes: tuple[Box, ...]
    skips: tuple[Skip, ...]
    addon_lines: tuple[AddonLine, ...]
    bands: tuple[tuple[float, float, str], ...]
    left: float
    right: float
    bottom: float

    def of(self, role: str) -> list[Box]:
        return [box for box in self.boxes if box.role == role]


def lay_out(genotype: Genotype) -> Layout:
    """Places every block and line of a genotype's picture."""
    column = _column(genotype)
    layers = [box for box in column if box.role == "layer"]
    skips = tuple(
        _skip(genotype, [column[0], *layers], source, target)
        for target, row in enumerate(genotype.skips)
        for source in row
    )
    addon_lines, addon_boxes = _addons(genotype, column, layers)
    per = genotype.space.layers_per_segment
    bands = tuple(
        (layers[first].y - _PITCH / 2, layers[first + per - 1].y + _PITCH / 2, f"segment {segment + 1}")
        for segment, first in enumerate(range(0, len(layers), per))
    )
    edge = _LAYER[0] / 2
    return Layout(
        boxes=(*column, *addon_boxes),
        skips=skips,
        addon_lines=addon_lines,
        bands=bands,
        left=-edge - max([skip.reach for skip in skips], default=0.0) - 2 * _MARGIN,
        right=max([edge, *(box.x + box.width / 2 for box in addon_boxes)]) + _MARGIN,
        bottom=column[-1].y + _LAYER[1] / 2 + _MARGIN,
    )


def _column(genotype: Genotype) -> list[Box]:
    """The blocks in the middle, from the stem to the classifier."""
    y = _MARGIN + _LAYER[1] / 2
    column = [Box("end", 0.0, y, *_LAYER, "stem, 3×3 conv")]
    for layer, name in enumerate(genotype.ops):
        y += _TRANSITION_PITCH if column[-1].role == "transition" else _PITCH
        op = op_named(name)
        column.append(Box("layer", 0.0, y, *_LAYER, _op_label(op), op, str(layer), _kept(genotype, layer)))
        if layer in genotype.space.transitions:
            y += _TRANSITION_PITCH
            column.append(Box("transition", 0.0, y, *_TRANSITION, "p"))
    column.append(Box("end", 0.0, y + _PITCH, *_LAYER, "global pooling, classifier"))
    return column


def _op_label(op: Op) -> str:
    words = {"conv": "conv", "separable_conv": "sep conv", "avg_pool": "avg pool", "max_pool": "max pool"}
    return f"{op.kernel_size}×{op.kernel_size} {words[op.kind]}"


def _kept(genotype: Genotype, layer: int) -> str:
    """The share of the layer's kernels that pruning kept, "" where it has no mask."""
    mask = genotype.masks.get(names.layer(layer, "op")) if genotype.masks is not None else None
    return "" if mask is None else f"{100 * mask.mean():.0f}%"


def _skip(genotype: Genotype, outputs: list[Box], source: int, target: int) -> Skip:
    """The arc from output `source` (0 is the stem) to layer `target`."""
    above, below = outputs[source], outputs[target + 1]
    space = genotype.space
    far = space.segment_of(max(source - 1, 0)) != space.segment_of(target)
    return Skip(above.y + _OUT, below.y + _IN, _REACH * ((below.y - above.y) / _PITCH) ** 0.5, far)


def _addons(genotype: Genotype, column: list[Box], layers: list[Box]) -> tuple[tuple[AddonLine, ...], tuple[Box, ...]]:
    """The lines and blocks on the right, each in the innermost lane that is free all along it."""
    per = genotype.space.layers_per_segment
    inputs = [column[0], *(box for box in column if box.role == "transition")]
    ends = []
    for addon in genotype.addons:
        segment = genotype.space.segment_of(addon.target)
        source = layers[segment * per + addon.source - 1] if addon.source else inputs[segment]
        ends.append((source, layers[addon.target], addon.kernel_size))

    lanes: list[list[tuple[float, float]]] = []
    lines, boxes = [], []
    for source, target, size in sorted(ends, key=lambda e: (e[1].y - e[0].y, e[0].y, e[2])):
        start = source.y + (_OUT if source.role != "transition" else 0.0)
        end = target.y + (_IN if size == 3 else _IN + 0.07)
        number = next(
            (i for i, lane in enumerate(lanes) if all(end < top or start > bottom for top, bottom in lane)), len(lanes)
        )
        if number == len(lanes):
            lanes.append([])
        lanes[number].append((start, end))
        x = _LAYER[0] / 2 + _FIRST_LANE + number * _LANE
        lines.append(AddonLine(source.width / 2, start, end, x))
        op = op_named(f"conv{size}x{size}")
        boxes.append(Box("addon", x, _block_y(column, source, target), *_ADDON, f"a {size}×{size}", op))
    return tuple(lines), tuple(boxes)


def _block_y(column: list[Box], source: Box, target: Box) -> float:
    """Where an add-on's block stands: midway between two rows, so that no line to another lane runs into it."""
    first, last = column.index(source), column.index(target)
    above = column[(first + last - 1) // 2]
    below = column[(first + last - 1) // 2 + 1]
    return (above.y + (_OUT if above.role != "transition" else 0.0) + below.y + _IN) / 2


# On paper.


def draw(genotype: Genotype, *, title: str = "", separable_as_dense: bool = False) -> Figure:
    """Draws a network.

    Args:
      genotype: what to draw; with masks, each layer says which share of its kernels is left.
      title: a line above the picture.
      separable_as_dense: whether the network has full convolutions where the search chose separable ones; the legend
        says so then.

    Returns:
      A figure whose size fits the network.
    """
    layout = lay_out(genotype)
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


def _fill(op: Op | None) -> str:
    if op is None:
        return PLAIN
    if op.is_convolution:
        return YELLOW if op.kernel_size == 3 else ORANGE
    return TEAL if op.kind == "avg_pool" else BLUE


def _hatch(op: Op | None) -> str | None:
    return "////" if op is not None and op.kind == "separable_conv" else None


def _darker(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"#{int(red * 0.72):02x}{int(green * 0.72):02x}{int(blue * 0.72):02x}"


def _draw_bands(axes: Axes, layout: Layout) -> None:
    left = layout.left + _MARGIN * 0.4
    for top, bottom, name in layout.bands:
        width = layout.right - _MARGIN * 0.4 - left
        axes.add_patch(Rectangle((left, top), width, bottom - top, facecolor=BAND, edgecolor="none", zorder=0))
        size = 7.5 if bottom - top > _PITCH * 1.5 else 6.0
        middle = (top + bottom) / 2
        axes.text(left + 0.13, middle, name, rotation=90, ha="center", va="center", fontsize=size, color=figures.MUTED)


def _draw_skip(axes: Axes, skip: Skip) -> None:
    edge = -_LAYER[0] / 2
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
    edge, x = _LAYER[0] / 2, line.lane_x
    points = [
        (line.start_x, line.start), (x - radius, line.start), (x, line.start), (x, line.start + radius),
        (x, line.end - radius), (x, line.end), (x - radius, line.end), (edge + 0.05, line.end),
    ]  # fmt: skip
    codes = [Path.MOVETO, Path.LINETO, Path.CURVE3, Path.CURVE3, Path.LINETO, Path.CURVE3, Path.CURVE3, Path.LINETO]
    axes.add_patch(PathPatch(Path(points, codes), facecolor="none", edgecolor=ADDON_LINE, linewidth=1.1, zorder=1.5))
    _arrowhead(axes, edge, line.end, (-1, 0), ADDON_LINE, size=0.06)


def _arrowhead(axes: Axes, x: float, y: float, toward: tuple[int, int], color: str, size: float = 0.07) -> None:
    """A filled triangle with its tip at (x, y), pointing along the unit vector `toward`."""
    dx, dy = toward[0] * size, toward[1] * size
    corners = [(x, y), (x - dx - dy / 2, y - dy - dx / 2), (x - dx + dy / 2, y - dy + dx / 2)]
    axes.add_patch(Polygon(corners, closed=True, facecolor=color, edgecolor="none", zorder=3.5))


def _draw_box(axes: Axes, box: Box) -> None:
    fill = _fill(box.op)
    radius = min(0.07, box.height / 3)
    axes.add_patch(
        FancyBboxPatch(
            (box.x - box.width / 2 + radius, box.y - box.height / 2 + radius),
            box.width - 2 * radius,
            box.height - 2 * radius,
            boxstyle=f"round,pad={radius}",
            facecolor=fill,
            edgecolor=_darker(fill),
            hatch=_hatch(box.op),
            linewidth=0.9,
            zorder=3,
        )
    )
    halo = [withStroke(linewidth=3.0, foreground=fill)]
    text: dict[str, Any] = {"va": "center_baseline", "zorder": 4, "path_effects": halo}
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
    names = {"conv": "convolution", "avg_pool": "average pooling", "max_pool": "max pooling"}
    names["separable_conv"] = "separable, built as full" if separable_as_dense else "separable convolution"
    entries: list[tuple[object, str]] = []
    for op in sorted(ops.values(), key=lambda op: (not op.is_convolution, op.kernel_size, op.kind)):
        fill = _fill(op)
        patch = Patch(facecolor=fill, edgecolor=_darker(fill), hatch=_hatch(op))
        entries.append((patch, f"{op.kernel_size}×{op.kernel_size} {names[op.kind]}"))
    if layout.skips:
        lines = tuple(Line2D([], [], color=color, linewidth=1.4) for color in (SKIP_LINE, FAR_SKIP_LINE))
        entries.append((lines, "skip within, across segments"))
    if layout.of("transition"):
        entries.append((Patch(facecolor=PLAIN, edgecolor=_darker(PLAIN)), "p: maps halved"))
    if sizes := sorted({box.op.kernel_size for box in layout.of("addon") if box.op}):
        fills = [_fill(op_named(f"conv{size}x{size}")) for size in sizes]
        patches = tuple(Patch(facecolor=fill, edgecolor=ADDON_LINE) for fill in fills)
        entries.append((patches if len(patches) > 1 else patches[0], "a: add-on neurons"))
    if any(box.note for box in layout.of("layer")):
        mark = Line2D([], [], linestyle="none", marker=r"$\%$", markersize=8, color=figures.INK, markeredgewidth=0)
        entries.append((mark, "share of kernels kept"))
    return entries
