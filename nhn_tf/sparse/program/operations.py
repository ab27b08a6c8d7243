"""What a network computes, as a short list of operations: the runtime's own form of a model.

An operation names the values it reads by their place in the list: value i is what operation i makes. A value is a map
(H, W, C) or a vector (C,), per image. `Program` checks itself: every operation derives the shape of its value from the
shapes that it reads and refuses what does not fit, so that a plan made from a program never addresses foreign memory.

Letters: H W spatial, C channels (Cin read, Cout made), kh kw kernel size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np

from nhn_tf.sparse.program.op import (  # fmt: skip
    ACTIVATIONS,
    FUSED_ACTIVATIONS,
    LEAKY_SLOPE,
    MAX_CHANNELS,
    MAX_KERNEL,
    MAX_OPS,
    MAX_OUTPUTS,
    MAX_READS,
    MAX_SIDE,
    MAX_STRIDE,
    MAX_SUMMED,
    MAX_VALUE,
    MAX_VECTOR,
    Op,
    ProgramError,
    Shape,
    check_activation,
    check_array,
    count,
    map_of,
    require,
    vector_of,
)
from nhn_tf.sparse.program.rearrangements import Interleave, Pad, Repeat, Resample, Reshape, Transpose, Unflatten


class UnsupportedLayerError(ValueError):
    """A layer that the runtime cannot compute.

    Attributes:
      reason: which one and why, without what `nhn_tf.sparse.compile` could do about it.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f'{self.reason}. Replace it, or pass fallback="keras" to let Keras compute it.'


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Input(Op):
    """What the caller gives: a map or a vector per image."""

    size: Shape
    arity: ClassVar[int | None] = 0

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        require(len(self.size) in (1, 3), "`size` must be (H, W, C) or (C,)", self.size)
        return self.size


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Windowed(Op):
    """Base of what slides a window over a map; beyond the border the map is 0.

    Attributes:
      window: (kh, kw).
      strides: down and right.
      pads: row and column of the map, negated, at which the window of the first output starts. Negative: inside.
      size: (H, W) of the result.
    """

    window: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    size: tuple[int, int]

    def check_window(self, shape: Shape) -> None:
        """Refuses what is out of range, and windows beyond a map of this shape, except for one row behind it."""
        for name, pair, low, high in (
            ("window", self.window, 1, MAX_KERNEL),
            ("strides", self.strides, 1, MAX_STRIDE),
            ("pads", self.pads, -MAX_STRIDE, MAX_KERNEL - 1),
            ("size", self.size, 1, MAX_SIDE),
        ):
            require(
                len(pair) == 2 and all(low <= value <= high for value in pair),
                f"`{name}` must be two numbers in {low}..{high}",
                pair,
            )
        for side, size, window, stride, pad in zip(
            shape, self.size, self.window, self.strides, self.pads, strict=False
        ):
            last = (size - 1) * stride - pad
            require(pad < window and last < side + stride, "windows must meet the map", (self.size, self.pads))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Conv(Windowed):
    """A convolution of which only the live kernels are kept.

    Attributes:
      mask: bool [Cin, Cout], the live kernels.
      kernels: float32 [live, kh, kw], sorted by output channel, then by input channel.
      bias: float32 [Cout].
      relu_input: whether negative inputs count as 0.
      activation: of the result.
      slope: of "leaky_relu" below 0.
    """

    mask: np.ndarray
    kernels: np.ndarray
    bias: np.ndarray
    relu_input: bool = False
    activation: str = "linear"
    slope: float = LEAKY_SLOPE

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        self.check_window(map_of(inputs[0]))
        channels = inputs[0][2]
        require(self.mask.ndim == 2, "`mask` must be [Cin, Cout]", self.mask.shape)
        filters = self.mask.shape[1]
        check_array("mask", self.mask, (channels, filters), np.bool_)
        check_array("kernels", self.kernels, (int(self.mask.sum()), *self.window))
        check_array("bias", self.bias, (filters,))
        check_activation(self.activation, self.slope, FUSED_ACTIVATIONS)
        return (*self.size, filters)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Depthwise(Windowed):
    """Each input channel makes `multiplier` neighbouring output channels.

    Attributes:
      kernels: float32 [Cin * multiplier, kh, kw].
      bias: float32 [Cin * multiplier].
    """

    multiplier: int
    kernels: np.ndarray
    bias: np.ndarray
    relu_input: bool = False
    activation: str = "linear"
    slope: float = LEAKY_SLOPE

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        self.check_window(map_of(inputs[0]))
        require(1 <= self.multiplier <= MAX_CHANNELS, "`multiplier` must be positive", self.multiplier)
        filters = inputs[0][2] * self.multiplier
        check_array("kernels", self.kernels, (filters, *self.window))
        check_array("bias", self.bias, (filters,))
        check_activation(self.activation, self.slope, FUSED_ACTIVATIONS)
        return (*self.size, filters)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Windowed):
    """The largest value or the average within a window; what is beyond the border does not count."""

    kind: str

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        self.check_window(map_of(inputs[0]))
        require(self.kind in ("max", "average"), "`kind` must be max or average", repr(self.kind))
        for side, size, stride, pad in zip(inputs[0], self.size, self.strides, self.pads, strict=False):
            require(pad >= 0 and (size - 1) * stride - pad < side, "every window must meet the map", self.pads)
        return (*self.size, inputs[0][2])


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Elementwise(Op):
    """activation(scale * (sum of the inputs) + shift).

    Attributes:
      scale, shift: float32 [C].
    """

    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    activation: str = "linear"
    slope: float = LEAKY_SLOPE
    arity: ClassVar[int | None] = None

    def affine(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift of so many channels, 1 and 0 where there are none."""
        scale = np.ones(channels, np.float32) if self.scale is None else self.scale
        return scale, np.zeros(channels, np.float32) if self.shift is None else self.shift

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        require(len(inputs) <= MAX_SUMMED, f"a sum has up to {MAX_SUMMED} inputs", len(inputs))
        require(len(set(inputs)) == 1, "the inputs must have one shape", list(inputs))
        require((self.scale is None) == (self.shift is None), "`scale` needs `shift`", "one of them")
        if self.scale is not None and self.shift is not None:
            check_array("scale", self.scale, inputs[0][-1:])
            check_array("shift", self.shift, inputs[0][-1:])
        check_activation(self.activation, self.slope, ACTIVATIONS)
        return inputs[0]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Constant(Op):
    """The same map for every image.

    Attributes:
      values: float32 [H, W, C].
    """

    values: np.ndarray
    arity: ClassVar[int | None] = 0

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        check_array("values", self.values, map_of(self.values.shape))
        return self.values.shape


COMBINATIONS: Final = ("sum", "product", "quotient", "maximum", "minimum")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Combine(Op):
    """The inputs, one after another, element by element.

    Beside a map (H, W, C) may stand what is spread over it: one pixel (1, 1, C), one channel (H, W, 1), a vector (C,);
    beside a vector one number (1,).

    Attributes:
      kind: one of `COMBINATIONS`.
    """

    kind: str
    arity: ClassVar[int | None] = None

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        require(self.kind in COMBINATIONS, f"`kind` must be one of {', '.join(COMBINATIONS)}", repr(self.kind))
        require(len(inputs) <= MAX_SUMMED, f"up to {MAX_SUMMED} inputs are combined", len(inputs))
        channels = max(shape[-1] for shape in inputs)
        maps = [shape for shape in inputs if len(shape) == 3]
        whole = (*max((shape[:2] for shape in maps), default=()), channels)
        fit = all(
            shape[-1] in (1, channels) and (len(shape) == 1 or shape[:2] in (whole[:2], (1, 1))) for shape in inputs
        )
        require(fit, "the inputs must have one shape, or be one pixel or one channel of it", list(inputs))
        return whole


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Normalize(Op):
    """(x - mean) / sqrt(variance + epsilon), or x / sqrt(mean of squares + epsilon).

    Means are over the channels of each pixel, or over all pixels of each of several equal groups of channels; a vector
    counts as one pixel, and as a map of one pixel.

    Attributes:
      groups: of channels, over all pixels; 0 for each pixel by itself.
      center: whether the mean is subtracted.
      epsilon: at least 0.
    """

    groups: int
    center: bool
    epsilon: float

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        channels = inputs[0][-1]
        fits = 0 <= self.groups <= channels and channels % max(self.groups, 1) == 0
        require(fits, f"`groups` must be 0 or divide {channels} channels", self.groups)
        require(0 <= self.epsilon < 1e30, "`epsilon` must be from 0 to 1e30", self.epsilon)
        return inputs[0]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Concatenate(Op):
    """Channels side by side."""

    arity: ClassVar[int | None] = None

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        require(len({shape[:-1] for shape in inputs}) == 1, "the maps must have one size", list(inputs))
        return (*inputs[0][:-1], sum(shape[-1] for shape in inputs))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GlobalPool(Op):
    """Each channel's map becomes one value.

    Attributes:
      kind: "average", "max" or "weighted" (the sum of the map times `weights`).
      weights: float32 [H, W, C], of "weighted".
    """

    kind: str
    weights: np.ndarray | None = None

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        require(self.kind in ("average", "max", "weighted"), "unknown `kind`", repr(self.kind))
        require((self.kind == "weighted") == (self.weights is not None), "`weights` are for weighted", self.kind)
        if self.weights is not None:
            check_array("weights", self.weights, map_of(inputs[0]))
        return (map_of(inputs[0])[2],)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Dense(Op):
    """activation(input @ kernel + bias).

    Attributes:
      kernel: float32 [Cin, Cout].
      bias: float32 [Cout].
    """

    kernel: np.ndarray
    bias: np.ndarray
    activation: str = "linear"
    slope: float = LEAKY_SLOPE

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        require(self.kernel.ndim == 2, "`kernel` must be [Cin, Cout]", self.kernel.shape)
        filters = self.kernel.shape[1]
        check_array("kernel", self.kernel, (vector_of(inputs[0]), filters))
        check_array("bias", self.bias, (filters,))
        check_activation(self.activation, self.slope, FUSED_ACTIVATIONS)
        return (filters,)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(Op):
    """Over the channels: of a vector, or of each pixel of a map."""

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        return inputs[0]


def value_shape(op: Op, inputs: Sequence[Shape]) -> Shape:
    """Shape of what an operation makes of values of these shapes.

    Raises:
      ProgramError: they do not fit, or it is beyond the limits.
    """
    shape = op.shape(inputs)
    limits = (MAX_SIDE, MAX_SIDE, MAX_CHANNELS) if len(shape) == 3 else (MAX_VECTOR,)
    inside = all(1 <= size <= limit for size, limit in zip(shape, limits, strict=True))
    require(inside, f"a value's shape must be within {limits}", shape)
    require(count(shape) <= MAX_VALUE, f"a value has up to {MAX_VALUE} numbers", shape)
    return shape


OPS: Final[dict[str, type[Op]]] = {
    kind.__name__: kind
    for kind in (
        Input, Constant, Conv, Depthwise, Pool, Elementwise, Combine, Normalize, Concatenate, GlobalPool, Dense,
        Softmax, Reshape, Unflatten, Transpose, Pad, Repeat, Interleave, Resample,
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Operations in an order in which they can run.

    Attributes:
      ops: each reads values made before it.
      outputs: the values that the caller gets.
      shapes: of the values, derived.
    """

    ops: tuple[Op, ...]
    outputs: tuple[int, ...]
    shapes: tuple[Shape, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        require(1 <= len(self.ops) <= MAX_OPS, f"a program has 1..{MAX_OPS} operations", len(self.ops))
        require(any(isinstance(op, Input) for op in self.ops), "a program has an input", "none")
        reads = sum(len(op.inputs) for op in self.ops)
        require(reads <= MAX_READS, f"a program's operations have up to {MAX_READS} inputs", reads)
        shapes: list[Shape] = []
        for number, op in enumerate(self.ops):
            try:
                shapes.append(self._shape(number, op, shapes))
            except ProgramError as error:
                raise ProgramError(f"operation {number} ({type(op).__name__}): {error}") from None
        few = 1 <= len(self.outputs) <= MAX_OUTPUTS
        require(few, f"a program has 1..{MAX_OUTPUTS} outputs", len(self.outputs))
        inside = all(0 <= value < len(self.ops) for value in self.outputs)
        require(inside, "`outputs` must name operations", self.outputs)
        numbers = sum(count(shapes[value]) for value in self.outputs)
        require(numbers <= MAX_VALUE, f"the outputs have up to {MAX_VALUE} numbers", numbers)
        object.__setattr__(self, "shapes", tuple(shapes))

    @staticmethod
    def _shape(number: int, op: Op, shapes: list[Shape]) -> Shape:
        inside = all(0 <= value < number for value in op.inputs)
        require(inside, f"`inputs` must name operations before {number}", op.inputs)
        fits = len(op.inputs) == op.arity if op.arity is not None else len(op.inputs) >= 1
        require(fits, f"the number of `inputs` must be {op.arity or '1 or more'}", len(op.inputs))
        return value_shape(op, [shapes[value] for value in op.inputs])

    @property
    def inputs(self) -> tuple[int, ...]:
        """The values that the caller gives."""
        return tuple(number for number, op in enumerate(self.ops) if isinstance(op, Input))

    @property
    def parameters(self) -> int:
        """Numbers in all kernels, biases and weights; pruned kernels have none."""
        arrays = (getattr(op, field.name) for op in self.ops for field in dataclasses.fields(op))
        return sum(a.size for a in arrays if isinstance(a, np.ndarray) and a.dtype == np.float32)
