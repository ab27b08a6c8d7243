"""What dead-neuron clean-up and compaction know of channels, and what they ask of a layer type.

A channel is *constant* when it has the same value at every position of every image, whatever the model is given; here
that follows from the masks alone (a weight that happens to be 0 may still learn), so a constant is what a neuron
without live input kernels emits: a bias, the shift of a batch normalisation. A channel is *kept* when the compacted
model has it.

For every layer type a `Rule` answers four questions:

  constants  which of its output channels are constant, and at what value?
  needs      which of its input channels must be kept if certain outputs are?
  follows    which of its output channels exist because its inputs do (no layer drops channels on the way)?
  cut        its configuration and weights with only the kept channels.

Shapes: Cin Cout input and output channels, channels last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import keras
import numpy as np
from keras import layers

from nhn_tf.models.keras_graph import Node, kind_of

ELEMENTWISE: Final = frozenset(
    getattr(keras.activations, name)
    for name in (
        "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear log_sigmoid mish "
        "relu relu6 selu sigmoid silu soft_shrink softplus softsign sparse_plus sparse_sigmoid squareplus tanh "
        "tanh_shrink threshold"
    ).split()
)
"""Activations that treat each channel alone."""

ELEMENTWISE_LAYERS: Final = (layers.ReLU, layers.LeakyReLU, layers.ELU)
"""Layers without weights that do so, and may stand as the activation of another layer."""


class Channels(NamedTuple):
    """What is known of a layer's output.

    Attributes:
      constant: bool [C].
      value: float64 [C], 0 where not constant.
    """

    constant: np.ndarray
    value: np.ndarray


def channels(constant: np.ndarray, value: np.ndarray) -> Channels:
    return Channels(constant, np.where(constant, value, 0.0))


def all_varying(count: int) -> Channels:
    return Channels(np.zeros(count, bool), np.zeros(count))


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """A layer where it stands.

    Attributes:
      node: the layer and its call.
      weights: its variables by name.
      in_shapes: shapes of the tensors that it reads.
      feeds_norms: whether nothing but batch normalisations reads it, so that they can take up a shift of its output.
      calls: of the layer in the model. If it has weights, all calls have the same channels.
    """

    node: Node
    weights: Mapping[str, np.ndarray]
    in_shapes: tuple[tuple[int | None, ...], ...]
    feeds_norms: bool = False
    calls: int = 1

    @property
    def layer(self) -> Any:
        return self.node.layer

    @property
    def width(self) -> int:
        """Channels of the output."""
        return _channel_count(self.node.shape)

    @property
    def in_width(self) -> int:
        """Channels of the first input."""
        return _channel_count(self.in_shapes[0])

    @property
    def activation(self) -> Any:
        """The activation that the layer ends in, linear if it has none."""
        if isinstance(self.layer, layers.Softmax):
            return keras.activations.softmax
        return getattr(self.layer, "activation", None) or keras.activations.linear

    @property
    def pads(self) -> bool:
        """Whether a convolution may read zeros beyond the border."""
        sizes = getattr(self.layer, "kernel_size", (1,))
        return getattr(self.layer, "padding", "valid") == "same" and max(sizes) > 1

    def mixes(self) -> bool:
        """Whether the layer's activation may let a channel depend on others, as softmax does; unknown ones may."""
        if isinstance(self.activation, layers.Layer):
            return kind_of(self.activation) not in ELEMENTWISE_LAYERS
        return self.activation not in ELEMENTWISE


class NotFollowedError(ValueError):
    """Why channels cannot be followed through a layer: it is a wall, before and behind which all are kept."""


class Cut(NamedTuple):
    """A layer with fewer channels.

    Attributes:
      config: entries of the layer's configuration that change.
      weights: its variables by name; None leaves its state as it is.
      shift: float64 [kept channels], what its output now lacks of the original's.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, np.ndarray] | None
    shift: np.ndarray


class Rule:
    """Base: one tensor in and out, and channel i of the output is made of channel i of the input alone."""

    def check(self, site: Site) -> None:
        """Raises a NotFollowedError where the layer's settings are not supported."""

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        return inputs[0]

    def needs(self, site: Site, inputs: Sequence[Channels], kept: np.ndarray) -> Sequence[np.ndarray]:
        """For each input, bool [Cin], given the kept outputs, bool [Cout]."""
        return [kept for _ in inputs]

    def follows(self, site: Site, kept_inputs: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray:
        """bool [Cout]. Only asked of a layer of which some output is kept."""
        return kept_inputs[0]

    def cut(
        self,
        site: Site,
        inputs: Sequence[Channels],
        kept_inputs: Sequence[np.ndarray],
        kept: np.ndarray,
        shift: np.ndarray,
    ) -> Cut:
        """Cuts the layer; `shift` is what its (only) input lacks."""
        return Cut({}, site.weights, np.zeros(int(kept.sum())))


def evaluate(function: Any, value: np.ndarray) -> np.ndarray:
    """An elementwise Keras function or layer on constants [C]."""
    if function is keras.activations.linear:
        return value
    result = function(keras.ops.convert_to_tensor(value[None], "float32"))
    return keras.ops.convert_to_numpy(result)[0].astype(np.float64)


def channel_axis(site: Site) -> tuple[int, int]:
    """The two numbers by which a layer may name the channels' axis."""
    return (-1, len(site.node.shape) - 1)


def _channel_count(shape: tuple[int | None, ...]) -> int:
    """Size of the last axis; where it is unknown or the only one, the value counts as one channel."""
    return shape[-1] if len(shape) > 1 and shape[-1] is not None else 1
