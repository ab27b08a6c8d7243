"""Which channels of a network are alive: dead-neuron clean-up, to a fixpoint.

A neuron is dead when no live kernel leads to it, or when nothing alive reads it (paper, section 3, "network pruning").
One pass from the inputs on finds the channels that are constant; then, from the outputs back, the kept channels grow
from the empty set to the least one that every layer's rule is content with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np

from nhn_tf.models import keras_graph
from nhn_tf.pruning import channels
from nhn_tf.pruning.carrying import ConcatenateRule
from nhn_tf.pruning.mixing import ConvRule
from nhn_tf.pruning.rules import RULES, rule_of


@dataclasses.dataclass(frozen=True)
class LayerLiveness:
    """How much of one layer is alive.

    Attributes:
      name: of the layer.
      kind: its class.
      inputs: input channels, those of several inputs together.
      live_inputs: those that the compacted model keeps.
      outputs: output channels.
      live_outputs: those that the compacted model keeps; the others are its dead neurons.
      kernels: connections, Cin * Cout; 0 where the layer is no full convolution.
      live_kernels: those between live channels that are not masked.
    """

    name: str
    kind: str
    inputs: int
    live_inputs: int
    outputs: int
    live_outputs: int
    kernels: int
    live_kernels: int

    @property
    def dead_neurons(self) -> int:
        return self.outputs - self.live_outputs


@dataclasses.dataclass(frozen=True, eq=False)
class Analysis:
    """What the clean-up found, by layer name.

    Attributes:
      graph: the model's layers.
      sites: each layer with its weights.
      constants: what is known of each layer's output.
      kept: bool [Cout], the channels that stay.
    """

    graph: keras_graph.Graph
    sites: Mapping[str, channels.Site]
    constants: Mapping[str, channels.Channels]
    kept: Mapping[str, np.ndarray]

    def inputs(self, name: str) -> list[channels.Channels]:
        return [self.constants[parent] for parent in self.graph.nodes[name].parents]

    def kept_inputs(self, name: str) -> list[np.ndarray]:
        """For each input of the layer, bool [Cin], the channels that reach it in the compacted model."""
        parents = [self.kept[parent] for parent in self.graph.nodes[name].parents]
        site = self.sites[name]
        if not self.kept[name].any():
            return [np.zeros_like(kept) for kept in parents]
        if isinstance(RULES[type(site.layer)], ConcatenateRule):
            return ConcatenateRule.split(site, self.kept[name])
        return parents


def analyse(model: keras.Model) -> Analysis:
    """Finds the channels that a functional model needs, from its masks.

    Raises:
      ValueError: the model holds a layer that cannot be compacted; the message names it.
    """
    traced = keras_graph.trace(model)
    sites = {name: _site(traced, node) for name, node in traced.nodes.items()}
    rules = {name: rule_of(site) for name, site in sites.items()}
    constants: dict[str, channels.Channels] = {}
    for name, node in traced.nodes.items():
        inputs = [constants[parent] for parent in node.parents]
        constants[name] = rules[name].constants(sites[name], inputs)
    kept = _kept_channels(traced, sites, rules, constants)
    return Analysis(graph=traced, sites=sites, constants=constants, kept=kept)


def liveness(model: keras.Model) -> dict[str, LayerLiveness]:
    """Counts live channels and kernels of every layer, without rebuilding the model.

    Args:
      model: functional, of layer types that `compact` knows.

    Returns:
      layer name to counts, in the order of the graph.
    """
    analysis = analyse(model)
    counts = {}
    for name, site in analysis.sites.items():
        kept_inputs, kept = analysis.kept_inputs(name), analysis.kept[name]
        rule, kernels, live_kernels = RULES[type(site.layer)], 0, 0
        if isinstance(rule, ConvRule):
            connected = rule.connected(site)
            kernels, live_kernels = connected.size, int(connected[kept_inputs[0]][:, kept].sum())
        counts[name] = LayerLiveness(
            name=name,
            kind=type(site.layer).__name__,
            inputs=sum(part.size for part in kept_inputs),
            live_inputs=sum(int(part.sum()) for part in kept_inputs),
            outputs=kept.size,
            live_outputs=int(kept.sum()),
            kernels=kernels,
            live_kernels=live_kernels,
        )
    return counts


def _site(traced: keras_graph.Graph, node: keras_graph.Node) -> channels.Site:
    readers = [traced.nodes[reader] for reader in traced.readers[node.name]]
    activation = getattr(node.layer, "activation", None)
    return channels.Site(
        node=node,
        weights=keras_graph.weights_of(node.layer),
        in_shapes=tuple(traced.nodes[parent].shape for parent in node.parents),
        feeds_norms=bool(readers)
        and node.name not in traced.outputs
        and activation in (None, keras.activations.linear)
        and all(isinstance(r.layer, keras.layers.BatchNormalization) for r in readers),
    )


def _kept_channels(
    traced: keras_graph.Graph,
    sites: Mapping[str, channels.Site],
    rules: Mapping[str, channels.Rule],
    constants: Mapping[str, channels.Channels],
) -> dict[str, np.ndarray]:
    kept = {name: np.zeros(site.width, bool) for name, site in sites.items()}
    for name in (*traced.inputs, *traced.outputs):
        kept[name][:] = True
    backwards = list(traced.nodes.values())[::-1]

    def grow() -> bool:
        before = sum(int(mask.sum()) for mask in kept.values())
        for node in backwards:
            name, parents = node.name, node.parents
            if not parents or not kept[name].any():
                continue
            inputs = [constants[parent] for parent in parents]
            needs = rules[name].needs(sites[name], inputs, kept[name])
            for parent, need in zip(parents, needs, strict=True):
                kept[parent] |= need
            kept[name] |= rules[name].follows(sites[name], [kept[p] for p in parents], kept[name])
        return sum(int(mask.sum()) for mask in kept.values()) > before

    def feed_one() -> bool:
        """Gives a layer that must exist, but needs no input, one channel to read: a graph has no loose ends."""
        for node in backwards:
            starved = node.parents and not any(kept[parent].any() for parent in node.parents)
            if starved and kept[node.name].any():
                parent = node.parents[0]
                kept[parent][np.argmax(constants[parent].constant)] = True
                return True
        return False

    while grow() or feed_one():
        pass
    return kept
