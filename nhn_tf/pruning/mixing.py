"""Rules of layers that mix channels by weights: convolutions and dense layers.

Constants of input channels that are not kept move into the bias. Where a convolution pads with zeros, a constant other
than 0 differs at the border, so no bias can stand for it: there one constant input is kept as the carrier, and the
kernels of the others, scaled by the ratio of the constants, are added to its kernels. That is exact, border included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from nhn_tf.pruning.channels import Channels, Cut, NotFollowedError, Rule, Site, all_varying, channels, evaluate


class LinearRule(Rule):
    """Layers that mix channels by weights. Subclasses say how the weights are laid out."""

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
        if site.mixes():
            return all_varying(site.width)
        varying = ~inputs[0].constant | self._bordered(site, inputs[0])
        constant = ~(varying[:, None] & self.connected(site)).any(0)
        value = inputs[0].value @ self.sums(site) + site.weights.get("bias", 0.0)
        return channels(constant, evaluate(site.activation, value))

    def needs(self, site: Site, inputs: Sequence[Channels], kept: np.ndarray) -> Sequence[np.ndarray]:
        kept = self.follows(site, [], kept)
        used = np.any(self.connected(site)[:, kept], axis=1)
        stays = ~inputs[0].constant
        if not self._takes_shift(site):
            stays = stays | (inputs[0].value != 0)
        return [(used & stays) | self._carriers(site, inputs[0], used)]

    def follows(self, site: Site, kept_inputs: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray:
        return np.ones_like(kept) if site.mixes() and kept.any() else kept

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
        return inputs.constant & (inputs.value != 0) & site.pads

    def _carriers(self, site: Site, inputs: Channels, used: np.ndarray) -> np.ndarray:
        """bool [Cin]: those of the bordered constants that must be kept."""
        return used & self._bordered(site, inputs)

    def _takes_shift(self, site: Site) -> bool:
        """Whether this layer or the next can add a constant to the output."""
        return hasattr(site.layer, "use_bias") or site.feeds_norms


class DenseRule(LinearRule):
    """Dense and MaskedDense."""

    def connected(self, site: Site) -> np.ndarray:
        return site.weights["mask"] > 0 if "mask" in site.weights else np.ones(site.weights["kernel"].shape, bool)

    def sums(self, site: Site) -> np.ndarray:
        return site.weights["kernel"].astype(np.float64) * self.connected(site)

    def cut_weights(self, site: Site, kept_in: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        return {name: w[kept_in][:, kept] for name, w in site.weights.items() if name in ("kernel", "mask")}

    def cut_config(self, site: Site, kept: np.ndarray) -> dict[str, Any]:
        return {"units": int(kept.sum())}


class ConvRule(LinearRule):
    """Conv2D and MaskedConv2D."""

    def check(self, site: Site) -> None:
        if site.layer.groups != 1:
            raise NotFollowedError(f"its channels must not be grouped. Received: groups={site.layer.groups}")

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


class TransposedRule(LinearRule):
    """Conv2DTranspose. Its windows overlap differently from pixel to pixel: no constant but 0 stays one."""

    def connected(self, site: Site) -> np.ndarray:
        return np.ones((site.in_width, site.width), bool)

    def sums(self, site: Site) -> np.ndarray:
        return site.weights["kernel"].sum((0, 1), dtype=np.float64).T

    def cut_weights(self, site: Site, kept_in: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        return {"kernel": site.weights["kernel"][:, :, kept][..., kept_in]}

    def _bordered(self, site: Site, inputs: Channels) -> np.ndarray:
        return inputs.constant & (inputs.value != 0)


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
