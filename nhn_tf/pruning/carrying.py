"""Rules of layers that carry channels on: each channel of the output is made of one channel of each input at most.

Activations (softmax among them, though it mixes), normalisation, pooling, depthwise convolutions, sums, concatenations;
and walls, which carry on everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import keras
import numpy as np
from keras import layers

from nhn_tf.models.keras_graph import operation
from nhn_tf.pruning.channels import (  # fmt: skip
    Channels,
    Cut,
    NotFollowedError,
    Rule,
    Site,
    all_varying,
    channel_axis,
    channels,
    evaluate,
)

_TENSOR: Final = keras.KerasTensor
_MULTIPLY: Final = operation(keras.ops.multiply, 2)


class InputRule(Rule):
    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        return all_varying(site.width)

    def follows(self, site: Site, kept_inputs: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray:
        return kept


class ActivationRule(Rule):
    """Layers that apply a function to each element, and softmax, which keeps every channel."""

    def check(self, site: Site) -> None:
        if isinstance(site.layer, layers.Softmax) and site.layer.axis not in channel_axis(site):
            raise NotFollowedError("softmax must run over the channels")

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        if site.mixes():
            return all_varying(site.width)
        return channels(inputs[0].constant, evaluate(site.layer, inputs[0].value))

    def needs(self, site: Site, inputs: Sequence[Channels], kept: np.ndarray) -> Sequence[np.ndarray]:
        return [np.ones_like(kept) if site.mixes() else kept]


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
        if site.layer.axis not in channel_axis(site):
            raise NotFollowedError(f"its axis must be the channels. Received: axis={site.layer.axis}")
        if getattr(site.layer, "renorm", False):
            raise NotFollowedError("batch renormalisation is not supported")

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
        if site.mixes():
            raise NotFollowedError("its activation must treat each channel alone")

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        constant, value = inputs[0]
        if site.pads:
            constant = constant & (value == 0)
        times = site.layer.depth_multiplier
        sums = site.weights["kernel"].sum((0, 1), dtype=np.float64).reshape(-1)
        out = np.repeat(value, times) * sums + site.weights.get("bias", 0.0)
        return channels(np.repeat(constant, times), evaluate(site.layer.activation, out))

    def needs(self, site: Site, inputs: Sequence[Channels], kept: np.ndarray) -> Sequence[np.ndarray]:
        return [np.any(kept.reshape(-1, site.layer.depth_multiplier), axis=1)]

    def follows(self, site: Site, kept_inputs: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray:
        return np.repeat(kept_inputs[0], site.layer.depth_multiplier)

    def cut(self, site, inputs, kept_inputs, kept, shift) -> Cut:
        weights = {"kernel": site.weights["kernel"][:, :, kept_inputs[0]]}
        if "bias" in site.weights:
            weights["bias"] = site.weights["bias"][kept]
        return Cut({}, weights, np.zeros(int(kept.sum())))


class ElementwiseRule(Rule):
    """Layers and bare operations that treat each element alone, of one input or several, one channel wide or all.

    All inputs of full width have the same channels: one that any of them needs, all have, constant or not.
    """

    def check(self, site: Site) -> None:
        widths = {shape[-1] if shape else None for shape in site.in_shapes}
        if not widths <= {1, site.width}:
            raise NotFollowedError(f"its inputs must have equally many channels. Received: {site.in_shapes}")
        others = [a for a in keras.tree.flatten((site.node.call_args, site.node.kwargs)) if not isinstance(a, _TENSOR)]
        if any(np.size(other) > 1 for other in others if isinstance(other, np.ndarray) or keras.ops.is_tensor(other)):
            raise NotFollowedError("it may compute with single numbers, but not with whole arrays")

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        constant = np.all(np.broadcast_arrays(*[c.constant for c in inputs]), axis=0)
        if site.node.kind in (layers.Multiply, _MULTIPLY):
            zeros = [c.constant & (c.value == 0) for c in inputs]
            constant = constant | np.any(np.broadcast_arrays(*zeros), axis=0)
        values = [keras.ops.convert_to_tensor(c.value[None], "float32") for c in inputs]
        found = keras.ops.convert_to_numpy(keras.ops.cast(site.node.call(values), "float32"))[0].astype(np.float64)
        return channels(np.broadcast_to(constant, site.width) & np.isfinite(found), found)

    def needs(self, site: Site, inputs: Sequence[Channels], kept: np.ndarray) -> Sequence[np.ndarray]:
        return [kept if one.value.size == site.width else np.array([kept.any()]) for one in inputs]

    def follows(self, site: Site, kept_inputs: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray:
        return np.any([one for one in kept_inputs if one.size == site.width], axis=0)


class ConcatenateRule(Rule):
    """Inputs stand side by side; one of which no channel is needed is left out as a whole."""

    def check(self, site: Site) -> None:
        if site.layer.axis not in channel_axis(site):
            raise NotFollowedError(f"its axis must be the channels. Received: axis={site.layer.axis}")

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
            raise NotFollowedError(f"the shape of its input must be known. Received: {site.in_shapes[0]}")

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        return Channels(*(np.tile(part, self._positions(site)) for part in inputs[0]))

    def needs(self, site: Site, inputs: Sequence[Channels], kept: np.ndarray) -> Sequence[np.ndarray]:
        return [np.any(kept.reshape(self._positions(site), -1), axis=0)]

    def follows(self, site: Site, kept_inputs: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray:
        return np.tile(kept_inputs[0], self._positions(site))

    @staticmethod
    def _positions(site: Site) -> int:
        return site.width // site.in_width


class ReshapeRule(FlattenRule):
    """Keeps the channels as the last axis, or puts all positions into it."""

    def check(self, site: Site) -> None:
        super().check(site)
        if site.in_width != site.width and len(site.node.shape) != 2:
            raise NotFollowedError(
                f"channels must stay the last axis. Received: {site.in_shapes[0]} to {site.node.shape}"
            )

    def cut(self, site, inputs, kept_inputs, kept, shift) -> Cut:
        shape = (*site.layer.target_shape[:-1], int(kept.sum()))
        return Cut({"target_shape": shape}, {}, np.zeros(int(kept.sum())))


class PermuteRule(Rule):
    def check(self, site: Site) -> None:
        if site.layer.dims[-1] != len(site.layer.dims):
            raise NotFollowedError(f"channels must stay the last axis. Received: dims={site.layer.dims}")


class PReLURule(Rule):
    """A slope below 0 for each channel, or for each element."""

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        constant, value = inputs[0]
        alpha = site.weights["alpha"]  # [1 or H, 1 or W, C]
        if alpha.shape[-1] != site.width:
            return all_varying(site.width)
        flat = alpha.reshape(-1, site.width)
        same = np.all(flat == flat[0], axis=0)
        return channels(constant & (same | (value >= 0)), np.where(value >= 0, value, value * flat[0]))

    def cut(self, site, inputs, kept_inputs, kept, shift) -> Cut:
        alpha = site.weights["alpha"]
        alpha = alpha[..., kept] if alpha.shape[-1] == site.width else alpha
        return Cut({}, {"alpha": alpha}, np.zeros(int(kept.sum())))


class Wall(Rule):
    """A layer through which channels are not followed: all are kept before it and behind it, so nothing changes.

    Attributes:
      reason: why.
    """

    def __init__(self, reason: str):
        self.reason = reason

    def constants(self, site: Site, inputs: Sequence[Channels]) -> Channels:
        return all_varying(site.width)

    def needs(self, site: Site, inputs: Sequence[Channels], kept: np.ndarray) -> Sequence[np.ndarray]:
        return [np.ones_like(one.constant) for one in inputs]

    def follows(self, site: Site, kept_inputs: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray:
        return np.ones_like(kept)

    def cut(self, site, inputs, kept_inputs, kept, shift) -> Cut:
        return Cut({}, None, np.zeros(int(kept.sum())))
