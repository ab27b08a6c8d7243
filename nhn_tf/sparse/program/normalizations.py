"""Readers of layers that shift and scale: by statistics of the training, or of the image itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import keras
import numpy as np
from keras import layers

from nhn_tf.layers.batch_norm import BatchNorm
from nhn_tf.models.keras_graph import Node, weights_of
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.draft import Draft, Reader, Refusal, float_weights


def _read_norm(draft: Draft, node: Node, inputs: list[int]) -> int:
    layer = node.layer
    if layer.axis not in (-1, len(node.shape) - 1):
        raise Refusal(f"its axis must be the channels. Received: axis={layer.axis}")
    if getattr(layer, "renorm", False) or getattr(layer, "use_batch_statistics", False):
        raise Refusal("it must normalise by its moving statistics")
    weights = {name: value.astype(np.float64) for name, value in weights_of(layer).items()}
    scale = weights.get("gamma", 1.0) / np.sqrt(weights["moving_variance"] + layer.epsilon)
    return draft.affine(inputs[0], scale, weights.get("beta", 0.0) - weights["moving_mean"] * scale)


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


def _read_layer_norm(draft: Draft, node: Node, inputs: list[int]) -> int:
    """Over the channels, or over the whole map."""
    layer, shape = node.layer, draft.shapes[inputs[0]]
    axes = _axes(layer.axis, shape)
    if axes not in ((len(shape),), tuple(range(1, len(shape) + 1))):
        raise Refusal(f"it must normalise over the channels, or over all axes. Received: axis={layer.axis}")
    groups = 0 if axes == (len(shape),) else 1
    if layer.rms_scaling:  # the deviation from the mean, without the mean taken away
        raise Refusal("rms_scaling=True is not computed")
    value = draft.add(ops.Normalize(inputs=(inputs[0],), groups=groups, center=True, epsilon=float(layer.epsilon)))
    return _scaled_and_shifted(draft, node, value)


def _read_rms_norm(draft: Draft, node: Node, inputs: list[int]) -> int:
    if _axes(node.layer.axis, draft.shapes[inputs[0]]) != (len(draft.shapes[inputs[0]]),):
        raise Refusal(f"it must normalise over the channels. Received: axis={node.layer.axis}")
    value = draft.add(ops.Normalize(inputs=(inputs[0],), groups=0, center=False, epsilon=float(node.layer.epsilon)))
    return _scaled_and_shifted(draft, node, value)


def _read_unit_norm(draft: Draft, node: Node, inputs: list[int]) -> int:
    """x / |x|: the mean of squares is |x|^2 / C."""
    channels = draft.shapes[inputs[0]][-1]
    if _axes(node.layer.axis, draft.shapes[inputs[0]]) != (len(draft.shapes[inputs[0]]),):
        raise Refusal(f"it must normalise over the channels. Received: axis={node.layer.axis}")
    value = draft.add(ops.Normalize(inputs=(inputs[0],), groups=0, center=False, epsilon=1e-12 / channels))
    return draft.scaled(value, channels**-0.5)


def _read_group_norm(draft: Draft, node: Node, inputs: list[int]) -> int:
    layer, shape = node.layer, draft.shapes[inputs[0]]
    if _axes(layer.axis, shape) != (len(shape),):
        raise Refusal(f"its axis must be the channels. Received: axis={layer.axis}")
    groups = shape[-1] if layer.groups == -1 else int(layer.groups)
    epsilon = float(layer.epsilon)
    value = draft.add(ops.Normalize(inputs=(inputs[0],), groups=groups, center=True, epsilon=epsilon))
    return _scaled_and_shifted(draft, node, value)


def _axes(axis: int | list[int], shape: ops.Shape) -> tuple[int, ...]:
    """Axes [B, ..., C], counted from the batch's, 0."""
    given = axis if isinstance(axis, (list, tuple)) else [axis]
    return tuple(sorted(one % (len(shape) + 1) for one in given))


def _scaled_and_shifted(draft: Draft, node: Node, value: int) -> int:
    """By the layer's gamma and beta, for each channel or for each element."""
    weights, shape = float_weights(node.layer), draft.shapes[value]
    scale = weights.get("gamma", weights.get("scale", np.ones(1, np.float32)))
    shift = weights.get("beta", np.zeros(1, np.float32))
    if scale.ndim == shift.ndim == 1:
        ones = np.ones(shape[-1:], np.float32)
        return draft.affine(value, scale * ones, shift * ones)
    value = draft.add(ops.Combine(inputs=(value, draft.constant(scale, shape)), kind="product"))
    return draft.add(ops.Elementwise(inputs=(value, draft.constant(shift, shape))))


READERS: Final[Mapping[type, Reader]] = {
    layers.BatchNormalization: _read_norm,
    BatchNorm: _read_norm,
    layers.Normalization: _read_normalization,
    layers.LayerNormalization: _read_layer_norm,
    layers.RMSNormalization: _read_rms_norm,
    layers.UnitNormalization: _read_unit_norm,
    layers.GroupNormalization: _read_group_norm,
}
"""Layer type to reader."""
