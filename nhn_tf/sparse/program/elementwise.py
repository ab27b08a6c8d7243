"""Readers of layers that treat every element alone: normalisation, activations, arithmetic, preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import keras
import numpy as np
from keras import activations, layers

from nhn_tf.layers.batch_norm import BatchNorm
from nhn_tf.models.keras_graph import Node, operation, weights_of
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.draft import Draft, Reader, Refusal, activation_op, float_weights, shape_of

FUNCTIONS: Final = ("relu", "relu6", "sigmoid", "silu", "tanh")
"""Functions of `keras.ops` that are activations."""


def _read_norm(draft: Draft, node: Node, inputs: list[int]) -> int:
    layer = node.layer
    if layer.axis not in (-1, len(node.shape) - 1):
        raise Refusal(f"its axis must be the channels. Received: axis={layer.axis}")
    if getattr(layer, "renorm", False) or getattr(layer, "use_batch_statistics", False):
        raise Refusal("it must normalise by its moving statistics")
    weights = {name: value.astype(np.float64) for name, value in weights_of(layer).items()}
    scale = weights.get("gamma", 1.0) / np.sqrt(weights["moving_variance"] + layer.epsilon)
    return draft.affine(inputs[0], scale, weights.get("beta", 0.0) - weights["moving_mean"] * scale)


def _read_activation_layer(draft: Draft, node: Node, inputs: list[int]) -> int:
    return draft.add(activation_op(node.layer, inputs[0]))


def _read_activation(draft: Draft, node: Node, inputs: list[int]) -> int:
    return draft.activate(inputs[0], node.layer.activation)


def _read_softmax(draft: Draft, node: Node, inputs: list[int]) -> int:
    if node.layer.axis not in (-1, len(node.shape) - 1):
        raise Refusal(f"softmax must run over the last axis. Received: axis={node.layer.axis}")
    return draft.activate(inputs[0], activations.softmax)


def _read_add(draft: Draft, node: Node, inputs: list[int]) -> int:
    return draft.add(ops.Elementwise(inputs=tuple(inputs)))


def _read_average(draft: Draft, node: Node, inputs: list[int]) -> int:
    return _scaled(draft, _sum(draft, node, inputs), 1 / len(inputs))


def _read_subtract(draft: Draft, node: Node, inputs: list[int]) -> int:
    return _sum(draft, node, [inputs[0], _scaled(draft, inputs[1], -1.0)])


def _read_maximum(draft: Draft, node: Node, inputs: list[int]) -> int:
    """max(a, b) = a + relu(b - a)."""
    value = inputs[0]
    for other in inputs[1:]:
        more = draft.activate(_sum(draft, node, [other, _scaled(draft, value, -1.0)]), activations.relu)
        value = draft.add(ops.Elementwise(inputs=(value, more)))
    return value


def _read_minimum(draft: Draft, node: Node, inputs: list[int]) -> int:
    return _scaled(draft, _read_maximum(draft, node, [_scaled(draft, value, -1.0) for value in inputs]), -1.0)


def _sum(draft: Draft, node: Node, inputs: Sequence[int]) -> int:
    return draft.add(ops.Elementwise(inputs=tuple(inputs)))


def _scaled(draft: Draft, value: int, factor: float, shift: float = 0.0) -> int:
    ones = np.ones(draft.shapes[value][-1:])
    return draft.affine(value, ones * factor, ones * shift)


def _read_arithmetic(draft: Draft, node: Node, inputs: list[int]) -> int:
    """`x + y`, `x * 2`, `1 - x` and their like: of two values, or of a value and a number."""
    if len(inputs) == 2:
        if node.kind not in ARITHMETIC:
            raise Refusal("it must compute with one value and one number")
        return ARITHMETIC[node.kind](draft, node, inputs)
    first, second = (None if isinstance(a, keras.KerasTensor) else float(np.asarray(a)) for a in node.call_args)
    number = second if first is None else first
    if number is None or (first is not None and node.kind in (_DIVIDE, _TRUE_DIVIDE)):
        raise Refusal("it must compute with one value and one number behind it, or with two values")
    if node.kind is _ADD:
        return _scaled(draft, inputs[0], 1.0, number)
    if node.kind is _SUBTRACT:
        return _scaled(draft, inputs[0], 1.0, -number) if first is None else _scaled(draft, inputs[0], -1.0, number)
    return _scaled(draft, inputs[0], number if node.kind is _MULTIPLY else 1 / number)


def _read_function(function: Any) -> Reader:
    return lambda draft, node, inputs: draft.activate(inputs[0], function)


def _read_rescaling(draft: Draft, node: Node, inputs: list[int]) -> int:
    ones = np.ones(draft.shapes[inputs[0]][-1:])
    return draft.affine(inputs[0], ones * np.asarray(node.layer.scale), ones * np.asarray(node.layer.offset))


def _read_normalization(draft: Draft, node: Node, inputs: list[int]) -> int:
    layer, channels = node.layer, draft.shapes[inputs[0]][-1]
    mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(a), np.float64).ravel() for a in (layer.mean, layer.variance)
    )
    if mean.size not in (1, channels):
        raise Refusal(f"its axis must be the channels. Received: axis={layer.axis}")
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    scale, shift = (1 / deviation, -mean / deviation) if not layer.invert else (deviation, mean)
    return draft.affine(inputs[0], np.ones(channels) * scale, np.ones(channels) * shift)


def _read_resizing(draft: Draft, node: Node, inputs: list[int]) -> int:
    if draft.shapes[inputs[0]] != shape_of(node):
        raise Refusal(f"it must leave sizes as they are. Received: {draft.shapes[inputs[0]]} to {shape_of(node)}")
    return inputs[0]


def _read_prelu(draft: Draft, node: Node, inputs: list[int]) -> int:
    """max(x, 0) - alpha max(-x, 0), alpha for each channel."""
    alpha = float_weights(node.layer)["alpha"]
    if alpha.size != alpha.shape[-1]:
        raise Refusal("its slopes must be shared by all positions: PReLU(shared_axes=[1, 2])")
    slopes = np.ones(draft.shapes[inputs[0]][-1:], np.float32) * alpha.ravel()
    below = draft.activate(_scaled(draft, inputs[0], -1.0), activations.relu)
    above = draft.activate(inputs[0], activations.relu)
    return _sum(draft, node, [above, draft.affine(below, -slopes, np.zeros_like(slopes))])


_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE, _TRUE_DIVIDE = (
    operation(function, 2)
    for function in (keras.ops.add, keras.ops.subtract, keras.ops.multiply, keras.ops.divide, keras.ops.true_divide)
)

ARITHMETIC: Final[Mapping[type, Reader]] = {
    _ADD: _read_add,
    _SUBTRACT: _read_subtract,
}
"""Bare operation to reader, where both of its operands are values."""

READERS: Final[Mapping[type, Reader]] = {
    layers.BatchNormalization: _read_norm,
    BatchNorm: _read_norm,
    **dict.fromkeys((layers.ReLU, layers.LeakyReLU, layers.ELU), _read_activation_layer),
    layers.Activation: _read_activation,
    layers.Softmax: _read_softmax,
    layers.Add: _read_add,
    layers.Average: _read_average,
    layers.Maximum: _read_maximum,
    layers.Minimum: _read_minimum,
    layers.Subtract: _read_subtract,
    layers.PReLU: _read_prelu,
    layers.Rescaling: _read_rescaling,
    layers.Normalization: _read_normalization,
    layers.Resizing: _read_resizing,
    **dict.fromkeys((_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE, _TRUE_DIVIDE), _read_arithmetic),
    operation(keras.ops.maximum, 2): _read_maximum,
    operation(keras.ops.minimum, 2): _read_minimum,
    **{operation(getattr(keras.ops, name)): _read_function(getattr(activations, name)) for name in FUNCTIONS},
}
"""Layer type, or bare operation, to reader."""
