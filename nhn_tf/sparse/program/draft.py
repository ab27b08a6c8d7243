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

ACTIVATION_NAMES: Final[Mapping[Any, str]] = {
    getattr(activations, name): name
    for name in ("linear", "relu", "relu6", "leaky_relu", "exponential", "sigmoid", "tanh", "silu", "elu")
}


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
            if len(self.shapes[value]) != 1:
                raise Refusal("softmax is known of vectors (C,) only")
            return self.add(ops.Softmax(inputs=(value,)))
        if isinstance(function, (layers.ReLU, layers.LeakyReLU, layers.ELU)):
            return self.add(activation_op(function, value))
        if function not in ACTIVATION_NAMES:
            raise Refusal(f"its activation {getattr(function, '__name__', function)!r} is unknown")
        name = ACTIVATION_NAMES[function]
        slope = 1.0 if name == "elu" else ops.LEAKY_SLOPE
        return self.add(ops.Elementwise(inputs=(value,), activation=name, slope=slope))

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


def activation_op(layer: Any, value: int) -> ops.Elementwise:
    """What a ReLU, LeakyReLU or ELU layer does to a value."""
    if kind_of(layer) is layers.LeakyReLU:
        return ops.Elementwise(inputs=(value,), activation="leaky_relu", slope=float(layer.negative_slope))
    if kind_of(layer) is layers.ELU:
        return ops.Elementwise(inputs=(value,), activation="elu", slope=float(layer.alpha))
    limit, slope, threshold = layer.max_value, float(layer.negative_slope), float(layer.threshold)
    if threshold or limit not in (None, 6) or (limit is not None and slope):
        raise Refusal(
            "a ReLU may have a slope or a maximum of 6. "
            f"Received: max_value={limit}, negative_slope={slope}, threshold={threshold}"
        )
    name = "leaky_relu" if slope else "relu" if limit is None else "relu6"
    return ops.Elementwise(inputs=(value,), activation=name, slope=slope)


Reader = Callable[[Draft, Node, list[int]], int]
