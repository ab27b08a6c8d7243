"""The masks and kernels of a model's masked convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from nhn_tf.layers.masked_conv import MaskedConv2D
from nhn_tf.models import keras_graph
from nhn_tf.values.masks import Masks


def masked_layers(model: keras.Model, names: Sequence[str] | None = None) -> dict[str, MaskedConv2D]:
    """The MaskedConv2D layers of a model by path (see `keras_graph.layers_of`), all of them or those in `names`.

    Raises:
      ValueError: a name that is not that of a MaskedConv2D.
    """
    found = {path: layer for path, layer in keras_graph.layers_of(model).items() if isinstance(layer, MaskedConv2D)}
    if names is None:
        return found
    if unknown := [name for name in names if name not in found]:
        raise ValueError(
            f"masks go by the names of MaskedConv2D layers ({', '.join(found) or 'the model has none'}). "
            f"Received: {', '.join(unknown)}. `nhn_tf.pruning.prune` makes such layers."
        )
    return {name: found[name] for name in names}


def masks_of(model: keras.Model) -> Masks:
    """The masks of all MaskedConv2D layers of a model, True where a kernel is kept."""
    layers = masked_layers(model)
    return Masks({name: keras.ops.convert_to_numpy(layer.mask) > 0 for name, layer in layers.items()})


def apply_masks(model: keras.Model, masks: Mapping[str, np.ndarray]) -> None:
    """Sets masks in place; weights of pruned kernels become 0. Layers without an entry stay as they are.

    Args:
      model: with a MaskedConv2D for every name in `masks`.
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


def kernels_of(layers: Mapping[str, keras.layers.Conv2D]) -> dict[str, np.ndarray]:
    """Layer name to its whole kernel, masked or not, float32 [kh, kw, Cin, Cout]."""
    return {name: np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float32) for name, layer in layers.items()}
