"""Statistics of batch normalisation, measured anew.

Pruning shifts what layers see, and moving averages follow slowly: with Keras's momentum of 0.99 a network that was
pruned and trained for a few epochs is still judged by statistics from before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers

from nhn_tf.models import keras_graph


def recalibrate(model: keras.Model, data: Any, *, batch_size: int = 128, steps: int | None = None) -> None:
    """Sets the moving statistics of every batch normalisation to those of the data, in one pass without labels.

    The model runs as in training (dropout drops), but nothing is learned. Frozen normalisations keep their statistics.

    Args:
      model: functional or Sequential; changed in place.
      data: images as an array [N, ...], nested as the model takes its inputs where it has several; or whatever yields
        batches: images, or tuples of which the first is images.
      batch_size: into which an array is cut.
      steps: batches to look at; by default all of them.

    Raises:
      ValueError: no batch came, or `data` is none of these.
    """
    norms = [
        layer
        for layer in keras_graph.layers_of(model).values()
        if isinstance(layer, layers.BatchNormalization) and layer.trainable
    ]
    if not norms:
        return
    moments = _Moments(norms)
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0  # So that the moving statistics become those of the batch.
        for number, images in enumerate(_batches(model, data, batch_size)):
            if steps is not None and number >= steps:
                break
            moments.add(_updated(model, images), len(keras.tree.flatten(images)[0]))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    moments.assign()


class _Moments:
    """Mean and variance of all that has been seen, from those of batches."""

    def __init__(self, norms: Iterable[layers.BatchNormalization]):
        self._norms = list(norms)
        self._count = 0
        self._sums = [(np.zeros(norm.moving_mean.shape), np.zeros(norm.moving_mean.shape)) for norm in self._norms]

    def add(self, values: dict[int, np.ndarray], count: int) -> None:
        """Counts a batch in: variable's id to value, and its size."""
        self._count += count
        for norm, (firsts, seconds) in zip(self._norms, self._sums, strict=True):
            mean, variance = values[id(norm.moving_mean)], values[id(norm.moving_variance)]
            firsts += count * mean
            seconds += count * (variance + mean**2)

    def assign(self) -> None:
        if not self._count:
            raise ValueError("`data` must hold at least one batch of images. Received none.")
        for norm, (firsts, seconds) in zip(self._norms, self._sums, strict=True):
            mean = firsts / self._count
            norm.moving_mean.assign(mean)
            norm.moving_variance.assign(np.maximum(seconds / self._count - mean**2, 0.0))


def _updated(model: keras.Model, images: Any) -> dict[int, np.ndarray]:
    """The model's variables that are not trained, by id, as a training step on these images would leave them."""
    variables = model.non_trainable_variables
    _, values = model.stateless_call(
        [variable.value for variable in model.trainable_variables],
        [variable.value for variable in variables],
        images,
        training=True,
    )
    arrays = (keras.ops.convert_to_numpy(value) for value in values)
    return {id(v): a.astype(np.float64) if a.dtype.kind == "f" else a for v, a in zip(variables, arrays, strict=True)}


def _batches(model: keras.Model, data: Any, batch_size: int) -> Iterator[Any]:
    """The images of each batch."""
    # A batch for several inputs is no array, so arrays in a list are the inputs.
    listed = isinstance(data, (list, tuple)) and len(model.inputs) > 1 and all(map(_is_array, data))
    if _is_array(data) or isinstance(data, dict) or listed:
        for start in range(0, len(keras.tree.flatten(data)[0]), batch_size):
            yield keras.tree.map_structure(lambda array: array[start : start + batch_size], data)  # noqa: B023
        return
    batches = (data[i] for i in range(len(data))) if isinstance(data, keras.utils.PyDataset) else data
    if isinstance(batches, str) or not isinstance(batches, Iterable):
        raise ValueError(f"`data` must hold images, or yield batches of them. Received: {type(data).__name__}.")
    for batch in batches:
        yield batch[0] if isinstance(batch, (tuple, list)) else batch


def _is_array(data: Any) -> bool:
    return hasattr(data, "shape") and hasattr(data, "dtype")
