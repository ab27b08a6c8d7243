"""Where everything stands in a picture of a network, in the manner of the paper's figure 2.

Layers stand one below the other. Skips are arcs on their left; add-ons are small blocks on lines to their right, from
where they read to the layer they join; a small block `p` halves the maps between two segments.

All lengths are inches; x grows to the right, y downwards, and the column of layers has its middle at x = 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from nhn_tf.values import names
from nhn_tf.values.genotype import Addon, Genotype
from nhn_tf.values.space import Op, op_named

LAYER: Final = (2.3, 0.34)
PITCH: Final = 0.54
"""From layer to layer."""
MARGIN: Final = 0.22
_TRANSITION_PITCH = 0.47  # from a layer to a `p`, and on
_TRANSITION = (0.34, 0.24)
_ADDON = (0.62, 0.2)
_NAMED_ADDON = (0.86, 0.2)  # with the numbers of its sets
_LANE_GAP = 0.12  # between the blocks of two lanes
_FIRST_LANE = 0.24  # from the column's edge to the first lane's blocks
_REACH = 0.36  # how far a skip over one layer bulges out
_OUT, _IN = 0.09, -0.08  # lines leave below a block's middle and arrive above it

OPS: Final = {
    "conv": "convolution",
    "separable_conv": "separable convolution",
    "avg_pool": "average pooling",
    "max_pool": "max pooling",
}


@dataclasses.dataclass(frozen=True)
class Box:
    """A block: what it is, its middle and size, the texts in its middle, at its left and at its right, and in words."""

    role: Literal["end", "layer", "transition", "addon"]
    x: float
    y: float
    width: float
    height: float
    label: str
    op: Op | None = None
    number: str = ""
    note: str = ""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Skip:
    """An arc from y to y; `reach` is how far left of the column it bulges, `far` whether it leaves its segment."""

    start: float
    end: float
    reach: float
    far: bool


@dataclasses.dataclass(frozen=True)
class AddonLine:
    """A line that leaves a block's right edge, runs down a lane and comes back to a layer's right edge.

    `sets` are the numbers, from 1, of the sets of add-ons that have it; none where there is one set only.
    """

    start_x: float
    start: float
    end: float
    lane_x: float
    sets: tuple[int, ...] = ()


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


def lay_out(genotype: Genotype, sets: Sequence[Sequence[Addon]] = ()) -> Layout:
    """Places every block and line of a genotype's picture.

    Args:
      genotype: the network.
      sets: of add-ons to show in place of its own, each location once, with the numbers of the sets that have it.
    """
    column = _column(genotype)
    layers = [box for box in column if box.role == "layer"]
    skips = tuple(
        _skip(genotype, [column[0], *layers], source, target)
        for target, row in enumerate(genotype.skips)
        for source in row
    )
    addon_lines, addon_boxes = _addons(genotype, column, layers, sets)
    per = genotype.space.layers_per_segment
    bands = tuple(
        (layers[first].y - PITCH / 2, layers[first + per - 1].y + PITCH / 2, f"segment {segment + 1}")
        for segment, first in enumerate(range(0, len(layers), per))
    )
    edge = LAYER[0] / 2
    return Layout(
        boxes=(*column, *addon_boxes),
        skips=skips,
        addon_lines=addon_lines,
        bands=bands,
        left=-edge - max([skip.reach for skip in skips], default=0.0) - 2 * MARGIN,
        right=max([edge, *(box.x + box.width / 2 for box in addon_boxes)]) + MARGIN,
        bottom=column[-1].y + LAYER[1] / 2 + MARGIN,
    )


def _column(genotype: Genotype) -> list[Box]:
    """The blocks in the middle, from the stem to the classifier."""
    y = MARGIN + LAYER[1] / 2
    column = [Box("end", 0.0, y, *LAYER, "stem, 3×3 conv", detail="stem: 3×3 convolution of the image")]
    for layer, name in enumerate(genotype.ops):
        y += _TRANSITION_PITCH if column[-1].role == "transition" else PITCH
        op = op_named(name)
        column.append(
            Box("layer", 0.0, y, *LAYER, _op_label(op), op, str(layer), _kept(genotype, layer), _told(genotype, layer))
        )
        if layer in genotype.space.transitions:
            y += _TRANSITION_PITCH
            column.append(Box("transition", 0.0, y, *_TRANSITION, "p", detail="p: height and width halved"))
    classifier = "global pooling, classifier"
    column.append(Box("end", 0.0, y + PITCH, *LAYER, classifier, detail=f"{classifier}: maps to one score a class"))
    return column


def described(op: Op, kinds: Mapping[str, str] = OPS) -> str:
    """An op in words: "3×3 convolution"; one of the user's own by its name."""
    return op.name if op.kind == "own" else f"{op.kernel_size}×{op.kernel_size} {kinds[op.kind]}"


def _op_label(op: Op) -> str:
    words = {"conv": "conv", "separable_conv": "sep conv", "avg_pool": "avg pool", "max_pool": "max pool"}
    return described(op, words)


def _kept(genotype: Genotype, layer: int) -> str:
    """The share of the layer's kernels that pruning kept, "" where it has no mask."""
    mask = genotype.masks.get(names.layer(layer, "op")) if genotype.masks is not None else None
    return "" if mask is None else f"{100 * mask.mean():.0f}%"


def _told(genotype: Genotype, layer: int) -> str:
    """The layer in words."""
    op = op_named(genotype.ops[layer])
    told = [f"layer {layer}: {described(op)}"]
    if joined := genotype.skips[layer]:
        told.append("skips from " + ", ".join(f"layer {output - 1}" if output else "the stem" for output in joined))
    mask = genotype.masks.get(names.layer(layer, "op")) if genotype.masks is not None else None
    if mask is not None:
        told.append(f"{int(mask.sum()):,} of {mask.size:,} kernels kept")
    if grown := [addon for addon in genotype.addons if addon.target == layer]:
        told.append("add-ons " + ", ".join(_addon_told(genotype, addon) for addon in grown))
    return "; ".join(told)


def _addon_told(genotype: Genotype, addon: Addon) -> str:
    return f"{addon.kernel_size}×{addon.kernel_size} from {source_name(genotype, addon.target, addon.source)}"


def source_name(genotype: Genotype, target: int, source: int) -> str:
    """What an add-on at layer `target` reads when its source within the segment is `source`."""
    segment = genotype.space.segment_of(target)
    if source == 0:
        return f"pool {segment}" if segment else "stem"
    return f"layer {segment * genotype.space.layers_per_segment + source - 1}"


def _skip(genotype: Genotype, outputs: list[Box], source: int, target: int) -> Skip:
    """The arc from output `source` (0 is the stem) to layer `target`."""
    above, below = outputs[source], outputs[target + 1]
    space = genotype.space
    far = space.segment_of(max(source - 1, 0)) != space.segment_of(target)
    return Skip(above.y + _OUT, below.y + _IN, _REACH * ((below.y - above.y) / PITCH) ** 0.5, far)


def _addons(
    genotype: Genotype, column: list[Box], layers: list[Box], sets: Sequence[Sequence[Addon]]
) -> tuple[tuple[AddonLine, ...], tuple[Box, ...]]:
    """The lines and blocks on the right, each in the innermost lane that is free all along it."""
    per = genotype.space.layers_per_segment
    inputs = [column[0], *(box for box in column if box.role == "transition")]
    ends = []
    for addon in sorted({addon for members in sets or (genotype.addons,) for addon in members}):
        segment = genotype.space.segment_of(addon.target)
        source = layers[segment * per + addon.source - 1] if addon.source else inputs[segment]
        ends.append((source, layers[addon.target], addon))

    width, height = _NAMED_ADDON if sets else _ADDON
    lanes: list[list[tuple[float, float]]] = []
    lines, boxes = [], []
    for source, target, addon in sorted(ends, key=lambda e: (e[1].y - e[0].y, e[0].y, e[2].kernel_size)):
        start = source.y + (_OUT if source.role != "transition" else 0.0)
        end = target.y + (_IN if addon.kernel_size == 3 else _IN + 0.07)
        number = next(
            (i for i, lane in enumerate(lanes) if all(end < top or start > bottom for top, bottom in lane)), len(lanes)
        )
        if number == len(lanes):
            lanes.append([])
        lanes[number].append((start, end))
        x = LAYER[0] / 2 + _FIRST_LANE + width / 2 + number * (width + _LANE_GAP)
        having = tuple(place for place, members in enumerate(sets, 1) if addon in members)
        lines.append(AddonLine(source.width / 2, start, end, x, having))
        size = f"{addon.kernel_size}×{addon.kernel_size}"
        label = f"{size}: {', '.join(map(str, having))}" if sets else f"a {size}"
        detail = f"add-on neurons: {_addon_told(genotype, addon)} to layer {addon.target}"
        if sets:
            detail += f"; in set {', '.join(map(str, having))}"
        op = op_named(f"conv{addon.kernel_size}x{addon.kernel_size}")
        boxes.append(Box("addon", x, _block_y(column, source, target), width, height, label, op, detail=detail))
    return tuple(lines), tuple(boxes)


def _block_y(column: list[Box], source: Box, target: Box) -> float:
    """Where an add-on's block stands: midway between two rows, so that no line to another lane runs into it."""
    first, last = column.index(source), column.index(target)
    above = column[(first + last - 1) // 2]
    below = column[(first + last - 1) // 2 + 1]
    return (above.y + (_OUT if above.role != "transition" else 0.0) + below.y + _IN) / 2
