"""What each layer type does to channels: the rules that dead-neuron clean-up and compaction follow.

A channel is *constant* when it has the same value at every position of every image, whatever the model is given; here
that follows from the masks alone (a weight that happens to be 0 may still learn), so a constant is what a neuron
without live input kernels emits: a bias, the shift of a batch normalisation. A channel is *kept* when the compacted
model has it.

For every layer type a `Rule` answers four questions:

  constants  which of its output channels are constant, and at what value?
  needs      which of its input channels must be kept if certain outputs are?
  follows    which of its output channels exist because its inputs do (no layer drops channels on the way)?
  cut        its configuration and weights with only the kept channels.

Constants of input channels that are not kept move into the bias. Where a convolution pads with zeros, a constant other
than 0 differs at the border, so no bias can stand for it: there one constant input is kept as the carrier, and the
kernels of the others, scaled by the ratio of the constants, are added to its kernels. That is exact, border included.

Shapes: Cin Cout input and output channels, channels last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import keras
import numpy as np
from keras import layers

from nhn_tf.layers.batch_norm import BatchNorm
from nhn_tf.layers.global_pool import GroupedGlobalPool
from nhn_tf.layers.masked_conv import MaskedConv2D
from nhn_tf.layers.reduction import FactorizedReduction
from nhn_tf.pruning.graph import Node

ELEMENTWISE: Final = frozenset(
    getattr(keras.activations, name)
    for name in (
        "celu elu exponential gelu hard_sigmoid hard_silu hard_tanh leaky_relu linear log_sigmoid mish relu relu6 selu "
        "sigmoid silu softplus softsign tanh"
    ).split()
)
"""Activations that treat each channel alone."""

MIXING: Final = frozenset((keras.activations.softmax, keras.activations.log_softmax))
"""Activations in which every channel depends on all: none can be left out."""


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
    """

    node: Node
    weights: Mapping[str, np.ndarray]
    in_shapes: tuple[tuple[int | None, ...], ...]
    feeds_norms: bool

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

    def refusal(self, reason: str) -> ValueError:
        kind = type(self.layer).__name__
        return ValueError(f"layer {self.node.name!r} ({kind}) cannot be compacted: {reason}.")


class Cut(NamedTuple):
    """A layer with fewer channels.

    Attributes:
      config: entries of the layer's configuration that change.
      weights: its variables by name.
      shift: float64 [kept channels], what its output now lacks of the original's.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, np.ndarray]
    shift: np.ndarray


class Rule:
    """Base: one tensor in and out, and channel i of the output is made of channel i of the input alone."""

    def check(self, site: Site) -> None:
        """Raises a ValueError where the layer's settings are not supported."""

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


class InputRule(Rule):
    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        return all_varying(site.width)

    def follows(self, site: Site, kept_inputs: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray:
        return kept


class ActivationRule(Rule):
    """Layers that apply a function to each element, and softmax, which keeps every channel."""

    def check(self, site: Site) -> None:
        _mixes(site)
        if isinstance(site.layer, layers.Softmax) and site.layer.axis not in (-1, len(site.node.shape) - 1):
            raise site.refusal("softmax must run over the channels")

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        if _mixes(site):
            return all_varying(site.width)
        return channels(inputs[0].constant, _apply(site.layer, inputs[0].value))

    def needs(self, site: Site, inputs: Sequence[Channels], kept: np.ndarray) -> Sequence[np.ndarray]:
        return [np.ones_like(kept) if _mixes(site) else kept]


class ZeroPaddingRule(Rule):
    """A padded constant is one only if it is 0."""

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        constant, value = inputs[0]
        return channels(constant & (value == 0), value)


class NormalizationRule(Rule):
    """Batch normalisation: also takes up what a layer before it lacks, in its moving mean.

    In training the batch's mean takes up any shift by itself, so retraining is not changed.
    """

    def check(self, site: Site) -> None:
        if site.layer.axis not in (-1, len(site.node.shape) - 1):
            raise site.refusal(f"its axis must be the channels. Received: axis={site.layer.axis}")
        if getattr(site.layer, "renorm", False):
            raise site.refusal("batch renormalisation is not supported")

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        constant, value = inputs[0]
        w = {name: weight.astype(np.float64) for name, weight in site.weights.items()}
        centred = value - w["moving_mean"]
        if getattr(site.layer, "use_batch_statistics", False):
            centred = np.zeros_like(value)
        scaled = centred / np.sqrt(w["moving_variance"] + site.layer.epsilon)
        return channels(constant, scaled * w.get("gamma", 1.0) + w.get("beta", 0.0))

    def cut(self, site, inputs, kept_inputs, kept, shift) -> Cut:
        weights = {name: weight[kept] for name, weight in site.weights.items()}
        weights["moving_mean"] = weights["moving_mean"] - shift
        return Cut({}, weights, np.zeros_like(shift))


class GroupedPoolRule(Rule):
    """A weighted sum over all positions: a constant is multiplied by the sum of its kernel."""

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        constant, value = inputs[0]
        return channels(constant, value * site.weights["kernel"].sum((0, 1), dtype=np.float64))

    def cut(self, site, inputs, kept_inputs, kept, shift) -> Cut:
        return Cut({}, {"kernel": site.weights["kernel"][..., kept]}, np.zeros_like(shift))


class DepthwiseRule(Rule):
    """Each input channel makes `depth_multiplier` neighbouring output channels."""

    def check(self, site: Site) -> None:
        if _mixes(site):
            raise site.refusal("its activation must treat each channel alone")

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        constant, value = inputs[0]
        if _pads(site.layer):
            constant = constant & (value == 0)
        times = site.layer.depth_multiplier
        sums = site.weights["kernel"].sum((0, 1), dtype=np.float64).reshape(-1)
        out = np.repeat(value, times) * sums + site.weights.get("bias", 0.0)
        return channels(np.repeat(constant, times), _apply(site.layer.activation, out))

    def needs(self, site: Site, inputs: Sequence[Channels], kept: np.ndarray) -> Sequence[np.ndarray]:
        return [np.any(kept.reshape(-1, site.layer.depth_multiplier), axis=1)]

    def follows(self, site: Site, kept_inputs: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray:
        return np.repeat(kept_inputs[0], site.layer.depth_multiplier)

    def cut(self, site, inputs, kept_inputs, kept, shift) -> Cut:
        weights = {"kernel": site.weights["kernel"][:, :, kept_inputs[0]]}
        if "bias" in site.weights:
            weights["bias"] = site.weights["bias"][kept]
        return Cut({}, weights, np.zeros(int(kept.sum())))


class AddRule(Rule):
    """All inputs have the same channels: one that any of them needs, all have, constant or not."""

    def check(self, site: Site) -> None:
        if len({shape[-1] for shape in site.in_shapes}) > 1:
            raise site.refusal(f"its inputs must have equally many channels. Received: {site.in_shapes}")

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        constant = np.all([c.constant for c in inputs], axis=0)
        return channels(constant, np.sum([c.value for c in inputs], axis=0))

    def follows(self, site: Site, kept_inputs: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray:
        return np.any(kept_inputs, axis=0)


class ConcatenateRule(Rule):
    """Inputs stand side by side; one of which no channel is needed is left out as a whole."""

    def check(self, site: Site) -> None:
        if site.layer.axis not in (-1, len(site.node.shape) - 1):
            raise site.refusal(f"its axis must be the channels. Received: axis={site.layer.axis}")

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        return Channels(*(np.concatenate(parts) for parts in zip(*inputs, strict=True)))

    def needs(self, site: Site, inputs: Sequence[Channels], kept: np.ndarray) -> Sequence[np.ndarray]:
        return self.split(site, kept)

    def follows(self, site: Site, kept_inputs: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray:
        parts = zip(kept_inputs, self.split(site, kept), strict=True)
        return np.concatenate([kept_input & part.any() for kept_input, part in parts])

    @staticmethod
    def split(site: Site, kept: np.ndarray) -> list[np.ndarray]:
        """A mask over the output as one mask for each input."""
        return np.split(kept, np.cumsum([shape[-1] for shape in site.in_shapes])[:-1])


class FlattenRule(Rule):
    """[B, H, W, C] to [B, H * W * C]: every input channel is an output channel at each position."""

    def check(self, site: Site) -> None:
        if None in site.in_shapes[0][1:]:
            raise site.refusal(f"the shape of its input must be known. Received: {site.in_shapes[0]}")

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        return Channels(*(np.tile(part, self._positions(site)) for part in inputs[0]))

    def needs(self, site: Site, inputs: Sequence[Channels], kept: np.ndarray) -> Sequence[np.ndarray]:
        return [np.any(kept.reshape(self._positions(site), -1), axis=0)]

    def follows(self, site: Site, kept_inputs: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray:
        return np.tile(kept_inputs[0], self._positions(site))

    @staticmethod
    def _positions(site: Site) -> int:
        return site.width // site.in_width


class LinearRule(Rule):
    """Layers that mix channels by weights. Subclasses say how the weights are laid out."""

    def check(self, site: Site) -> None:
        _mixes(site)

    def connected(self, site: Site) -> np.ndarray:
        """bool [Cin, Cout], False where a mask forbids the connection."""
        raise NotImplementedError

    def sums(self, site: Site) -> np.ndarray:
        """float64 [Cin, Cout], what a constant input of 1 contributes, away from the border."""
        raise NotImplementedError

    def cut_weights(self, site: Site, kept_in: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        """The weights but for the bias."""
        raise NotImplementedError

    def cut_config(self, site: Site, kept: np.ndarray) -> dict[str, Any]:
        return {"filters": int(kept.sum())}

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        if _mixes(site):
            return all_varying(site.width)
        varying = ~inputs[0].constant | self._bordered(site, inputs[0])
        constant = ~(varying[:, None] & self.connected(site)).any(0)
        value = inputs[0].value @ self.sums(site) + site.weights.get("bias", 0.0)
        return channels(constant, _apply(_activation(site), value))

    def needs(self, site: Site, inputs: Sequence[Channels], kept: np.ndarray) -> Sequence[np.ndarray]:
        kept = self.follows(site, [], kept)
        used = np.any(self.connected(site)[:, kept], axis=1)
        stays = ~inputs[0].constant
        if not self._takes_shift(site):
            stays = stays | (inputs[0].value != 0)
        return [(used & stays) | self._carriers(site, inputs[0], used)]

    def follows(self, site: Site, kept_inputs: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray:
        return np.ones_like(kept) if _mixes(site) and kept.any() else kept

    def cut(self, site, inputs, kept_inputs, kept, shift) -> Cut:
        kept_in = kept_inputs[0]
        weights = self.cut_weights(site, kept_in, kept)
        config = self.cut_config(site, kept)
        gone = ~kept_in & ~self._bordered(site, inputs[0])
        lacking = inputs[0].value[gone] @ self.sums(site)[gone][:, kept]
        if "bias" in site.weights:
            bias = site.weights["bias"]
            weights["bias"] = (bias[kept] + lacking).astype(bias.dtype)
        elif lacking.any() and not site.feeds_norms:
            config["use_bias"] = True
            weights["bias"] = lacking.astype(next(iter(weights.values())).dtype)
        else:
            return Cut(config, weights, lacking)
        return Cut(config, weights, np.zeros_like(lacking))

    def _bordered(self, site: Site, inputs: Channels) -> np.ndarray:
        """bool [Cin]: constants that a padded border sets off from 0."""
        return inputs.constant & (inputs.value != 0) & _pads(site.layer)

    def _carriers(self, site: Site, inputs: Channels, used: np.ndarray) -> np.ndarray:
        """bool [Cin]: those of the bordered constants that must be kept."""
        return used & self._bordered(site, inputs)

    def _takes_shift(self, site: Site) -> bool:
        """Whether this layer or the next can add a constant to the output."""
        return hasattr(site.layer, "use_bias") or site.feeds_norms


class DenseRule(LinearRule):
    def connected(self, site: Site) -> np.ndarray:
        return np.ones(site.weights["kernel"].shape, bool)

    def sums(self, site: Site) -> np.ndarray:
        return site.weights["kernel"].astype(np.float64)

    def cut_weights(self, site: Site, kept_in: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        return {"kernel": site.weights["kernel"][kept_in][:, kept]}

    def cut_config(self, site: Site, kept: np.ndarray) -> dict[str, Any]:
        return {"units": int(kept.sum())}


class ConvRule(LinearRule):
    """Conv2D and MaskedConv2D."""

    def check(self, site: Site) -> None:
        super().check(site)
        if site.layer.groups != 1:
            raise site.refusal(f"grouped convolutions are not supported. Received: groups={site.layer.groups}")

    def connected(self, site: Site) -> np.ndarray:
        shape = site.weights["kernel"].shape[2:]
        return site.weights["mask"] > 0 if "mask" in site.weights else np.ones(shape, bool)

    def sums(self, site: Site) -> np.ndarray:
        return site.weights["kernel"].sum((0, 1), dtype=np.float64) * self.connected(site)

    def cut_weights(self, site: Site, kept_in: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        weights = {"kernel": site.weights["kernel"][:, :, kept_in][..., kept]}
        if "mask" in site.weights:
            weights["mask"] = site.weights["mask"][kept_in][:, kept]
        return weights

    def cut(self, site, inputs, kept_inputs, kept, shift) -> Cut:
        lost = self._bordered(site, inputs[0]) & ~kept_inputs[0]
        lost &= self.connected(site)[:, kept].any(1)
        if lost.any():
            site = self._loaded(site, inputs[0].value, lost)
        return super().cut(site, inputs, kept_inputs, kept, shift)

    def _carriers(self, site: Site, inputs: Channels, used: np.ndarray) -> np.ndarray:
        bordered = self._bordered(site, inputs)
        carrier = np.arange(used.size) == np.argmax(np.abs(inputs.value))
        return carrier & (used & bordered).any()

    def _loaded(self, site: Site, value: np.ndarray, lost: np.ndarray) -> Site:
        """The site with the kernels of the inputs `lost` added to those of the carrier, the largest constant."""
        carrier = int(np.argmax(np.abs(value)))
        alive = self.connected(site)
        kernel = site.weights["kernel"] * alive
        ratio = value[lost] / value[carrier]
        loaded = kernel.copy()
        loaded[:, :, carrier] += np.einsum("xyio,i->xyo", kernel[:, :, lost], ratio).astype(kernel.dtype)
        weights = {**site.weights, "kernel": loaded}
        if "mask" in weights:
            mask = weights["mask"].copy()
            mask[carrier] = np.maximum(mask[carrier], mask[lost].max(0))
            weights["mask"] = mask
        return dataclasses.replace(site, weights=weights)


class SeparableRule(LinearRule):
    """SeparableConv2D: input i makes `depth_multiplier` maps, which the pointwise kernel mixes."""

    def connected(self, site: Site) -> np.ndarray:
        return np.ones((site.in_width, site.width), bool)

    def sums(self, site: Site) -> np.ndarray:
        depthwise = site.weights["depthwise_kernel"].sum((0, 1), dtype=np.float64)  # [Cin, m]
        pointwise = site.weights["pointwise_kernel"].reshape(*depthwise.shape, -1)  # [Cin, m, Cout]
        return np.einsum("im,imo->io", depthwise, pointwise)

    def cut_weights(self, site: Site, kept_in: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        maps = np.repeat(kept_in, site.layer.depth_multiplier)
        return {
            "depthwise_kernel": site.weights["depthwise_kernel"][:, :, kept_in],
            "pointwise_kernel": site.weights["pointwise_kernel"][:, :, maps][..., kept],
        }


class ReductionRule(LinearRule):
    """FactorizedReduction: two 1x1 kernels whose outputs stand side by side; even sizes, so no border."""

    def _kernel(self, site: Site) -> np.ndarray:
        """[Cin, Cout]."""
        parts = site.weights["kernel_a"], site.weights["kernel_b"]
        return np.concatenate(parts, axis=-1)[0, 0]

    def connected(self, site: Site) -> np.ndarray:
        return np.ones((site.in_width, site.width), bool)

    def sums(self, site: Site) -> np.ndarray:
        return self._kernel(site).astype(np.float64)

    def cut_weights(self, site: Site, kept_in: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        kernel = self._kernel(site)[kept_in][:, kept][None, None]
        first = int(kept[: site.layer.filters_a].sum())
        return {"kernel_a": kernel[..., :first], "kernel_b": kernel[..., first:]}

    def cut_config(self, site: Site, kept: np.ndarray) -> dict[str, Any]:
        first = int(kept[: site.layer.filters_a].sum())
        return {"filters": int(kept.sum()), "filters_a": first}


RULES: Final[Mapping[type, Rule]] = {
    layers.InputLayer: InputRule(),
    layers.Conv2D: ConvRule(),
    MaskedConv2D: ConvRule(),
    layers.DepthwiseConv2D: DepthwiseRule(),
    layers.SeparableConv2D: SeparableRule(),
    FactorizedReduction: ReductionRule(),
    layers.Dense: DenseRule(),
    layers.BatchNormalization: NormalizationRule(),
    BatchNorm: NormalizationRule(),
    layers.ReLU: ActivationRule(),
    layers.LeakyReLU: ActivationRule(),
    layers.ELU: ActivationRule(),
    layers.Activation: ActivationRule(),
    layers.Softmax: ActivationRule(),
    layers.Concatenate: ConcatenateRule(),
    layers.Add: AddRule(),
    layers.Flatten: FlattenRule(),
    layers.ZeroPadding2D: ZeroPaddingRule(),
    GroupedGlobalPool: GroupedPoolRule(),
    **dict.fromkeys(
        (
            layers.AveragePooling2D,
            layers.MaxPooling2D,
            layers.GlobalAveragePooling2D,
            layers.GlobalMaxPooling2D,
            layers.Cropping2D,
            layers.UpSampling2D,
            layers.Dropout,
            layers.SpatialDropout2D,
            layers.Identity,
        ),
        Rule(),  # A constant passes: average pooling does not count the padding.
    ),
}
"""Layer type to rule. Subclasses are not looked up: theirs may compute something else."""


def rule_of(site: Site) -> Rule:
    """The rule of a layer.

    Raises:
      ValueError: a layer type without a rule, or settings that its rule does not cover; the message names the layer.
    """
    layer = site.layer
    if not isinstance(layer, layers.Layer):
        raise site.refusal("it is a bare operation. Use the Keras layer that does the same (Add, ReLU, ...)")
    if type(layer) not in RULES:
        known = ", ".join(sorted(kind.__name__ for kind in RULES))
        raise site.refusal(f"nothing is known of what its type does to channels. Known types: {known}")
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise site.refusal("channels must come last. Received: data_format='channels_first'")
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        raise site.refusal("its weights are quantized or adapted (LoRA)")
    if not site.node.is_plain:
        raise site.refusal("it must be called on one tensor, or one list of tensors, as the first positional argument")
    rule = RULES[type(layer)]
    rule.check(site)
    return rule


def _channel_count(shape: tuple[int | None, ...]) -> int:
    if shape[-1] is None:
        raise ValueError(f"the number of channels must be known. Received: shape {shape}.")
    return shape[-1]


def _activation(site: Site) -> Any:
    if isinstance(site.layer, layers.Softmax):
        return keras.activations.softmax
    return getattr(site.layer, "activation", None) or keras.activations.linear


def _mixes(site: Site) -> bool:
    """Whether the layer's activation lets every channel depend on all of them."""
    activation = _activation(site)
    if activation not in ELEMENTWISE | MIXING:
        raise site.refusal(f"nothing is known of its activation {activation!r}")
    return activation in MIXING


def _apply(function: Any, value: np.ndarray) -> np.ndarray:
    """An elementwise Keras function or layer on constants [C]."""
    if function is keras.activations.linear:
        return value
    result = function(keras.ops.convert_to_tensor(value[None], "float32"))
    return keras.ops.convert_to_numpy(result)[0].astype(np.float64)


def _pads(layer: Any) -> bool:
    """Whether a convolution may read zeros beyond the border."""
    sizes = getattr(layer, "kernel_size", (1,))
    return getattr(layer, "padding", "valid") == "same" and max(sizes) > 1
