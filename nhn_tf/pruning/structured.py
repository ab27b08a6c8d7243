"""Whole output channels instead of single kernels: what engines that know no masks gain from.

Shapes: Cin Cout input and output channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import keras
import numpy as np

from nhn_tf.pruning import criteria
from nhn_tf.pruning.liveness import liveness
from nhn_tf.pruning.masked import masked_layers
from nhn_tf.values.masks import Masks

HALVINGS: Final = 12
"""Of the interval in which the share of channels is looked for."""


def select_channels(
    model: keras.Model,
    scores: Mapping[str, np.ndarray],
    *,
    sparsity: float | None = None,
    current: Mapping[str, np.ndarray] | None = None,
    **target: Any,
) -> criteria.Selection:
    """Turns the scores of kernels into masks that keep or drop whole output channels.

    A channel's score is the mean of its kernels'. Dropping it also spares the kernels that would read it, so the share
    of channels that leaves `1 - sparsity` of the kernels alive is smaller than `sparsity`; it is found by halving.

    Args:
      model: with a masked layer for every entry of `scores`; its masks are tried out and then put back.
      scores: layer name to float [Cin, Cout].
      sparsity: share of the kernels of these layers that are masked or between dead channels in the end, in [0, 1).
      current: masks in force, layer name to bool [Cin, Cout].
      **target: as for `criteria.select`.
    """
    columns = {name: score.mean(axis=0, keepdims=True) for name, score in scores.items()}
    whole = current or {}
    alive = {name: np.any(mask, axis=0, keepdims=True) for name, mask in whole.items()}

    def select(share: float | None) -> criteria.Selection:
        found = criteria.select(columns, sparsity=share, current=alive, **target)
        masks = {
            name: np.broadcast_to(mask, scores[name].shape) & whole.get(name, True)
            for name, mask in found.masks.items()
        }
        return dataclasses.replace(found, masks=Masks(masks))

    if sparsity is None:
        return select(None)
    low, high = 0.0, sparsity
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _gone(model, select(middle).masks) < sparsity:
            low = middle
        else:
            high = middle
    return select(high)


def _gone(model: keras.Model, masks: Masks) -> float:
    """Share of the masked layers' kernels that are masked or between dead channels."""
    layers = masked_layers(model, list(masks))
    before = {name: keras.ops.convert_to_numpy(layer.mask) for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.mask.assign(masks[name].astype("float32"))
        counts = liveness(model)
    finally:
        for name, layer in layers.items():
            layer.mask.assign(before[name])
    return 1 - sum(counts[name].live_kernels for name in masks) / sum(counts[name].kernels for name in masks)
