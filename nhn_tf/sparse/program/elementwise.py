"""Readers of layers that treat every element alone: normalisation, activations, arithmetic, preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import keras
import numpy as np
from keras import activations, layers

from nhn_tf.models.keras_graph import LayerScale, Node, ScaledSum, operation
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.draft import Draft, Reader, Refusal, float_weights

FUNCTIONS: Final = (
    "hard_sigmoid", "hard_silu", "hard_tanh", "log_sigmoid", "relu", "relu6", "selu", "sigmoid", "silu", "softplus",
    "softsign", "sparse_plus", "sparse_sigmoid", "tanh", "tanh_shrink",
)  # fmt: skip
"""Functions of `keras.ops` that are activations without a parameter."""


def _read_activation_layer(draft: Draft, node: Node, inputs: list[int]) -> int:
    return draft.activation_layer(node.layer, inputs[0])


def _read_activation(draft: Draft, node: Node, inputs: list[int]) -> int:
    return draft.activate(inputs[0], node.layer.activation)


def _read_softmax(draft: Draft, node: Node, inputs: list[int]) -> int:
    if node.layer.axis not in (-1, len(node.shape) - 1):
        raise Refusal(f"softmax must run over the last axis. Received: axis={node.layer.axis}")
    return draft.activate(inputs[0], activations.softmax)


def _read_add(draft: Draft, node: Node, inputs: list[int]) -> int:
    """Of one shape, or spread over one another."""
    if len({draft.shapes[value] for value in inputs}) == 1:
        return draft.add(ops.Elementwise(inputs=tuple(inputs)))
    return draft.add(ops.Combine(inputs=tuple(inputs), kind="sum"))


def _read_average(draft: Draft, node: Node, inputs: list[int]) -> int:
    return draft.scaled(_read_add(draft, node, inputs), 1 / len(inputs))


def _read_subtract(draft: Draft, node: Node, inputs: list[int]) -> int:
    return _read_add(draft, node, [inputs[0], draft.scaled(inputs[1], -1.0)])


def _read_scaled_sum(draft: Draft, node: Node, inputs: list[int]) -> int:
    return _read_add(draft, node, [inputs[0], draft.scaled(inputs[1], node.layer.scale)])


def _read_combined(kind: str) -> Reader:
    return lambda draft, node, inputs: draft.add(ops.Combine(inputs=tuple(inputs), kind=kind))


def _read_extreme(kind: str) -> Reader:
    """Of two values, or of a value and a number: max(x, a) = a + relu(x - a)."""

    def reader(draft: Draft, node: Node, inputs: list[int]) -> int:
        if len(inputs) == 2:
            return _read_combined(kind)(draft, node, inputs)
        (number,) = (_numbers(draft, inputs[0], a) for a in node.call_args if not isinstance(a, keras.KerasTensor))
        sign = np.ones_like(number) if kind == "maximum" else -np.ones_like(number)
        more = draft.activate(draft.affine(inputs[0], sign, -sign * number), activations.relu)
        return draft.affine(more, sign, number)

    return reader


def _read_arithmetic(draft: Draft, node: Node, inputs: list[int]) -> int:
    """`x + y`, `x * 2`, `1 - x` and their like: of two values, or of a value and a number, or one for each channel."""
    if len(inputs) == 2:
        if len(draft.shapes[inputs[0]]) != len(draft.shapes[inputs[1]]):
            raise Refusal("its operands must both be maps, or both vectors")
        return ARITHMETIC[node.kind](draft, node, inputs)
    first, second = (
        None if isinstance(a, keras.KerasTensor) else _numbers(draft, inputs[0], a) for a in node.call_args
    )
    number = second if first is None else first
    if number is None:
        raise Refusal("it must compute with one value and one number, or with two values")
    if first is not None and node.kind in (_DIVIDE, _TRUE_DIVIDE):
        dividend = draft.constant(first, draft.shapes[inputs[0]])
        return draft.add(ops.Combine(inputs=(dividend, inputs[0]), kind="quotient"))
    one, none = np.ones_like(number), np.zeros_like(number)
    if node.kind is _ADD:
        return draft.affine(inputs[0], one, number)
    if node.kind is _SUBTRACT:
        return draft.affine(inputs[0], one, -number) if first is None else draft.affine(inputs[0], -one, number)
    return draft.affine(inputs[0], number if node.kind is _MULTIPLY else 1 / number, none)


def _numbers(draft: Draft, value: int, given: Any) -> np.ndarray:
    """An operand that is no value of the network, as float64 [C]."""
    array, channels = np.asarray(keras.ops.convert_to_numpy(given), np.float64), draft.shapes[value][-1:]
    if array.size != 1 and (array.shape[-1:] != channels or array.size != channels[0]):
        raise Refusal(f"it may compute with one number, or one for each channel. Received: an array {array.shape}")
    return np.ones(channels) * array.ravel()


def _read_function(function: Any) -> Reader:
    return lambda draft, node, inputs: draft.activate(inputs[0], function)


def _read_curve(name: str, slope: str = "") -> Reader:
    """One of the runtime's activations, its `slope` an attribute of the operation."""
    return lambda draft, node, inputs: draft.curve(
        inputs[0], name, float(getattr(node.layer, slope)) if slope else None
    )


def _read_gelu(draft: Draft, node: Node, inputs: list[int]) -> int:
    return draft.curve(inputs[0], "gelu_tanh" if node.layer.approximate else "gelu")


def _read_rescaling(draft: Draft, node: Node, inputs: list[int]) -> int:
    ones = np.ones(draft.shapes[inputs[0]][-1:])
    return draft.affine(inputs[0], ones * np.asarray(node.layer.scale), ones * np.asarray(node.layer.offset))


def _read_prelu(draft: Draft, node: Node, inputs: list[int]) -> int:
    """max(x, 0) - alpha max(-x, 0), alpha for each channel, or for each element."""
    alpha, shape = float_weights(node.layer)["alpha"], draft.shapes[inputs[0]]
    below = draft.activate(draft.scaled(inputs[0], -1.0), activations.relu)
    above = draft.activate(inputs[0], activations.relu)
    if alpha.size == alpha.shape[-1]:
        slopes = np.ones(shape[-1:], np.float32) * alpha.ravel()
        scaled = draft.affine(below, -slopes, np.zeros_like(slopes))
    else:
        scaled = draft.add(ops.Combine(inputs=(below, draft.constant(-alpha, shape)), kind="product"))
    return draft.add(ops.Elementwise(inputs=(above, scaled)))


def _read_layer_scale(draft: Draft, node: Node, inputs: list[int]) -> int:
    (scale,) = float_weights(node.layer).values()
    return draft.affine(inputs[0], scale, np.zeros_like(scale))


_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE, _TRUE_DIVIDE = (
    operation(function, 2)
    for function in (keras.ops.add, keras.ops.subtract, keras.ops.multiply, keras.ops.divide, keras.ops.true_divide)
)

ARITHMETIC: Final[Mapping[type, Reader]] = {
    _ADD: _read_add,
    _SUBTRACT: _read_subtract,
    _MULTIPLY: _read_combined("product"),
    _DIVIDE: _read_combined("quotient"),
    _TRUE_DIVIDE: _read_combined("quotient"),
}
"""Bare operation to reader, where both of its operands are values."""

READERS: Final[Mapping[type, Reader]] = {
    **dict.fromkeys((layers.ReLU, layers.LeakyReLU, layers.ELU), _read_activation_layer),
    layers.Activation: _read_activation,
    layers.Softmax: _read_softmax,
    layers.Add: _read_add,
    layers.Average: _read_average,
    layers.Maximum: _read_combined("maximum"),
    layers.Minimum: _read_combined("minimum"),
    layers.Multiply: _read_combined("product"),
    layers.Subtract: _read_subtract,
    layers.PReLU: _read_prelu,
    layers.Rescaling: _read_rescaling,
    LayerScale: _read_layer_scale,
    ScaledSum: _read_scaled_sum,
    **dict.fromkeys(ARITHMETIC, _read_arithmetic),
    operation(keras.ops.maximum, 2): _read_extreme("maximum"),
    operation(keras.ops.minimum, 2): _read_extreme("minimum"),
    operation(keras.ops.negative): lambda draft, node, inputs: draft.scaled(inputs[0], -1.0),
    operation(keras.ops.exp): _read_function(activations.exponential),
    operation(keras.ops.abs): _read_curve("absolute"),
    operation(keras.ops.square): _read_curve("square"),
    operation(keras.ops.gelu): _read_gelu,
    operation(keras.ops.elu): _read_curve("elu", "alpha"),
    operation(keras.ops.leaky_relu): _read_curve("leaky_relu", "negative_slope"),
    operation(keras.ops.squareplus): _read_curve("squareplus", "b"),
    operation(keras.ops.soft_shrink): _read_curve("soft_shrink", "threshold"),
    operation(keras.ops.hard_shrink): _read_curve("hard_shrink", "threshold"),
    **{operation(getattr(keras.ops, name)): _read_function(getattr(activations, name)) for name in FUNCTIONS},
}
"""Layer type, or bare operation, to reader."""
