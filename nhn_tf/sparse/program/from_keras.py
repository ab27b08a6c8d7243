"""From a functional Keras model to a program: one reader for each layer type.

Readers translate literally; `optimize` then folds and fuses. Letters: H W spatial, C channels, kh kw kernel size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import keras
import numpy as np
from keras import activations, layers

from nhn_tf.layers.batch_norm import BatchNorm
from nhn_tf.layers.global_pool import GroupedGlobalPool
from nhn_tf.layers.masked_conv import MaskedConv2D
from nhn_tf.layers.masked_dense import MaskedDense
from nhn_tf.layers.reduction import FactorizedReduction
from nhn_tf.models.keras_graph import Graph, Node, kind_of, obstacle, operation, trace, weights_of
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.operations import Op, Program, ProgramError, Shape, UnsupportedLayerError
from nhn_tf.sparse.program.optimize import optimize

ACTIVATION_NAMES: Final[Mapping[Any, str]] = {
    getattr(activations, name): name
    for name in ("linear", "relu", "relu6", "leaky_relu", "exponential", "sigmoid", "tanh", "silu", "elu")
}


FUNCTIONS: Final = ("relu", "relu6", "sigmoid", "silu", "tanh")
"""Functions of `keras.ops` that are activations."""

INFERENCE_IDENTITIES: Final = (
    layers.ActivityRegularization, layers.AlphaDropout, layers.Dropout, layers.GaussianDropout, layers.GaussianNoise,
    layers.Identity, layers.SpatialDropout2D,
    layers.RandomBrightness, layers.RandomContrast, layers.RandomFlip, layers.RandomRotation, layers.RandomTranslation,
    layers.RandomZoom,
)  # fmt: skip
"""Layers that do nothing but in training."""


def read(
    model: keras.Model,
    simplify: Callable[..., Program] = optimize,
    *,
    shapes: Sequence[Sequence[int]] | None = None,
) -> Program:
    """Translates a model.

    Args:
      model: functional.
      simplify: makes the program of what was read, (operations, outputs).
      shapes: of its inputs without the batch axis, where the model leaves sizes open.

    Raises:
      UnsupportedLayerError: it has a layer, or a layer's setting, that the runtime does not know.
      ValueError: it is not a functional model, or has a layer of several outputs.
    """
    graph = trace(model, None if shapes is None else [(None, *shape) for shape in shapes])
    others = [name for name in graph.nodes if name not in graph.inputs]
    return read_part(graph, [*graph.inputs, *others], graph.outputs, simplify)


def read_part(
    graph: Graph, names: Sequence[str], outputs: Sequence[str], simplify: Callable[..., Program] = optimize
) -> Program:
    """Translates some layers, in order; what they read of others becomes the program's inputs, in order of use.

    Args:
      graph: of the model.
      names: of the layers, in topological order.
      outputs: names of those whose values are the result.
      simplify: makes the program of what was read.
    """
    draft = Draft()
    for name in names:
        draft.read_layer(graph, name)
    return simplify(draft.ops, tuple(draft.values[name] for name in outputs))


def input_names(graph: Graph, names: Sequence[str]) -> tuple[str, ...]:
    """The layers whose values `read_part` makes inputs, in their order."""
    inside = set(names)
    found: dict[str, None] = {}
    for name in names:
        if not graph.nodes[name].parents:
            found[name] = None
        for parent in graph.nodes[name].parents:
            if parent not in inside:
                found[parent] = None
    return tuple(found)


class Draft:
    """Operations while they are read.

    Attributes:
      ops: so far.
      shapes: of their values.
      values: layer name to the value that it makes.
    """

    def __init__(self) -> None:
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
                    self.values[parent] = self.add(ops.Input(inputs=(), size=_shape(graph.nodes[parent])))
            inputs = [self.values[parent] for parent in node.parents]
            value = self._reader(node)(self, node, inputs)
            if self.shapes[value] != _shape(node):
                raise _Refusal(f"it makes {_shape(node)}, not {self.shapes[value]}")
        except (_Refusal, ProgramError) as refusal:
            self._forget(before)
            kind, reason = type(node.layer).__name__, str(refusal).rstrip(".")
            raise UnsupportedLayerError(
                f"layer {name!r} ({kind}) is not supported by the sparse runtime: {reason}"
            ) from None
        self.values[name] = value

    def _forget(self, before: int) -> None:
        del self.ops[before:], self.shapes[before:]
        self.values = {name: value for name, value in self.values.items() if value < before}

    @staticmethod
    def _reader(node: Node) -> Callable[[Draft, Node, list[int]], int]:
        if reason := obstacle(node, READERS):
            raise _Refusal(reason)
        return READERS[node.kind]

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
                raise _Refusal("softmax is known of vectors (C,) only")
            return self.add(ops.Softmax(inputs=(value,)))
        if isinstance(function, (layers.ReLU, layers.LeakyReLU, layers.ELU)):
            return self.add(_activation_op(function, value))
        if function not in ACTIVATION_NAMES:
            raise _Refusal(f"its activation {getattr(function, '__name__', function)!r} is unknown")
        name = ACTIVATION_NAMES[function]
        slope = 1.0 if name == "elu" else ops.LEAKY_SLOPE
        return self.add(ops.Elementwise(inputs=(value,), activation=name, slope=slope))

    def affine(self, value: int, scale: np.ndarray, shift: np.ndarray) -> int:
        scale, shift = scale.astype(np.float32), shift.astype(np.float32)
        return self.add(ops.Elementwise(inputs=(value,), scale=scale, shift=shift))


class _Refusal(ValueError):
    """Why a layer is not supported."""


def _shape(node: Node) -> Shape:
    shape = node.shape[1:]
    if None in shape or len(shape) not in (1, 3):
        raise _Refusal(f"values must be [B, H, W, C] or [B, C] with known sizes. Received: {node.shape}")
    return tuple(int(side) for side in shape if side is not None)


def _size(node: Node) -> tuple[int, int]:
    """(H, W) of a layer that makes a map."""
    height, width, *_ = _shape(node)
    return (height, width)


def _pads(padding: str, window: Sequence[int], strides: Sequence[int], shape: Shape) -> tuple[int, int]:
    """Rows above and columns left of the map that the first window starts at ("same" puts the odd one behind)."""
    if padding == "valid":
        return (0, 0)
    if padding != "same":
        raise _Refusal(f"padding must be 'same' or 'valid'. Received: {padding!r}")
    total = [
        max((-(-side // stride) - 1) * stride + size - side, 0)
        for side, size, stride in zip(shape, window, strides, strict=False)
    ]
    return (total[0] // 2, total[1] // 2)


def _windowed(draft: Draft, node: Node, value: int, window: Sequence[int]) -> dict[str, Any]:
    """What a convolution and a pool have in common, of a layer whose output may have further channels."""
    layer, shape = node.layer, draft.shapes[value]
    if len(shape) != 3:
        raise _Refusal(f"it must read a map [B, H, W, C]. Received: {shape}")
    strides = tuple(layer.strides)
    return {
        "inputs": (value,),
        "window": tuple(window),
        "strides": strides,
        "pads": _pads(layer.padding, window, strides, shape),
        "size": _size(node),
    }


def _weights(layer: Any) -> dict[str, np.ndarray]:
    return {name: value.astype(np.float32) for name, value in weights_of(layer).items()}


def _dilated(kernel: np.ndarray, layer: Any) -> np.ndarray:
    """The kernel [(kh - 1) * dilation + 1, ...] of a dilated one, with zeros between its entries."""
    down, right = layer.dilation_rate
    full = np.zeros(
        ((kernel.shape[0] - 1) * down + 1, (kernel.shape[1] - 1) * right + 1, *kernel.shape[2:]), np.float32
    )
    full[::down, ::right] = kernel
    return full


def _conv_op(kernel: np.ndarray, bias: np.ndarray | None, **settings: Any) -> ops.Conv:
    """A convolution with the kernels of [kh, kw, Cin, Cout] that are not all zeros."""
    mask = np.any(kernel, axis=(0, 1))
    live = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)[mask.T])
    bias = np.zeros(kernel.shape[3], np.float32) if bias is None else bias
    return ops.Conv(mask=mask, kernels=live, bias=bias, **settings)


def _ungrouped(kernel: np.ndarray, groups: int) -> np.ndarray:
    """The kernel [kh, kw, Cin, Cout] of a grouped one [kh, kw, Cin / groups, Cout]."""
    height, width, inputs, filters = kernel.shape
    full = np.zeros((height, width, groups, inputs, groups, filters // groups), kernel.dtype)
    for group in range(groups):
        full[:, :, group, :, group] = kernel.reshape(height, width, inputs, groups, -1)[:, :, :, group]
    return full.reshape(height, width, groups * inputs, filters)


def _read_input(draft: Draft, node: Node, inputs: list[int]) -> int:
    return draft.add(ops.Input(inputs=(), size=_shape(node)))


def _read_same(draft: Draft, node: Node, inputs: list[int]) -> int:
    return inputs[0]


def _read_conv(draft: Draft, node: Node, inputs: list[int]) -> int:
    layer, weights = node.layer, _weights(node.layer)
    kernel = weights["kernel"] * weights.get("mask", np.float32(1))
    kernel = _dilated(kernel, layer)
    settings = _windowed(draft, node, inputs[0], kernel.shape[:2])
    value = draft.add(_conv_op(_ungrouped(kernel, layer.groups), weights.get("bias"), **settings))
    return draft.activate(value, layer.activation)


def _depthwise(draft: Draft, node: Node, value: int, kernel: np.ndarray, bias: np.ndarray | None) -> int:
    kernel = _dilated(kernel, node.layer)
    height, width, channels, multiplier = kernel.shape
    kernels = np.ascontiguousarray(kernel.transpose(2, 3, 0, 1)).reshape(-1, height, width)
    bias = np.zeros(channels * multiplier, np.float32) if bias is None else bias
    settings = _windowed(draft, node, value, (height, width))
    return draft.add(ops.Depthwise(multiplier=multiplier, kernels=kernels, bias=bias, **settings))


def _read_depthwise(draft: Draft, node: Node, inputs: list[int]) -> int:
    weights = _weights(node.layer)
    value = _depthwise(draft, node, inputs[0], weights["kernel"], weights.get("bias"))
    return draft.activate(value, node.layer.activation)


def _read_separable(draft: Draft, node: Node, inputs: list[int]) -> int:
    weights = _weights(node.layer)
    value = _depthwise(draft, node, inputs[0], weights["depthwise_kernel"], None)
    settings = _pointwise(draft, value)
    value = draft.add(_conv_op(weights["pointwise_kernel"], weights.get("bias"), **settings))
    return draft.activate(value, node.layer.activation)


def _pointwise(draft: Draft, value: int) -> dict[str, Any]:
    size = draft.shapes[value][:2]
    return {"inputs": (value,), "window": (1, 1), "strides": (1, 1), "pads": (0, 0), "size": size}


def _read_reduction(draft: Draft, node: Node, inputs: list[int]) -> int:
    """Two 1x1 convolutions of stride 2, the second from pixel (1, 1) on."""
    weights = _weights(node.layer)
    size = _size(node)
    parts = []
    for name, corner in (("kernel_a", 0), ("kernel_b", -1)):
        if weights[name].size:
            settings = {"inputs": (inputs[0],), "window": (1, 1), "strides": (2, 2), "pads": (corner, corner)}
            parts.append(draft.add(_conv_op(weights[name], None, size=size, **settings)))
    return parts[0] if len(parts) == 1 else draft.add(ops.Concatenate(inputs=tuple(parts)))


def _read_dense(draft: Draft, node: Node, inputs: list[int]) -> int:
    weights = _weights(node.layer)
    kernel = weights["kernel"] * weights.get("mask", np.float32(1))
    bias = weights.get("bias", np.zeros(kernel.shape[1], np.float32))
    if len(draft.shapes[inputs[0]]) == 3:
        value = draft.add(_conv_op(kernel[None, None], bias, **_pointwise(draft, inputs[0])))
    else:
        value = draft.add(ops.Dense(inputs=(inputs[0],), kernel=kernel, bias=bias))
    return draft.activate(value, node.layer.activation)


def _read_norm(draft: Draft, node: Node, inputs: list[int]) -> int:
    layer = node.layer
    if layer.axis not in (-1, len(node.shape) - 1):
        raise _Refusal(f"its axis must be the channels. Received: axis={layer.axis}")
    if getattr(layer, "renorm", False) or getattr(layer, "use_batch_statistics", False):
        raise _Refusal("it must normalise by its moving statistics")
    weights = {name: value.astype(np.float64) for name, value in weights_of(layer).items()}
    scale = weights.get("gamma", 1.0) / np.sqrt(weights["moving_variance"] + layer.epsilon)
    return draft.affine(inputs[0], scale, weights.get("beta", 0.0) - weights["moving_mean"] * scale)


def _activation_op(layer: Any, value: int) -> ops.Elementwise:
    """What a ReLU, LeakyReLU or ELU layer does to a value."""
    if kind_of(layer) is layers.LeakyReLU:
        return ops.Elementwise(inputs=(value,), activation="leaky_relu", slope=float(layer.negative_slope))
    if kind_of(layer) is layers.ELU:
        return ops.Elementwise(inputs=(value,), activation="elu", slope=float(layer.alpha))
    limit, slope, threshold = layer.max_value, float(layer.negative_slope), float(layer.threshold)
    if threshold or limit not in (None, 6) or (limit is not None and slope):
        raise _Refusal(
            "a ReLU may have a slope or a maximum of 6. "
            f"Received: max_value={limit}, negative_slope={slope}, threshold={threshold}"
        )
    name = "leaky_relu" if slope else "relu" if limit is None else "relu6"
    return ops.Elementwise(inputs=(value,), activation=name, slope=slope)


def _read_activation_layer(draft: Draft, node: Node, inputs: list[int]) -> int:
    return draft.add(_activation_op(node.layer, inputs[0]))


def _read_activation(draft: Draft, node: Node, inputs: list[int]) -> int:
    return draft.activate(inputs[0], node.layer.activation)


def _read_softmax(draft: Draft, node: Node, inputs: list[int]) -> int:
    if node.layer.axis not in (-1, len(node.shape) - 1):
        raise _Refusal(f"softmax must run over the last axis. Received: axis={node.layer.axis}")
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
            raise _Refusal("it must compute with one value and one number")
        return ARITHMETIC[node.kind](draft, node, inputs)
    first, second = (None if isinstance(a, keras.KerasTensor) else float(np.asarray(a)) for a in node.call_args)
    number = second if first is None else first
    if number is None or (first is not None and node.kind in (_DIVIDE, _TRUE_DIVIDE)):
        raise _Refusal("it must compute with one value and one number behind it, or with two values")
    if node.kind is _ADD:
        return _scaled(draft, inputs[0], 1.0, number)
    if node.kind is _SUBTRACT:
        return _scaled(draft, inputs[0], 1.0, -number) if first is None else _scaled(draft, inputs[0], -1.0, number)
    return _scaled(draft, inputs[0], number if node.kind is _MULTIPLY else 1 / number)


def _read_function(function: Any) -> Callable[[Draft, Node, list[int]], int]:
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
        raise _Refusal(f"its axis must be the channels. Received: axis={layer.axis}")
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    scale, shift = (1 / deviation, -mean / deviation) if not layer.invert else (deviation, mean)
    return draft.affine(inputs[0], np.ones(channels) * scale, np.ones(channels) * shift)


def _read_resizing(draft: Draft, node: Node, inputs: list[int]) -> int:
    if draft.shapes[inputs[0]] != _shape(node):
        raise _Refusal(f"it must leave sizes as they are. Received: {draft.shapes[inputs[0]]} to {_shape(node)}")
    return inputs[0]


def _read_prelu(draft: Draft, node: Node, inputs: list[int]) -> int:
    """max(x, 0) - alpha max(-x, 0), alpha for each channel."""
    alpha = _weights(node.layer)["alpha"]
    if alpha.size != alpha.shape[-1]:
        raise _Refusal("its slopes must be shared by all positions: PReLU(shared_axes=[1, 2])")
    slopes = np.ones(draft.shapes[inputs[0]][-1:], np.float32) * alpha.ravel()
    below = draft.activate(_scaled(draft, inputs[0], -1.0), activations.relu)
    above = draft.activate(inputs[0], activations.relu)
    return _sum(draft, node, [above, draft.affine(below, -slopes, np.zeros_like(slopes))])


def _read_concatenate(draft: Draft, node: Node, inputs: list[int]) -> int:
    if node.layer.axis not in (-1, len(node.shape) - 1):
        raise _Refusal(f"it must join channels. Received: axis={node.layer.axis}")
    return draft.add(ops.Concatenate(inputs=tuple(inputs)))


def _read_pool(kind: str) -> Callable[[Draft, Node, list[int]], int]:
    def reader(draft: Draft, node: Node, inputs: list[int]) -> int:
        return draft.add(ops.Pool(kind=kind, **_windowed(draft, node, inputs[0], node.layer.pool_size)))

    return reader


def _read_global_pool(kind: str) -> Callable[[Draft, Node, list[int]], int]:
    def reader(draft: Draft, node: Node, inputs: list[int]) -> int:
        value = draft.add(ops.GlobalPool(inputs=(inputs[0],), kind=kind))
        return draft.add(ops.Reshape(inputs=(value,))) if node.layer.keepdims else value

    return reader


def _read_grouped_pool(draft: Draft, node: Node, inputs: list[int]) -> int:
    weights = _weights(node.layer)["kernel"]
    return draft.add(ops.GlobalPool(inputs=(inputs[0],), kind="weighted", weights=weights))


def _read_flatten(draft: Draft, node: Node, inputs: list[int]) -> int:
    return inputs[0] if len(draft.shapes[inputs[0]]) == 1 else draft.add(ops.Reshape(inputs=(inputs[0],)))


def _read_reshape(draft: Draft, node: Node, inputs: list[int]) -> int:
    """To a vector, or from one to a map of one pixel; the check of the shape refuses everything else."""
    if draft.shapes[inputs[0]] == _shape(node):
        return inputs[0]
    return draft.add(ops.Reshape(inputs=(inputs[0],)))


def _read_zero_padding(draft: Draft, node: Node, inputs: list[int]) -> int:
    (top, _), (left, _) = node.layer.padding
    return draft.add(ops.Pad(inputs=(inputs[0],), pads=(top, left), size=_size(node)))


def _read_cropping(draft: Draft, node: Node, inputs: list[int]) -> int:
    (top, _), (left, _) = node.layer.cropping
    return draft.add(ops.Pad(inputs=(inputs[0],), pads=(-top, -left), size=_size(node)))


def _read_upsampling(draft: Draft, node: Node, inputs: list[int]) -> int:
    if node.layer.interpolation != "nearest":
        raise _Refusal(f"interpolation must be 'nearest'. Received: {node.layer.interpolation!r}")
    return draft.add(ops.Repeat(inputs=(inputs[0],), factors=tuple(node.layer.size)))


_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE, _TRUE_DIVIDE = (
    operation(function, 2)
    for function in (keras.ops.add, keras.ops.subtract, keras.ops.multiply, keras.ops.divide, keras.ops.true_divide)
)

ARITHMETIC: Final[Mapping[type, Callable[[Draft, Node, list[int]], int]]] = {
    _ADD: _read_add,
    _SUBTRACT: _read_subtract,
}
"""Bare operation to reader, where both of its operands are values."""

READERS: Final[Mapping[type, Callable[[Draft, Node, list[int]], int]]] = {
    layers.InputLayer: _read_input,
    layers.Conv2D: _read_conv,
    MaskedConv2D: _read_conv,
    layers.DepthwiseConv2D: _read_depthwise,
    layers.SeparableConv2D: _read_separable,
    FactorizedReduction: _read_reduction,
    layers.Dense: _read_dense,
    MaskedDense: _read_dense,
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
    layers.Concatenate: _read_concatenate,
    layers.AveragePooling2D: _read_pool("average"),
    layers.MaxPooling2D: _read_pool("max"),
    layers.GlobalAveragePooling2D: _read_global_pool("average"),
    layers.GlobalMaxPooling2D: _read_global_pool("max"),
    GroupedGlobalPool: _read_grouped_pool,
    layers.Flatten: _read_flatten,
    layers.Reshape: _read_reshape,
    layers.ZeroPadding2D: _read_zero_padding,
    layers.Cropping2D: _read_cropping,
    layers.UpSampling2D: _read_upsampling,
    **dict.fromkeys(INFERENCE_IDENTITIES, _read_same),
    **dict.fromkeys((_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE, _TRUE_DIVIDE), _read_arithmetic),
    operation(keras.ops.maximum, 2): _read_maximum,
    operation(keras.ops.minimum, 2): _read_minimum,
    **{operation(getattr(keras.ops, name)): _read_function(getattr(activations, name)) for name in FUNCTIONS},
}
"""Layer type to reader."""
