"""Which channels of a network are alive: dead-neuron clean-up, to a fixpoint.

A neuron is dead when no live kernel leads to it, or when nothing alive reads it (paper, section 3, "network pruning").
One pass from the inputs on finds the channels that are constant; then, from the outputs back, the kept channels grow
from the empty set to the least one that every layer's rule is content with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from nhn_tf.models import keras_graph
from nhn_tf.pruning import channels
from nhn_tf.pruning.carrying import ConcatenateRule, NormalizationRule, Wall
from nhn_tf.pruning.mixing import ConvRule, LinearRule
from nhn_tf.pruning.rules import rule_of


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
      kernels: connections, Cin * Cout; 0 where the layer is neither a full convolution nor masked.
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
    """What the clean-up found, by node name (see `keras_graph`).

    Attributes:
      graph: the model's calls of layers.
      sites: each call with its layer's weights.
      rules: what each layer does to channels.
      inputs: what is known of each input that a layer reads; of a layer with weights, what holds in all its calls.
      kept: bool [Cout], the channels that stay.
    """

    graph: keras_graph.Graph
    sites: Mapping[str, channels.Site]
    rules: Mapping[str, channels.Rule]
    inputs: Mapping[str, Sequence[channels.Channels]]
    kept: Mapping[str, np.ndarray]

    def kept_inputs(self, name: str) -> list[np.ndarray]:
        """For each input of the layer, bool [Cin], the channels that reach it in the compacted model."""
        parents = [self.kept[parent] for parent in self.graph.nodes[name].parents]
        if not self.kept[name].any():
            return [np.zeros_like(kept) for kept in parents]
        if isinstance(self.rules[name], ConcatenateRule):
            return ConcatenateRule.split(self.sites[name], self.kept[name])
        return parents

    def first_alive(self, name: str) -> str:
        """The first call that is needed of a needed node's layer, by name."""
        return next(call for call in self.graph.calls[name] if self.kept[call].any())


def analyse(model: keras.Model, *, multiple_of: int = 1) -> Analysis:
    """Finds the channels that a functional model needs, from its masks.

    Args:
      model: not changed.
      multiple_of: widths of layers that lose channels are rounded up to multiples of it, by channels that are dead.

    Raises:
      ValueError: it is not a functional model (see `keras_graph.trace`).
    """
    traced = keras_graph.trace(model)
    sites = {name: _site(traced, node) for name, node in traced.nodes.items()}
    rules = {name: rule_of(site) for name, site in sites.items()}
    for name, site in sites.items():
        if _feeds_norms(traced, name, sites, rules):
            sites[name] = dataclasses.replace(site, feeds_norms=True)
    shared = _shared_calls(traced)
    inputs, constants = _constants(traced, sites, rules, shared)
    kept = _kept_channels(traced, sites, rules, inputs, constants, shared, multiple_of)
    return Analysis(graph=traced, sites=sites, rules=rules, inputs=inputs, kept=kept)


def walls(model: keras.Model) -> dict[str, str]:
    """The layers behind the input at which compaction follows no channels: name to reason.

    Preprocessing, which reads nothing but the model's inputs, costs no channels and is not among them.
    """
    analysis = analyse(model)
    nodes = analysis.graph.nodes
    at_input: set[str] = set(analysis.graph.inputs)
    found = {}
    for name, node in nodes.items():
        if not isinstance(rule := analysis.rules[name], Wall):
            continue
        if node.parents and at_input.issuperset(node.parents):
            at_input.add(name)
        elif name == analysis.graph.calls[name][0]:
            found[name] = f"{type(node.layer).__name__}: {rule.reason.partition('. Known')[0]}"
    return found


def liveness(model: keras.Model) -> dict[str, LayerLiveness]:
    """Counts live channels and kernels of every layer, without rebuilding the model.

    Args:
      model: functional.

    Returns:
      Node name (a layer's path, see `keras_graph`) to counts, in the order of the graph. The kernels of a layer that is
      called more than once stand at its first call.
    """
    analysis = analyse(model)
    counts = {}
    for name, site in analysis.sites.items():
        kept_inputs, kept = analysis.kept_inputs(name), analysis.kept[name]
        rule, kernels, live_kernels = analysis.rules[name], 0, 0
        if (isinstance(rule, ConvRule) or "mask" in site.weights) and name == analysis.graph.calls[name][0]:
            if isinstance(rule, LinearRule):
                connected = rule.connected(site)
                live = connected[kept_inputs[0]][:, kept]
            else:  # Its channels cannot be followed, and all stay.
                live = connected = site.weights["mask"] > 0
            kernels, live_kernels = connected.size, int(live.sum())
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
    return channels.Site(
        node=node,
        weights=keras_graph.weights_of(node.layer),
        in_shapes=tuple(traced.nodes[parent].shape for parent in node.parents),
        calls=len(traced.calls[node.name]),
    )


def _feeds_norms(
    traced: keras_graph.Graph, name: str, sites: Mapping[str, channels.Site], rules: Mapping[str, channels.Rule]
) -> bool:
    """Whether batch normalisations, each called once, can take up a shift of a layer's output."""
    readers = traced.readers[name]
    return (
        bool(readers)
        and name not in traced.outputs
        and sites[name].calls == 1
        and sites[name].activation is keras.activations.linear
        and all(isinstance(rules[r], NormalizationRule) and sites[r].calls == 1 for r in readers)
    )


def _shared_calls(traced: keras_graph.Graph) -> list[tuple[str, ...]]:
    """The calls of each layer with weights that is called more than once."""
    groups = {calls for calls in traced.calls.values() if len(calls) > 1}
    return [calls for calls in groups if getattr(traced.nodes[calls[0]].layer, "variables", ())]


def _constants(
    traced: keras_graph.Graph,
    sites: Mapping[str, channels.Site],
    rules: Mapping[str, channels.Rule],
    shared: Sequence[tuple[str, ...]],
) -> tuple[dict[str, list[channels.Channels]], dict[str, channels.Channels]]:
    """What is known of each node's inputs and of its output.

    A layer with weights has one bias for all its calls, so of its inputs only that counts which holds in all of them:
    at first nothing, then what follows from that, until nothing is added.
    """
    agreed = {
        call: [channels.all_varying(sites[parent].width) for parent in traced.nodes[call].parents]
        for calls in shared
        for call in calls
    }
    while True:
        inputs: dict[str, list[channels.Channels]] = {}
        constants: dict[str, channels.Channels] = {}
        for name, node in traced.nodes.items():
            inputs[name] = agreed.get(name) or [constants[parent] for parent in node.parents]
            constants[name] = rules[name].constants(sites[name], inputs[name])
        before = sum(int(one.constant.sum()) for read in agreed.values() for one in read)
        for calls in shared:
            read = [[constants[parent] for parent in traced.nodes[call].parents] for call in calls]
            known = [_in_all(list(position)) for position in zip(*read, strict=True)]
            agreed |= {call: known for call in calls}  # noqa: C420
        if sum(int(one.constant.sum()) for read in agreed.values() for one in read) == before:
            return inputs, constants


def _in_all(found: Sequence[channels.Channels]) -> channels.Channels:
    same = np.all([one.constant & (one.value == found[0].value) for one in found], axis=0)
    return channels.channels(same, found[0].value)


def _kept_channels(
    traced: keras_graph.Graph,
    sites: Mapping[str, channels.Site],
    rules: Mapping[str, channels.Rule],
    inputs: Mapping[str, Sequence[channels.Channels]],
    constants: Mapping[str, channels.Channels],
    shared: Sequence[tuple[str, ...]],
    multiple_of: int,
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
            needs = rules[name].needs(sites[name], inputs[name], kept[name])
            for parent, need in zip(parents, needs, strict=True):
                kept[parent] |= need
            kept[name] |= rules[name].follows(sites[name], [kept[p] for p in parents], kept[name])
        for calls in shared:
            alike([call for call in calls if kept[call].any()])
        return sum(int(mask.sum()) for mask in kept.values()) > before

    def alike(calls: list[str]) -> None:
        """Gives all calls of one layer the same channels, read and made."""
        for names in ([*calls], *zip(*(traced.nodes[call].parents for call in calls), strict=True)):
            together = np.any([kept[name] for name in names], axis=0) if names else None
            for name in names:
                kept[name] |= together

    def feed_one() -> bool:
        """Gives a layer that must exist, but needs no input, one channel to read: a graph has no loose ends."""
        for node in backwards:
            starved = node.parents and not any(kept[parent].any() for parent in node.parents)
            if starved and kept[node.name].any():
                parent = node.parents[0]
                kept[parent][np.argmax(constants[parent].constant)] = True
                return True
        return False

    def widen() -> bool:
        """Gives layers that mix channels as many dead ones as make their width a multiple."""
        before = sum(int(mask.sum()) for mask in kept.values())
        for name, mask in kept.items():
            if isinstance(rules[name], LinearRule) and mask.any():
                mask[np.flatnonzero(~mask)[: -int(mask.sum()) % multiple_of]] = True
        return sum(int(mask.sum()) for mask in kept.values()) > before

    while grow() or feed_one() or widen():
        pass
    return kept
