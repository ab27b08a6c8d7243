"""Parameters and multiply-adds of a Keras model, layer by layer, masked kernels not counted.

Parameters are what training learns and the layer needs at inference: kernels, biases, and a batch normalisation's gamma
and beta. Moving statistics and masks are state, not parameters, as in ENAS's count. FLOPs are multiply-adds (one
multiplication and one addition count as one) of convolutions, dense layers and the grouped global pooling, for one
image; normalisation, activations, pooling and additions, a percent or so together, count 0. Recurrent layers, attention
and layers of one's own are not known: `uncounted` names them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import keras
import numpy as np
from keras import layers

from nhn_tf.layers.batch_norm import BatchNorm
from nhn_tf.layers.global_pool import GroupedGlobalPool
from nhn_tf.layers.masked_conv import MaskedConv2D
from nhn_tf.layers.masked_dense import MaskedDense
from nhn_tf.layers.reduction import FactorizedReduction
from nhn_tf.models import keras_graph

STATE: Final = frozenset(
    ("mask", "moving_mean", "moving_variance", "seed_generator_state", "mean", "variance", "count")
)
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


def layer_cost(kind: type, weights: Weights, shape: Shape, *, name: str = "", again: bool = False) -> Cost:
    """Cost of one call of a layer.

    Args:
      kind: its class. The multiply-adds of one that is not in `COUNTED` are not known and count 0 (see `uncounted`).
      weights: its variables by name, as arrays.
      shape: of the positions at which it computes (see `computed_at`), [B, ..., C]; sizes other than B must be known.
      name: for the error message.
      again: whether the layer's parameters are counted at another call.

    Raises:
      ValueError: an unknown size; the message names the layer.
    """
    counted: tuple[str, ...] = COUNTED.get(kind, ())
    sizes = [size for size in shape[1:-1] if size is not None]
    if counted and len(sizes) < len(shape) - 2:
        raise ValueError(
            f"counting multiply-adds needs known sizes. Received: shape {tuple(shape)} at layer {name!r}. Build the "
            "model with an input of fixed height and width."
        )
    params, live_params = parameter_counts(weights)
    positions = 1 if kind is GroupedGlobalPool else math.prod(sizes)
    each = sum(int(weights[name].size) for name in counted)
    return Cost(
        params=0 if again else params,
        live_params=0 if again else live_params,
        flops=positions * each,
        live_flops=positions * (each - (params - live_params)),
    )


def layer_costs(model: keras.Model, shapes: Sequence[Shape] | None = None) -> dict[str, Cost]:
    """Cost of every call of a layer in a functional model, by node name (see `keras_graph`).

    Parameters of a layer that is called more than once stand at its first call.

    Args:
      model: functional or Sequential.
      shapes: of its inputs, batch axis first, where others are wanted than those that it was built with.

    Raises:
      ValueError: as in `layer_cost` and `keras_graph.trace`.
    """
    graph = keras_graph.trace(model, shapes)
    return {
        name: layer_cost(
            node.kind, all_weights(node.layer), computed_at(graph, name), name=name, again=graph.calls[name][0] != name
        )
        for name, node in graph.nodes.items()
    }


def computed_at(graph: keras_graph.Graph, name: str) -> Shape:
    """Shape of the map at each position of which a node multiplies its weights."""
    node = graph.nodes[name]
    return graph.nodes[node.parents[0]].shape if node.kind is layers.Conv2DTranspose else node.shape


def uncounted(model: keras.Model) -> dict[str, str]:
    """The layers with parameters whose multiply-adds are not known: node name to type."""
    nodes = keras_graph.trace(model).nodes
    return {
        name: type(node.layer).__name__
        for name, node in nodes.items()
        if node.kind not in COUNTED and any(v.name not in STATE for v in getattr(node.layer, "variables", ()))
    }


def model_cost(model: keras.Model) -> Cost:
    """Cost of a whole functional model; raises like `layer_costs`."""
    return sum(layer_costs(model).values(), Cost())


def all_weights(layer: Any) -> dict[str, np.ndarray]:
    """Every variable of a layer by name, also where two of the layers within it have one of the same name."""
    found: dict[str, np.ndarray] = {}
    for variable in getattr(layer, "variables", ()):
        key = variable.name
        if key in found and key not in STATE:
            key = f"{key}_{len(found)}"
        found[key] = keras.ops.convert_to_numpy(variable)
    return found


def _masked_entries(weights: Weights) -> int:
    """Kernel entries of masked connections."""
    if "mask" not in weights:
        return 0
    size = math.prod(weights["kernel"].shape[:-2])
    return size * int(np.sum(weights["mask"] == 0))


COUNTED: Final[Mapping[type, tuple[str, ...]]] = {
    **dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.Conv3D, MaskedConv2D, layers.Conv2DTranspose), ("kernel",)),
    **dict.fromkeys((layers.DepthwiseConv1D, layers.DepthwiseConv2D), ("kernel",)),
    **dict.fromkeys((layers.SeparableConv1D, layers.SeparableConv2D), ("depthwise_kernel", "pointwise_kernel")),
    **dict.fromkeys((layers.Dense, MaskedDense), ("kernel",)),
    FactorizedReduction: ("kernel_a", "kernel_b"),
    GroupedGlobalPool: ("kernel",),
    **dict.fromkeys(
        (
            layers.BatchNormalization,
            BatchNorm,
            layers.GroupNormalization,
            layers.LayerNormalization,
            layers.Normalization,
            layers.PReLU,
            layers.RMSNormalization,
            keras_graph.LayerScale,
        ),
        (),
    ),
}
"""Type of layer with weights to those that every position multiplies once each."""


def score(error_percent: float, params_m: float) -> float:
    """The paper's figure of merit (section 3): sqrt((e / 2)^2 + (n / 25)^2); smaller is better.

    Args:
      error_percent: test error in percent.
      params_m: live parameters in millions.
    """
    return math.hypot(error_percent / 2, params_m / 25)
