"""Parameters and multiply-adds of a Keras model, layer by layer, masked kernels not counted.

Parameters are what training learns and the layer needs at inference: kernels, biases, and a batch normalisation's gamma
and beta. Moving statistics and masks are state, not parameters, as in ENAS's count. FLOPs are multiply-adds (one
multiplication and one addition count as one) of convolutions, dense layers and the grouped global pooling, for one
image; normalisation, activations, pooling and additions, a percent or so together, count 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

import keras
import numpy as np
from keras import layers

from nhn_tf.layers.batch_norm import BatchNorm
from nhn_tf.layers.global_pool import GroupedGlobalPool
from nhn_tf.layers.masked_conv import MaskedConv2D
from nhn_tf.layers.reduction import FactorizedReduction

STATE: Final = frozenset(("mask", "moving_mean", "moving_variance", "seed_generator_state"))
"""Names of variables that are no parameters."""

Shape = tuple[int | None, ...]
Weights = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a layer costs.

    Attributes:
      params: parameters, masked or not.
      live_params: parameters outside masked kernels.
      flops: multiply-adds for one image with every kernel computed.
      live_flops: multiply-adds with masked kernels left out.
    """

    params: int = 0
    live_params: int = 0
    flops: int = 0
    live_flops: int = 0

    def __add__(self, other: Cost) -> Cost:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Cost(*(a + b for a, b in pairs))


def parameter_counts(weights: Weights) -> tuple[int, int]:
    """Parameters of a layer, and those outside masked kernels, from its variables by name."""
    params = sum(int(w.size) for name, w in weights.items() if name not in STATE)
    return params, params - _masked_entries(weights)


def layer_cost(kind: type, weights: Weights, shape: Shape, *, name: str = "") -> Cost:
    """Cost of one layer.

    Args:
      kind: its class.
      weights: its variables by name, as arrays.
      shape: of its output, [B, ..., C]; sizes other than B must be known.
      name: for the error message.

    Raises:
      ValueError: a layer type that is not known, or an unknown size; the message names the layer.
    """
    if kind not in COUNTED:
        raise ValueError(
            f"the cost of layer {name!r} of type {kind.__name__} is not known. "
            f"Known types: {', '.join(sorted(k.__name__ for k in COUNTED))}."
        )
    counted = COUNTED[kind]
    sizes = [size for size in shape[1:-1] if size is not None]
    if counted and len(sizes) < len(shape) - 2:
        raise ValueError(
            f"counting multiply-adds needs known sizes. Received: output {tuple(shape)} of layer {name!r}. Build the "
            "model with an input of fixed height and width."
        )
    params, live_params = parameter_counts(weights)
    positions = 1 if kind is GroupedGlobalPool else math.prod(sizes)
    each = sum(int(weights[name].size) for name in counted)
    return Cost(
        params=params,
        live_params=live_params,
        flops=positions * each,
        live_flops=positions * (each - (params - live_params)),
    )


def layer_costs(model: keras.Model) -> dict[str, Cost]:
    """Cost of every layer of a functional model, by layer name.

    Raises:
      ValueError: as in `layer_cost`, or a layer that is called more than once.
    """
    costs = {}
    for layer in model.layers:
        weights = {v.name: keras.ops.convert_to_numpy(v) for v in layer.variables}
        costs[layer.name] = layer_cost(type(layer), weights, _output_shape(layer), name=layer.name)
    return costs


def model_cost(model: keras.Model) -> Cost:
    """Cost of a whole functional model; raises like `layer_costs`."""
    return sum(layer_costs(model).values(), Cost())


def _output_shape(layer: Any) -> Shape:
    try:
        return tuple(layer.output.shape)
    except AttributeError:
        raise ValueError(
            f"layer {layer.name!r} must be called exactly once, and on one model's tensors, for its cost to be known."
        ) from None


def _masked_entries(weights: Weights) -> int:
    """Kernel entries of masked connections."""
    if "mask" not in weights:
        return 0
    kh, kw = weights["kernel"].shape[:2]
    return kh * kw * int(np.sum(weights["mask"] == 0))


COUNTED: Final[Mapping[type, tuple[str, ...]]] = {
    layers.Conv2D: ("kernel",),
    MaskedConv2D: ("kernel",),
    layers.DepthwiseConv2D: ("kernel",),
    layers.SeparableConv2D: ("depthwise_kernel", "pointwise_kernel"),
    layers.Dense: ("kernel",),
    FactorizedReduction: ("kernel_a", "kernel_b"),
    GroupedGlobalPool: ("kernel",),
    **dict.fromkeys(
        (
            layers.InputLayer,
            layers.BatchNormalization,
            BatchNorm,
            layers.ReLU,
            layers.LeakyReLU,
            layers.ELU,
            layers.Activation,
            layers.Softmax,
            layers.Concatenate,
            layers.Add,
            layers.Flatten,
            layers.ZeroPadding2D,
            layers.Cropping2D,
            layers.UpSampling2D,
            layers.AveragePooling2D,
            layers.MaxPooling2D,
            layers.GlobalAveragePooling2D,
            layers.GlobalMaxPooling2D,
            layers.Dropout,
            layers.SpatialDropout2D,
            layers.Identity,
        ),
        (),
    ),
}
"""Layer type to the weights that every output position multiplies once each."""


def score(error_percent: float, params_m: float) -> float:
    """The paper's figure of merit (section 3): sqrt((e / 2)^2 + (n / 25)^2); smaller is better.

    Args:
      error_percent: test error in percent.
      params_m: live parameters in millions.
    """
    return math.hypot(error_percent / 2, params_m / 25)
