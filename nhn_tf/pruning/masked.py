"""The masks and kernels of a model's masked layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import keras
import numpy as np

from nhn_tf.layers.masked_conv import Masked, MaskedConv2D
from nhn_tf.layers.masked_dense import MaskedDense
from nhn_tf.models import keras_graph
from nhn_tf.values.masks import Masks

UNMASKED: Final[Mapping[type, type]] = {
    MaskedConv2D: keras.layers.Conv2D,
    MaskedDense: keras.layers.Dense,
}
"""Type of masked layer to Keras's own."""


def masked_layers(model: keras.Model, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The masked layers of a model by path (see `keras_graph.layers_of`), all of them or those in `names`.

    Raises:
      ValueError: a name that is not that of a masked layer.
    """
    found = {path: layer for path, layer in keras_graph.layers_of(model).items() if isinstance(layer, Masked)}
    if names is None:
        return found
    if unknown := [name for name in names if name not in found]:
        raise ValueError(
            f"masks go by the names of masked layers ({', '.join(found) or 'the model has none'}). "
            f"Received: {', '.join(unknown)}. `nhn_tf.pruning.prune` makes such layers."
        )
    return {name: found[name] for name in names}


def masks_of(model: keras.Model, names: Sequence[str] | None = None) -> Masks:
    """The masks of a model's masked layers, all of them or those in `names`, True where a kernel is kept.

    Raises:
      ValueError: a name that is not that of a masked layer.
    """
    layers = masked_layers(model, names)
    return Masks({name: keras.ops.convert_to_numpy(layer.mask) > 0 for name, layer in layers.items()})


def apply_masks(model: keras.Model, masks: Mapping[str, np.ndarray]) -> None:
    """Sets masks in place; weights of pruned kernels become 0. Layers without an entry stay as they are.

    Args:
      model: with a masked layer for every name in `masks`.
      masks: layer name to bool [Cin, Cout].

    Raises:
      ValueError: a layer that the model lacks, or a mask of another shape; nothing is changed then.
    """
    layers = masked_layers(model, list(masks))
    for name, layer in layers.items():
        if tuple(layer.mask.shape) != np.shape(masks[name]):
            raise ValueError(
                f"the mask of layer {name!r} must be of shape {tuple(layer.mask.shape)}. "
                f"Received: {np.shape(masks[name])}."
            )
    for name, layer in layers.items():
        layer.set_mask(np.asarray(masks[name]))


def kernels_of(layers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Layer name to its whole kernel, masked or not, float32 [kh, kw, Cin, Cout]; that of a dense layer is 1x1."""
    arrays = {name: np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float32) for name, layer in layers.items()}
    return {name: array if array.ndim == 4 else array[None, None] for name, array in arrays.items()}


def kinds_of(layers: Mapping[str, Any]) -> dict[str, str]:
    """Layer name to the kind of its connections, within which scores compare: `kxk` kernels, `1x1` ones, `dense`."""

    def kind(layer: Any) -> str:
        if isinstance(layer, keras.layers.Dense):
            return "dense"
        return "1x1" if layer.kernel_size == (1, 1) else "kxk"

    return {name: kind(layer) for name, layer in layers.items()}
