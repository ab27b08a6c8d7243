"""Scores in units of those that a layer begins with, so that layers of different sizes can be ranked together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from nhn_tf.pruning import criteria
from nhn_tf.pruning.masked import kernels_of


def units(layers: Mapping[str, Any], criterion: str = "std") -> dict[str, float]:
    """The mean score that each layer's kernels have as its initializer draws them.

    It is drawn, with a seed of its own, so that any initializer is followed: He's makes the standard deviation
    proportional to 1 / (k * sqrt(Cin)) for kernels of k x k entries, and smoothing takes more from small kernels.

    Args:
      layers: layer name to a convolution or dense layer that is built.
      criterion: a name in `criteria.CRITERIA`.

    Raises:
      ValueError: a layer is initialised to scores of 0, which are no unit; the message names it.
    """
    shapes = {name: kernel.shape for name, kernel in kernels_of(layers).items()}
    drawn = {name: np.asarray(_draw(layer)).reshape(shapes[name]) for name, layer in layers.items()}
    found = {name: float(scores.mean()) for name, scores in criteria.score(drawn, criterion).items()}
    if flat := [name for name, unit in found.items() if unit <= 0]:
        raise ValueError(
            f'scope="normalized" compares kernels with those that a layer begins from. Received: {", ".join(flat)}, '
            f"which begins from scores of 0 by the criterion {criterion}."
        )
    return found


def scores_of(
    layers: Mapping[str, Any],
    criterion: str = "std",
    *,
    scope: str = "global",
    seed: int = 0,
    unit: Mapping[str, float] | None = None,
) -> dict[str, np.ndarray]:
    """The scores by which layers' kernels are chosen: of `criteria.score`, in `units` where the scope is normalized.

    `unit` has these units where they are known; they never change.
    """
    scores = criteria.score(kernels_of(layers), criterion, seed=seed)
    if scope != "normalized":
        return scores
    unit = unit or units(layers, criterion)
    return {name: values / np.float32(unit[name]) for name, values in scores.items()}


def _draw(layer: Any) -> np.ndarray:
    """A kernel as the layer's initializer draws it, the same at every call."""
    initializer = keras.initializers.deserialize(_seeded(keras.initializers.serialize(layer.kernel_initializer)))
    return keras.ops.convert_to_numpy(initializer(tuple(layer.kernel.shape), dtype="float32"))


def _seeded(config: Any) -> Any:
    """An initializer's configuration, and those within it, with a fixed seed where it has one."""
    if not isinstance(config, dict):
        return config
    return {key: 0 if key == "seed" else _seeded(value) for key, value in config.items()}
