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
from nhn_tf.layers.reduction import FactorizedReduction
from nhn_tf.models.keras_graph import Graph, Node, obstacle, trace, weights_of
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.operations import Op, Program, ProgramError, Shape, UnsupportedLayerError

ACTIVATION_NAMES: Final[Mapping[Any, str]] = {
    getattr(activations, name): name
    for name in ("linear", "relu", "relu6", "leaky_relu", "exponential", "sigmoid", "tanh", "silu", "elu")
}


def read(model: keras.Model) -> Program:
    """Translates a model, layer by layer.

    Args:
      model: functional.

    Raises:
      UnsupportedLayerError: it has a layer, or a layer's setting, that the runtime does not know.
      ValueError: it is not a functional model whose layers are called once.
    """
    graph = trace(model)
    others = [name for name in graph.nodes if name not in graph.inputs]
    return read_part(graph, [*graph.inputs, *others], graph.outputs)


def read_part(graph: Graph, names: Sequence[str], outputs: Sequence[str]) -> Program:
    """Translates some layers, in order; what they read of others becomes the program's inputs, in order of use.

    Args:
      graph: of the model.
      names: of the layers, in topological order.
      outputs: names of those whose values are the result.
    """
    draft = Draft()
    for name in names:
        draft.read_layer(graph, name)
    return Program(tuple(draft.ops), tuple(draft.values[name] for name in outputs))


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
        if reason := obstacle(node.layer, READERS):
            raise _Refusal(reason)
        return READERS[type(node.layer)]

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
    if tuple(getattr(layer, "dilation_rate", (1, 1))) != (1, 1):
        raise _Refusal(f"dilated windows are not known. Received: dilation_rate={layer.dilation_rate}")
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
    settings = _windowed(draft, node, inputs[0], layer.kernel_size)
    value = draft.add(_conv_op(_ungrouped(kernel, layer.groups), weights.get("bias"), **settings))
    return draft.activate(value, layer.activation)


def _depthwise(draft: Draft, node: Node, value: int, kernel: np.ndarray, bias: np.ndarray | None) -> int:
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
    kernel = weights["kernel"]
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


def _read_relu(draft: Draft, node: Node, inputs: list[int]) -> int:
    layer = node.layer
    limit, slope, threshold = layer.max_value, float(layer.negative_slope), float(layer.threshold)
    if threshold or limit not in (None, 6) or (limit is not None and slope):
        raise _Refusal(
            "a ReLU may have a slope or a maximum of 6. "
            f"Received: max_value={limit}, negative_slope={slope}, threshold={threshold}"
        )
    name = "leaky_relu" if slope else "relu" if limit is None else "relu6"
    return draft.add(ops.Elementwise(inputs=(inputs[0],), activation=name, slope=slope))


def _read_leaky_relu(draft: Draft, node: Node, inputs: list[int]) -> int:
    slope = float(node.layer.negative_slope)
    return draft.add(ops.Elementwise(inputs=(inputs[0],), activation="leaky_relu", slope=slope))


def _read_elu(draft: Draft, node: Node, inputs: list[int]) -> int:
    return draft.add(ops.Elementwise(inputs=(inputs[0],), activation="elu", slope=float(node.layer.alpha)))


def _read_activation(draft: Draft, node: Node, inputs: list[int]) -> int:
    return draft.activate(inputs[0], node.layer.activation)


def _read_softmax(draft: Draft, node: Node, inputs: list[int]) -> int:
    if node.layer.axis not in (-1, len(node.shape) - 1):
        raise _Refusal(f"softmax must run over the last axis. Received: axis={node.layer.axis}")
    return draft.activate(inputs[0], activations.softmax)


def _read_add(draft: Draft, node: Node, inputs: list[int]) -> int:
    return draft.add(ops.Elementwise(inputs=tuple(inputs)))


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


READERS: Final[Mapping[type, Callable[[Draft, Node, list[int]], int]]] = {
    layers.InputLayer: _read_input,
    layers.Conv2D: _read_conv,
    MaskedConv2D: _read_conv,
    layers.DepthwiseConv2D: _read_depthwise,
    layers.SeparableConv2D: _read_separable,
    FactorizedReduction: _read_reduction,
    layers.Dense: _read_dense,
    layers.BatchNormalization: _read_norm,
    BatchNorm: _read_norm,
    layers.ReLU: _read_relu,
    layers.LeakyReLU: _read_leaky_relu,
    layers.ELU: _read_elu,
    layers.Activation: _read_activation,
    layers.Softmax: _read_softmax,
    layers.Add: _read_add,
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
    layers.Dropout: _read_same,
    layers.SpatialDropout2D: _read_same,
    layers.Identity: _read_same,
}
"""Layer type to reader."""
