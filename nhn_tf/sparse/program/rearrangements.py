"""Operations that move values, or blend neighbours, and know no weights.

Letters: H W spatial, C channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from nhn_tf.sparse.program.op import (  # fmt: skip
    MAX_CHANNELS,
    MAX_SIDE,
    MAX_STRIDE,
    Op,
    Shape,
    check_array,
    count,
    map_of,
    require,
    vector_of,
)

MAX_TERMS: Final = 64
"""Rows or columns that one is blended of."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Op):
    """A map (H, W, C) as the vector (H * W * C,), channels fastest, or a vector (C,) as the map (1, 1, C)."""

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        if len(inputs[0]) == 1:
            return (1, 1, *inputs[0])
        return (count(map_of(inputs[0])),)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Pad(Op):
    """Zeros around a map, or less of it.

    Attributes:
      pads: rows on top and columns on the left; negative: cut off.
      size: (H, W) of the result.
    """

    pads: tuple[int, int]
    size: tuple[int, int]

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        for name, pair, low in (("pads", self.pads, -MAX_SIDE), ("size", self.size, 1)):
            inside = len(pair) == 2 and all(low <= value <= MAX_SIDE for value in pair)
            require(inside, f"`{name}` must be two numbers in {low}..{MAX_SIDE}", pair)
        return (*self.size, map_of(inputs[0])[2])


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Repeat(Op):
    """Each pixel as a block of equal ones (nearest upsampling).

    Attributes:
      factors: down and right.
    """

    factors: tuple[int, int]

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        inside = len(self.factors) == 2 and all(1 <= value <= MAX_STRIDE for value in self.factors)
        require(inside, f"`factors` must be two numbers in 1..{MAX_STRIDE}", self.factors)
        height, width, channels = map_of(inputs[0])
        return (height * self.factors[0], width * self.factors[1], channels)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Unflatten(Op):
    """A vector (H * W * C,), channels fastest, as a map.

    Attributes:
      size: (H, W, C).
    """

    size: tuple[int, int, int]

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        inside = len(self.size) == 3 and all(1 <= side <= MAX_CHANNELS for side in self.size)
        require(inside, f"`size` must be three numbers in 1..{MAX_CHANNELS}", self.size)
        require(count(self.size) == vector_of(inputs[0]), f"the vector must fill {self.size}", inputs[0])
        return self.size


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Transpose(Op):
    """Rows as columns."""

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        height, width, channels = map_of(inputs[0])
        return (width, height, channels)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Interleave(Op):
    """Groups of channels side by side as neighbouring pixels (depth to space), and a part of the map that they make.

    With factors (u, v), channel (a v + b) C + c at pixel (y, x) becomes channel c at pixel (u y + a, v x + b).

    Attributes:
      factors: (u, v), down and right.
      corner: row and column of the result's first pixel.
      size: (H, W) of the result.
    """

    factors: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        inside = len(self.factors) == 2 and all(1 <= value <= MAX_STRIDE for value in self.factors)
        require(inside, f"`factors` must be two numbers in 1..{MAX_STRIDE}", self.factors)
        height, width, channels = map_of(inputs[0])
        for name, pair, low in (("corner", self.corner, 0), ("size", self.size, 1)):
            require(len(pair) == 2 and min(pair) >= low, f"`{name}` must be two numbers from {low} on", pair)
        for side, factor, first, size in zip((height, width), self.factors, self.corner, self.size, strict=True):
            require(first + size <= side * factor, "the part must lie within the map", (self.corner, self.size))
        groups = self.factors[0] * self.factors[1]
        require(channels % groups == 0, f"the channels must come in {groups} groups", channels)
        return (*self.size, channels // groups)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Resample(Op):
    """Each row, or each column, as a weighted sum of the map's.

    Attributes:
      axis: 0 for rows, 1 for columns.
      matrix: float32 [result's, map's].
    """

    axis: int
    matrix: np.ndarray

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        require(self.axis in (0, 1), "`axis` must be 0 or 1", self.axis)
        shape = map_of(inputs[0])
        require(self.matrix.ndim == 2, "`matrix` must have two axes", self.matrix.shape)
        check_array("matrix", self.matrix, (len(self.matrix), shape[self.axis]))
        terms = int(np.count_nonzero(self.matrix, axis=1).max(initial=0))
        require(terms <= MAX_TERMS, f"a row or column may be a sum of up to {MAX_TERMS}", terms)
        return (len(self.matrix), *shape[1:]) if self.axis == 0 else (shape[0], len(self.matrix), shape[2])
