"""Operations while layers are read into them, and what all readers of layers share.

A reader is a function of (draft, node, values that the layer reads) that adds the layer's operations and returns the
value that they make; it raises a `Refusal` where the runtime cannot do what the layer does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from keras import activations, layers

from nhn_tf.models.keras_graph import Graph, Node, kind_of, obstacle, weights_of
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.operations import Op, ProgramError, Shape, UnsupportedLayerError

SELU_SCALE: Final = 1.0507009873554805
SELU_ALPHA: Final = 1.6732632423543772

SLOPES: Final[Mapping[str, float]] = {"elu": 1.0, "squareplus": 4.0, "soft_shrink": 0.5, "hard_shrink": 0.5}
"""Keras's defaults of the activations that have a parameter, beside that of leaky_relu."""

ACTIVATION_NAMES: Final[Mapping[Any, str]] = {
    getattr(activations, name): name for name in ops.ACTIVATIONS if hasattr(activations, name)
}
"""Those of Keras's activations that are one of the runtime's."""


class Draft:
    """Operations while they are read.

    Args:
      readers: layer type to what adds its operations: (draft, node, values that it reads) to the value that it makes.

    Attributes:
      ops: so far.
      shapes: of their values.
      values: layer name to the value that it makes.
    """

    def __init__(self, readers: Mapping[type, Reader]) -> None:
        self._readers = readers
        self.ops: list[Op] = []
        self.shapes: list[Shape] = []
        self.values: dict[str, int] = {}

    def read_layer(self, graph: Graph, name: str) -> None:
        """Adds the operations of one layer.

        Raises:
          UnsupportedLayerError: the runtime does not know it; nothing has been added.
        """
        node = graph.nodes[name]
        before = len(self.ops)
        try:
            for parent in node.parents:
                if parent not in self.values:
                    self.values[parent] = self.add(ops.Input(inputs=(), size=shape_of(graph.nodes[parent])))
            inputs = [self.values[parent] for parent in node.parents]
            value = self._reader(node)(self, node, inputs)
            if self.shapes[value] != shape_of(node):
                raise Refusal(f"it makes {shape_of(node)}, not {self.shapes[value]}")
        except (Refusal, ProgramError) as refusal:
            self._forget(before)
            kind, reason = type(node.layer).__name__, str(refusal).rstrip(".")
            raise UnsupportedLayerError(
                f"layer {name!r} ({kind}) is not supported by the sparse runtime: {reason}"
            ) from None
        self.values[name] = value

    def _forget(self, before: int) -> None:
        del self.ops[before:], self.shapes[before:]
        self.values = {name: value for name, value in self.values.items() if value < before}

    def _reader(self, node: Node) -> Reader:
        if reason := obstacle(node, self._readers):
            raise Refusal(reason)
        if node.parents and "float" not in node.dtype:  # Whole numbers wrap around, and divide otherwise.
            raise Refusal(f"it must compute with floating point numbers. Received: {node.dtype}")
        return self._readers[node.kind]

    def add(self, op: Op) -> int:
        """Appends an operation and returns its value."""
        self.shapes.append(ops.value_shape(op, [self.shapes[value] for value in op.inputs]))
        self.ops.append(op)
        return len(self.ops) - 1

    def activate(self, value: int, function: Any) -> int:
        """A Keras activation function of a value."""
        if function in (None, activations.linear):
            return value
        if function is activations.softmax:
            return self.add(ops.Softmax(inputs=(value,)))
        if isinstance(function, (layers.ReLU, layers.LeakyReLU, layers.ELU)):
            return self.activation_layer(function, value)
        if function is activations.selu:
            return self.scaled(self.curve(value, "elu", SELU_ALPHA), SELU_SCALE)
        if function is activations.celu:
            return self.curve(value, "elu")
        if function not in ACTIVATION_NAMES:
            raise Refusal(f"its activation {getattr(function, '__name__', function)!r} is unknown")
        return self.curve(value, ACTIVATION_NAMES[function])

    def activation_layer(self, layer: Any, value: int) -> int:
        """What a ReLU, LeakyReLU or ELU layer does to a value."""
        if kind_of(layer) is layers.LeakyReLU:
            return self.curve(value, "leaky_relu", float(layer.negative_slope))
        if kind_of(layer) is layers.ELU:
            return self.curve(value, "elu", float(layer.alpha))
        limit, slope, threshold = layer.max_value, float(layer.negative_slope), float(layer.threshold)
        if limit == 0:
            raise Refusal("a ReLU's maximum must be above 0. Received: max_value=0")
        if limit is None and not threshold:
            return self.curve(value, "leaky_relu" if slope else "relu", slope)
        above = self.curve(value, "hard_shrink", threshold) if threshold else value
        if limit is None:
            above = self.curve(above, "relu")
        elif limit == 6:
            above = self.curve(above, "relu6")
        else:
            above = self.scaled(self.curve(self.scaled(above, 6 / limit), "relu6"), limit / 6)
        if not slope:
            return above
        below = self.curve(self.scaled(value, -1.0, threshold), "relu")
        return self.add(ops.Elementwise(inputs=(above, self.scaled(below, -slope))))

    def curve(self, value: int, name: str, slope: float | None = None) -> int:
        """One of the runtime's activations of a value; without a `slope`, with Keras's."""
        slope = SLOPES.get(name, ops.LEAKY_SLOPE) if slope is None else slope
        return self.add(ops.Elementwise(inputs=(value,), activation=name, slope=slope))

    def scaled(self, value: int, factor: float, shift: float = 0.0) -> int:
        ones = np.ones(self.shapes[value][-1:])
        return self.affine(value, ones * factor, ones * shift)

    def constant(self, values: np.ndarray, shape: Shape) -> int:
        """The same map, broadcast to `shape`, for every image."""
        return self.add(
            ops.Constant(inputs=(), values=np.ascontiguousarray(np.broadcast_to(values, shape), np.float32))
        )

    def affine(self, value: int, scale: np.ndarray, shift: np.ndarray) -> int:
        scale, shift = scale.astype(np.float32), shift.astype(np.float32)
        return self.add(ops.Elementwise(inputs=(value,), scale=scale, shift=shift))


class Refusal(ValueError):
    """Why a layer is not supported."""


def shape_of(node: Node) -> Shape:
    shape = node.shape[1:]
    if None in shape or len(shape) not in (1, 3):
        raise Refusal(f"values must be [B, H, W, C] or [B, C] with known sizes. Received: {node.shape}")
    return tuple(int(side) for side in shape if side is not None)


def size_of(node: Node) -> tuple[int, int]:
    """(H, W) of a layer that makes a map."""
    height, width, *_ = shape_of(node)
    return (height, width)


def float_weights(layer: Any) -> dict[str, np.ndarray]:
    return {name: value.astype(np.float32) for name, value in weights_of(layer).items()}


Reader = Callable[[Draft, Node, list[int]], int]
