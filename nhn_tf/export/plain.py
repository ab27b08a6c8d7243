"""A network of ordinary Keras layers that computes what one with this package's layers does.

Letters: B batch, H W spatial, C channels, F filters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import keras
import numpy as np
from keras import layers

from nhn_tf.layers import BatchNorm, FactorizedReduction, GroupedGlobalPool, MaskedConv2D, MaskedDense, SmoothInit
from nhn_tf.models import keras_graph

Weights = dict[str, np.ndarray]


def plain(model: keras.Model) -> keras.Model:
    """Rebuilds a model for inference without this package's layers.

    `MaskedConv2D` becomes `Conv2D` with kernel * mask, `MaskedDense` likewise `Dense`, `FactorizedReduction` one 2x2
    `Conv2D` of stride 2, `GroupedGlobalPool` a `DepthwiseConv2D` and `Flatten`, `BatchNorm` `BatchNormalization`.
    Dropout, which does nothing at inference, goes, and everything is float32. Whoever loads the saved result needs
    Keras alone.

    Args:
      model: functional or built Sequential, every layer called once.

    Returns:
      A new functional model, not compiled, whose outputs are the same up to rounding. Layers keep their names.

    Raises:
      ValueError: a layer of this package, or of another, for which there is no ordinary one, or one that reads tensors
        beside its first argument; the message names it.
    """
    traced = keras_graph.trace(model)
    tensors: dict[str, Any] = {}
    for name, node in traced.nodes.items():
        inputs = [tensors[parent] for parent in node.parents]
        if isinstance(node.layer, layers.InputLayer):
            tensors[name] = keras.Input(node.shape[1:], name=name, dtype=node.layer.dtype)
        elif isinstance(node.layer, layers.Dropout):
            tensors[name] = inputs[0]
        else:
            tensors[name] = _replace(node, inputs)
    return keras_graph.model_like(model, traced, tensors)


def _replace(node: keras_graph.Node, inputs: list[Any]) -> Any:
    """The output of the ordinary layer (or two) that does what the node's layer does."""
    make = REPLACEMENTS.get(type(node.layer), _same)
    layer, weights = make(node.layer)
    if own := _foreign(layer):
        raise ValueError(
            f"layer {node.name!r} ({type(node.layer).__name__}) has no ordinary Keras layer in its "
            f"place: it needs {own}."
        )
    if not node.is_plain:  # the tensors among its other arguments are the old model's
        raise ValueError(
            f"layer {node.name!r} ({type(node.layer).__name__}) reads tensors beside its first argument; a layer that "
            "is exported may read one tensor, or one list of tensors, given first."
        )
    output = layer(inputs if node.is_list else inputs[0], *node.args, **node.kwargs)
    for variable in layer.variables:
        variable.assign(weights[variable.name])
    if isinstance(node.layer, GroupedGlobalPool):
        output = layers.Flatten(name=f"{node.name}_flatten")(output)
    return output


def _foreign(layer: Any) -> str | None:
    """A class that Keras could not find by itself when it loads the layer; None when there is none."""

    def search(value: Any) -> str | None:
        if isinstance(value, Mapping):
            if value.get("registered_name") and value.get("class_name"):
                return str(value["registered_name"])
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            return next((found for item in value if (found := search(item))), None)
        return None

    if not isinstance(layer, layers.Layer):
        return f"the bare operation {type(layer).__name__}"
    return search(json.loads(json.dumps(keras.saving.serialize_keras_object(layer))))


def _same(layer: Any) -> tuple[Any, Weights]:
    """A copy whose initializers are Keras's own."""
    if not isinstance(layer, layers.Layer):
        return layer, {}
    return type(layer).from_config(_config(layer)), keras_graph.weights_of(layer)


def _config(layer: Any) -> dict[str, Any]:
    config = {**layer.get_config(), "dtype": "float32"}
    for key in config:
        if key.endswith("_initializer") and isinstance(getattr(layer, key, None), SmoothInit):
            config[key] = keras.initializers.serialize(getattr(layer, key).initializer)
    return config


def _masked(layer: Any) -> tuple[Any, Weights]:
    weights = keras_graph.weights_of(layer)
    weights["kernel"] = weights["kernel"] * weights.pop("mask")
    kind = layers.Conv2D if isinstance(layer, MaskedConv2D) else layers.Dense
    return kind.from_config(_config(layer)), weights


def _norm(layer: Any) -> tuple[Any, Weights]:
    config = _config(layer)
    if config.pop("use_batch_statistics"):
        raise ValueError(f"layer {layer.name!r} normalises by its batch's statistics, which no other layer does.")
    return layers.BatchNormalization.from_config(config), keras_graph.weights_of(layer)


def _reduction(layer: Any) -> tuple[Any, Weights]:
    """The first path reads pixel (0, 0) of each 2x2 square, the second pixel (1, 1)."""
    weights = keras_graph.weights_of(layer)
    first, second = weights["kernel_a"][0, 0], weights["kernel_b"][0, 0]  # [Cin, F_a], [Cin, F_b]
    kernel = np.zeros((2, 2, len(first), layer.filters), np.float32)
    kernel[0, 0, :, : layer.filters_a] = first
    kernel[1, 1, :, layer.filters_a :] = second
    conv = layers.Conv2D(layer.filters, 2, strides=2, use_bias=False, name=layer.name, dtype="float32")
    return conv, {"kernel": kernel}


def _pool(layer: Any) -> tuple[Any, Weights]:
    kernel = keras_graph.weights_of(layer)["kernel"]  # [H, W, C]
    conv = layers.DepthwiseConv2D(kernel.shape[:2], use_bias=False, name=layer.name, dtype="float32")
    return conv, {"kernel": kernel[..., None]}


REPLACEMENTS: Final[Mapping[type, Callable[[Any], tuple[Any, Weights]]]] = {
    MaskedConv2D: _masked,
    MaskedDense: _masked,
    BatchNorm: _norm,
    FactorizedReduction: _reduction,
    GroupedGlobalPool: _pool,
}
"""Layer type to what makes the ordinary layer and its weights by name. Subclasses are not looked up."""
