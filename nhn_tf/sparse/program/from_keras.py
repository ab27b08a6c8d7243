"""From a functional Keras model to a program: one reader for each layer type.

Readers translate literally; `optimize` then folds and fuses. Letters: H W spatial, C channels, kh kw kernel size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import keras
import numpy as np
from keras import layers

from nhn_tf.layers.global_pool import GroupedGlobalPool
from nhn_tf.layers.masked_conv import MaskedConv2D
from nhn_tf.layers.masked_dense import MaskedDense
from nhn_tf.layers.reduction import FactorizedReduction
from nhn_tf.models.keras_graph import Graph, Node, trace
from nhn_tf.sparse.program import elementwise, normalizations
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.draft import Draft, Reader, Refusal, float_weights, shape_of, size_of
from nhn_tf.sparse.program.operations import Program, Shape

INFERENCE_IDENTITIES: Final = (
    layers.ActivityRegularization, layers.AlphaDropout, layers.Dropout, layers.GaussianDropout, layers.GaussianNoise,
    layers.Identity, layers.SpatialDropout2D,
    layers.RandomBrightness, layers.RandomContrast, layers.RandomFlip, layers.RandomRotation, layers.RandomTranslation,
    layers.RandomZoom,
)  # fmt: skip
"""Layers that do nothing but in training."""


def read(model: keras.Model, *, shapes: Sequence[Sequence[int]] | None = None) -> Program:
    """Translates a model, layer by layer.

    Args:
      model: functional.
      shapes: of its inputs without the batch axis, where the model leaves sizes open.

    Raises:
      UnsupportedLayerError: it has a layer, or a layer's setting, that the runtime does not know.
      ValueError: it is not a functional model, or has a layer of several outputs.
    """
    graph = trace(model, None if shapes is None else [(None, *shape) for shape in shapes])
    others = [name for name in graph.nodes if name not in graph.inputs]
    return read_part(graph, [*graph.inputs, *others], graph.outputs)


def read_part(graph: Graph, names: Sequence[str], outputs: Sequence[str]) -> Program:
    """Translates some layers, in order; what they read of others becomes the program's inputs, in order of use.

    Args:
      graph: of the model.
      names: of the layers, in topological order.
      outputs: names of those whose values are the result.
    """
    draft = Draft(READERS)
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


def _pads(padding: str, window: Sequence[int], strides: Sequence[int], shape: Shape) -> tuple[int, int]:
    """Rows above and columns left of the map that the first window starts at ("same" puts the odd one behind)."""
    if padding == "valid":
        return (0, 0)
    if padding != "same":
        raise Refusal(f"padding must be 'same' or 'valid'. Received: {padding!r}")
    total = [
        max((-(-side // stride) - 1) * stride + size - side, 0)
        for side, size, stride in zip(shape, window, strides, strict=False)
    ]
    return (total[0] // 2, total[1] // 2)


def _windowed(draft: Draft, node: Node, value: int, window: Sequence[int]) -> dict[str, Any]:
    """What a convolution and a pool have in common, of a layer whose output may have further channels."""
    layer, shape = node.layer, draft.shapes[value]
    if len(shape) != 3:
        raise Refusal(f"it must read a map [B, H, W, C]. Received: {shape}")
    strides = tuple(layer.strides)
    return {
        "inputs": (value,),
        "window": tuple(window),
        "strides": strides,
        "pads": _pads(layer.padding, window, strides, shape),
        "size": size_of(node),
    }


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
    if node.dtype == "string":
        raise Refusal("its values must be numbers. Received: text")
    return draft.add(ops.Input(inputs=(), size=shape_of(node)))


def _read_same(draft: Draft, node: Node, inputs: list[int]) -> int:
    return inputs[0]


def _read_conv(draft: Draft, node: Node, inputs: list[int]) -> int:
    layer, weights = node.layer, float_weights(node.layer)
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
    weights = float_weights(node.layer)
    value = _depthwise(draft, node, inputs[0], weights["kernel"], weights.get("bias"))
    return draft.activate(value, node.layer.activation)


def _read_separable(draft: Draft, node: Node, inputs: list[int]) -> int:
    weights = float_weights(node.layer)
    value = _depthwise(draft, node, inputs[0], weights["depthwise_kernel"], None)
    settings = _pointwise(draft, value)
    value = draft.add(_conv_op(weights["pointwise_kernel"], weights.get("bias"), **settings))
    return draft.activate(value, node.layer.activation)


def _pointwise(draft: Draft, value: int) -> dict[str, Any]:
    size = draft.shapes[value][:2]
    return {"inputs": (value,), "window": (1, 1), "strides": (1, 1), "pads": (0, 0), "size": size}


def _read_transposed(draft: Draft, node: Node, inputs: list[int]) -> int:
    """A convolution that makes, side by side, the pixels of every remainder by the strides; then those interleaved.

    Pixel s q + p of a result with stride s is the sum over t of pixel q - t times row p + s t of the kernel.
    """
    layer, weights = node.layer, float_weights(node.layer)
    kernel = _dilated(weights["kernel"].swapaxes(2, 3), layer)  # [kh, kw, Cin, Cout]
    strides, size, sides = tuple(layer.strides), size_of(node), draft.shapes[inputs[0]]
    if len(sides) != 3:
        raise Refusal(f"it must read a map [B, H, W, C]. Received: {sides}")
    window, before, corner, made = ([0, 0] for _ in range(4))
    for axis, (stride, length) in enumerate(zip(strides, kernel.shape, strict=False)):
        spare = max((sides[axis] - 1) * stride + length - size[axis], 0) // 2 if layer.padding == "same" else 0
        whole, corner[axis] = divmod(spare, stride)  # What is cut off on top, or on the left.
        window[axis] = -(-length // stride)
        before[axis] = window[axis] - 1 - whole
        made[axis] = -(-(corner[axis] + size[axis]) // stride)
    split = np.zeros((window[0] * strides[0], window[1] * strides[1], *kernel.shape[2:]), np.float32)
    split[: kernel.shape[0], : kernel.shape[1]] = kernel
    split = split.reshape(window[0], strides[0], window[1], strides[1], *kernel.shape[2:])[::-1, :, ::-1]
    groups = split.transpose(0, 2, 4, 1, 3, 5).reshape(*window, kernel.shape[2], -1)
    bias = np.tile(weights["bias"], strides[0] * strides[1]) if "bias" in weights else None
    slides = {"window": tuple(window), "strides": (1, 1), "pads": tuple(before), "size": tuple(made)}
    value = draft.add(_conv_op(groups, bias, inputs=(inputs[0],), **slides))
    if strides != (1, 1):
        place = {"factors": strides, "corner": (corner[0], corner[1]), "size": size}
        value = draft.add(ops.Interleave(inputs=(value,), **place))
    return draft.activate(value, layer.activation)


def _read_reduction(draft: Draft, node: Node, inputs: list[int]) -> int:
    """Two 1x1 convolutions of stride 2, the second from pixel (1, 1) on."""
    weights = float_weights(node.layer)
    size = size_of(node)
    parts = []
    for name, corner in (("kernel_a", 0), ("kernel_b", -1)):
        if weights[name].size:
            settings = {"inputs": (inputs[0],), "window": (1, 1), "strides": (2, 2), "pads": (corner, corner)}
            parts.append(draft.add(_conv_op(weights[name], None, size=size, **settings)))
    return parts[0] if len(parts) == 1 else draft.add(ops.Concatenate(inputs=tuple(parts)))


def _read_dense(draft: Draft, node: Node, inputs: list[int]) -> int:
    weights = float_weights(node.layer)
    kernel = weights["kernel"] * weights.get("mask", np.float32(1))
    bias = weights.get("bias", np.zeros(kernel.shape[1], np.float32))
    if len(draft.shapes[inputs[0]]) == 3:
        value = draft.add(_conv_op(kernel[None, None], bias, **_pointwise(draft, inputs[0])))
    else:
        value = draft.add(ops.Dense(inputs=(inputs[0],), kernel=kernel, bias=bias))
    return draft.activate(value, node.layer.activation)


def _read_concatenate(draft: Draft, node: Node, inputs: list[int]) -> int:
    if node.layer.axis not in (-1, len(node.shape) - 1):
        raise Refusal(f"it must join channels. Received: axis={node.layer.axis}")
    return draft.add(ops.Concatenate(inputs=tuple(inputs)))


def _read_pool(kind: str) -> Reader:
    def reader(draft: Draft, node: Node, inputs: list[int]) -> int:
        return draft.add(ops.Pool(kind=kind, **_windowed(draft, node, inputs[0], node.layer.pool_size)))

    return reader


def _read_global_pool(kind: str) -> Reader:
    def reader(draft: Draft, node: Node, inputs: list[int]) -> int:
        value = draft.add(ops.GlobalPool(inputs=(inputs[0],), kind=kind))
        return draft.add(ops.Reshape(inputs=(value,))) if node.layer.keepdims else value

    return reader


def _read_grouped_pool(draft: Draft, node: Node, inputs: list[int]) -> int:
    weights = float_weights(node.layer)["kernel"]
    return draft.add(ops.GlobalPool(inputs=(inputs[0],), kind="weighted", weights=weights))


def _read_flatten(draft: Draft, node: Node, inputs: list[int]) -> int:
    return inputs[0] if len(draft.shapes[inputs[0]]) == 1 else draft.add(ops.Reshape(inputs=(inputs[0],)))


def _read_reshape(draft: Draft, node: Node, inputs: list[int]) -> int:
    """To a vector, and from it to the new map."""
    shape, wanted = draft.shapes[inputs[0]], shape_of(node)
    if shape == wanted:
        return inputs[0]
    vector = _read_flatten(draft, node, inputs)
    return vector if len(wanted) == 1 else draft.add(ops.Unflatten(inputs=(vector,), size=(*size_of(node), wanted[2])))


def _read_permute(draft: Draft, node: Node, inputs: list[int]) -> int:
    if node.layer.dims == (2, 1, 3):
        return draft.add(ops.Transpose(inputs=(inputs[0],)))
    if node.layer.dims != tuple(range(1, len(node.layer.dims) + 1)):
        raise Refusal(f"channels must stay the last axis. Received: dims={node.layer.dims}")
    return inputs[0]


def _read_zero_padding(draft: Draft, node: Node, inputs: list[int]) -> int:
    (top, _), (left, _) = node.layer.padding
    return draft.add(ops.Pad(inputs=(inputs[0],), pads=(top, left), size=size_of(node)))


def _read_cropping(draft: Draft, node: Node, inputs: list[int]) -> int:
    (top, _), (left, _) = node.layer.cropping
    return draft.add(ops.Pad(inputs=(inputs[0],), pads=(-top, -left), size=size_of(node)))


def _read_upsampling(draft: Draft, node: Node, inputs: list[int]) -> int:
    if node.layer.interpolation != "nearest":
        return _resampled(draft, node, inputs[0], node.layer.interpolation)
    return draft.add(ops.Repeat(inputs=(inputs[0],), factors=tuple(node.layer.size)))


def _read_resizing(draft: Draft, node: Node, inputs: list[int]) -> int:
    layer, (height, width) = node.layer, draft.shapes[inputs[0]][:2]
    if draft.shapes[inputs[0]] == shape_of(node):
        return inputs[0]
    if (layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio) and height * layer.width != width * layer.height:
        raise Refusal("it must neither crop nor pad")
    return _resampled(draft, node, inputs[0], layer.interpolation, antialias=layer.antialias)


def _resampled(draft: Draft, node: Node, value: int, interpolation: str, **options: Any) -> int:
    """Rows, then columns, each by the matrix that Keras's own resizing is of them."""
    for axis, wanted in enumerate(size_of(node)):
        side = draft.shapes[value][axis]
        if side != wanted:
            units = np.eye(side, dtype=np.float32)[:, :, None, None]  # Images of one column, of which one row is 1.
            made = keras.ops.image.resize(units, (wanted, 1), interpolation, data_format="channels_last", **options)
            matrix = np.ascontiguousarray(keras.ops.convert_to_numpy(made)[:, :, 0, 0].T, np.float32)
            value = draft.add(ops.Resample(inputs=(value,), axis=axis, matrix=matrix))
    return value


READERS: Final[Mapping[type, Reader]] = {
    layers.InputLayer: _read_input,
    layers.Conv2D: _read_conv,
    MaskedConv2D: _read_conv,
    layers.DepthwiseConv2D: _read_depthwise,
    layers.SeparableConv2D: _read_separable,
    layers.Conv2DTranspose: _read_transposed,
    FactorizedReduction: _read_reduction,
    layers.Dense: _read_dense,
    MaskedDense: _read_dense,
    layers.Concatenate: _read_concatenate,
    layers.AveragePooling2D: _read_pool("average"),
    layers.MaxPooling2D: _read_pool("max"),
    layers.GlobalAveragePooling2D: _read_global_pool("average"),
    layers.GlobalMaxPooling2D: _read_global_pool("max"),
    GroupedGlobalPool: _read_grouped_pool,
    layers.Flatten: _read_flatten,
    layers.Reshape: _read_reshape,
    layers.Permute: _read_permute,
    layers.ZeroPadding2D: _read_zero_padding,
    layers.Cropping2D: _read_cropping,
    layers.UpSampling2D: _read_upsampling,
    layers.Resizing: _read_resizing,
    **dict.fromkeys(INFERENCE_IDENTITIES, _read_same),
    **elementwise.READERS,
    **normalizations.READERS,
}
"""Layer type to reader."""
