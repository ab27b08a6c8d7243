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

Shape = tuple[int, ...]

MAX_SIDE: Final = 1024
MAX_CHANNELS: Final = 1 << 16
MAX_KERNEL: Final = 15
MAX_STRIDE: Final = 8
MAX_VALUE: Final = 1 << 27
"""Numbers of one map, and of all outputs of an image."""
MAX_VECTOR: Final = 1 << 24
MAX_OPS: Final = 1 << 12
MAX_READS: Final = 1 << 16
"""Inputs of all operations together."""
MAX_SUMMED: Final = 64
"""Inputs of one sum."""
MAX_OUTPUTS: Final = 256

FUSED_ACTIVATIONS: Final = ("linear", "relu", "relu6", "leaky_relu")
"""What a convolution or a dense layer can do to a result before it stores it."""

ACTIVATIONS: Final = (*FUSED_ACTIVATIONS, "exponential", "sigmoid", "tanh", "silu", "elu")

LEAKY_SLOPE: Final = 0.2
"""Of "leaky_relu", when no `slope` is given: Keras's."""


class ProgramError(ValueError):
    """Operations that do not fit together."""


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


def _require(condition: bool, rule: str, received: object) -> None:
    if not condition:
        raise ProgramError(f"{rule}. Received: {received}.")


def _count(shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _map(shape: Shape) -> Shape:
    _require(len(shape) == 3, "the operation reads a map (H, W, C)", shape)
    return shape


def _vector(shape: Shape) -> int:
    _require(len(shape) == 1, "the operation reads a vector (C,)", shape)
    return shape[0]


def _array(name: str, array: np.ndarray, shape: Shape, dtype: type = np.float32) -> None:
    _require(
        isinstance(array, np.ndarray) and array.dtype == dtype and array.shape == shape,
        f"`{name}` must be {np.dtype(dtype).name} {shape}",
        f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__,
    )


def _activation(name: str, slope: float, allowed: Sequence[str]) -> None:
    _require(name in allowed, f"`activation` must be one of {', '.join(allowed)}", repr(name))
    _require(abs(slope) < 1e30, "`slope` must be a number below 1e30", slope)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Op:
    """Base.

    Attributes:
      inputs: the values that it reads.
    """

    inputs: tuple[int, ...]
    arity: ClassVar[int | None] = 1

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the value that it makes, given those that it reads.

        Raises:
          ProgramError: they do not fit.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Input(Op):
    """What the caller gives: a map or a vector per image."""

    size: Shape
    arity: ClassVar[int | None] = 0

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        _require(len(self.size) in (1, 3), "`size` must be (H, W, C) or (C,)", self.size)
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
            _require(
                len(pair) == 2 and all(low <= value <= high for value in pair),
                f"`{name}` must be two numbers in {low}..{high}",
                pair,
            )
        for side, size, window, stride, pad in zip(
            shape, self.size, self.window, self.strides, self.pads, strict=False
        ):
            last = (size - 1) * stride - pad
            _require(pad < window and last < side + stride, "windows must meet the map", (self.size, self.pads))


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
        self.check_window(_map(inputs[0]))
        channels = inputs[0][2]
        _require(self.mask.ndim == 2, "`mask` must be [Cin, Cout]", self.mask.shape)
        filters = self.mask.shape[1]
        _array("mask", self.mask, (channels, filters), np.bool_)
        _array("kernels", self.kernels, (int(self.mask.sum()), *self.window))
        _array("bias", self.bias, (filters,))
        _activation(self.activation, self.slope, FUSED_ACTIVATIONS)
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
        self.check_window(_map(inputs[0]))
        _require(1 <= self.multiplier <= MAX_CHANNELS, "`multiplier` must be positive", self.multiplier)
        filters = inputs[0][2] * self.multiplier
        _array("kernels", self.kernels, (filters, *self.window))
        _array("bias", self.bias, (filters,))
        _activation(self.activation, self.slope, FUSED_ACTIVATIONS)
        return (*self.size, filters)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Windowed):
    """The largest value or the average within a window; what is beyond the border does not count."""

    kind: str

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        self.check_window(_map(inputs[0]))
        _require(self.kind in ("max", "average"), "`kind` must be max or average", repr(self.kind))
        for side, size, stride, pad in zip(inputs[0], self.size, self.strides, self.pads, strict=False):
            _require(pad >= 0 and (size - 1) * stride - pad < side, "every window must meet the map", self.pads)
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

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        _require(len(inputs) <= MAX_SUMMED, f"a sum has up to {MAX_SUMMED} inputs", len(inputs))
        _require(len(set(inputs)) == 1, "the inputs must have one shape", list(inputs))
        _require((self.scale is None) == (self.shift is None), "`scale` needs `shift`", "one of them")
        if self.scale is not None and self.shift is not None:
            _array("scale", self.scale, inputs[0][-1:])
            _array("shift", self.shift, inputs[0][-1:])
        _activation(self.activation, self.slope, ACTIVATIONS)
        return inputs[0]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Concatenate(Op):
    """Channels side by side."""

    arity: ClassVar[int | None] = None

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        _require(len({shape[:-1] for shape in inputs}) == 1, "the maps must have one size", list(inputs))
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
        _require(self.kind in ("average", "max", "weighted"), "unknown `kind`", repr(self.kind))
        _require((self.kind == "weighted") == (self.weights is not None), "`weights` are for weighted", self.kind)
        if self.weights is not None:
            _array("weights", self.weights, _map(inputs[0]))
        return (_map(inputs[0])[2],)


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
        _require(self.kernel.ndim == 2, "`kernel` must be [Cin, Cout]", self.kernel.shape)
        filters = self.kernel.shape[1]
        _array("kernel", self.kernel, (_vector(inputs[0]), filters))
        _array("bias", self.bias, (filters,))
        _activation(self.activation, self.slope, FUSED_ACTIVATIONS)
        return (filters,)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(Op):
    """Of a vector."""

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        return (_vector(inputs[0]),)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Op):
    """A map (H, W, C) as the vector (H * W * C,), channels fastest, or a vector (C,) as the map (1, 1, C)."""

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        if len(inputs[0]) == 1:
            return (1, 1, *inputs[0])
        return (_count(_map(inputs[0])),)


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
            _require(inside, f"`{name}` must be two numbers in {low}..{MAX_SIDE}", pair)
        return (*self.size, _map(inputs[0])[2])


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Repeat(Op):
    """Each pixel as a block of equal ones (nearest upsampling).

    Attributes:
      factors: down and right.
    """

    factors: tuple[int, int]

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        inside = len(self.factors) == 2 and all(1 <= value <= MAX_STRIDE for value in self.factors)
        _require(inside, f"`factors` must be two numbers in 1..{MAX_STRIDE}", self.factors)
        height, width, channels = _map(inputs[0])
        return (height * self.factors[0], width * self.factors[1], channels)


def value_shape(op: Op, inputs: Sequence[Shape]) -> Shape:
    """Shape of what an operation makes of values of these shapes.

    Raises:
      ProgramError: they do not fit, or it is beyond the limits.
    """
    shape = op.shape(inputs)
    limits = (MAX_SIDE, MAX_SIDE, MAX_CHANNELS) if len(shape) == 3 else (MAX_VECTOR,)
    inside = all(1 <= size <= limit for size, limit in zip(shape, limits, strict=True))
    _require(inside, f"a value's shape must be within {limits}", shape)
    _require(_count(shape) <= MAX_VALUE, f"a value has up to {MAX_VALUE} numbers", shape)
    return shape


OPS: Final[dict[str, type[Op]]] = {
    kind.__name__: kind
    for kind in (
        Input, Conv, Depthwise, Pool, Elementwise, Concatenate, GlobalPool, Dense, Softmax, Reshape, Pad, Repeat,
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
        _require(1 <= len(self.ops) <= MAX_OPS, f"a program has 1..{MAX_OPS} operations", len(self.ops))
        reads = sum(len(op.inputs) for op in self.ops)
        _require(reads <= MAX_READS, f"a program's operations have up to {MAX_READS} inputs", reads)
        shapes: list[Shape] = []
        for number, op in enumerate(self.ops):
            try:
                shapes.append(self._shape(number, op, shapes))
            except ProgramError as error:
                raise ProgramError(f"operation {number} ({type(op).__name__}): {error}") from None
        few = 1 <= len(self.outputs) <= MAX_OUTPUTS
        _require(few, f"a program has 1..{MAX_OUTPUTS} outputs", len(self.outputs))
        inside = all(0 <= value < len(self.ops) for value in self.outputs)
        _require(inside, "`outputs` must name operations", self.outputs)
        numbers = sum(_count(shapes[value]) for value in self.outputs)
        _require(numbers <= MAX_VALUE, f"the outputs have up to {MAX_VALUE} numbers", numbers)
        object.__setattr__(self, "shapes", tuple(shapes))

    @staticmethod
    def _shape(number: int, op: Op, shapes: list[Shape]) -> Shape:
        inside = all(0 <= value < number for value in op.inputs)
        _require(inside, f"`inputs` must name operations before {number}", op.inputs)
        fits = len(op.inputs) == op.arity if op.arity is not None else len(op.inputs) >= 1
        _require(fits, f"the number of `inputs` must be {op.arity or '1 or more'}", len(op.inputs))
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
