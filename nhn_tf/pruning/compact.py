"""A masked network as a physically smaller one with the same outputs."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from nhn_tf.layers.masked_conv import Masked
from nhn_tf.models import agreement, complexity, copying, keras_graph
from nhn_tf.pruning import channels
from nhn_tf.pruning.carrying import ConcatenateRule
from nhn_tf.pruning.liveness import Analysis, analyse
from nhn_tf.pruning.masked import UNMASKED


def compact(model: keras.Model, *, keep_masks: bool = False, multiple_of: int = 1, check: bool = True) -> keras.Model:
    """Rebuilds a model without its dead neurons.

    A channel goes when the masks leave no live kernel that leads to it, or when nothing alive reads it, over the whole
    graph (see `liveness`). What a dead channel emitted all the same, such as a bias, moves into the next bias or batch
    normalisation, or, where zero padding forbids that, into the kernels of one kept constant channel; so the outputs
    agree on any input up to rounding. The branches that an `Add` joins keep the union of their channels. The model's
    inputs and outputs keep theirs, and so do layers through which channels cannot be followed (`check` names them):
    all channels before and behind them stay.

    Args:
      model: functional, or built Sequential. Models within it are opened up: their layers stand in the new model
        itself.
      keep_masks: masked layers stay so, for training on. By default they become Conv2D and Dense with zeros where a
        kernel is masked, so that the compacted form of a model of plain Keras layers needs nothing but Keras. Nothing
        holds those zeros in training; count live parameters and FLOPs on the masked model.
      multiple_of: widths are rounded up to multiples of this, which vector units like, with channels that are dead: 8
        suits most engines. A layer that loses no channel keeps its width.
      check: compare the new model's outputs with the old one's on random images.

    Returns:
      A new functional model, not compiled. Layers keep their names (those of models within it, where another layer has
      the same, their path), and but for masked ones their classes; layers without a live output are gone.

    Raises:
      ValueError: a subclassed model, a layer with several outputs or one that cannot be copied; the message names it.
      DisagreementError: the outputs differ (see `nhn_tf.models.agreement`).
    """
    if multiple_of < 1:
        raise ValueError(f"`multiple_of` must be at least 1. Received: {multiple_of}.")
    analysis = analyse(model, multiple_of=multiple_of)
    copying.check_unshared(keras_graph.layers_of(model))
    small = _rebuilt(model, analysis, cut_layers(analysis), keep_masks=keep_masks)
    if check:
        agreement.check_same(model, lambda inputs: agreement.run(small, inputs)[0], "the compacted network")
    return small


def _rebuilt(
    model: keras.Model, analysis: Analysis, cuts: Mapping[str, channels.Cut], *, keep_masks: bool
) -> keras.Model:
    graph = analysis.graph
    names = _new_names(graph)
    made: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    for name, node in graph.nodes.items():
        if name not in cuts:
            continue
        if not node.parents:
            tensors[name] = keras.Input(batch_shape=node.layer.batch_shape, dtype=node.dtype, name=names[name])
            continue
        # A layer with weights stays one layer for all its calls; others are made for each.
        first = analysis.first_alive(name) if getattr(node.layer, "variables", ()) else name
        layer = made.get(first) or _remade(node, cuts[name], names[first], keep_masks=keep_masks)
        read = zip(node.parents, analysis.kept_inputs(name), strict=True)
        inputs = [tensors[parent] for parent, kept in read if kept.any()]
        if isinstance(analysis.rules[name], ConcatenateRule):
            tensors[name] = layer(inputs, **node.kwargs)
        else:
            tensors[name] = node.call(inputs, layer=layer)
        if first not in made:
            made[first] = layer
            _fill(layer, node.layer, cuts[name])
    return keras_graph.model_like(model, graph, tensors)


def _remade(node: keras_graph.Node, cut: channels.Cut, name: str, *, keep_masks: bool) -> Any:
    """The new layer of a node, not built."""
    if not isinstance(node.layer, keras.Layer):
        return node.layer
    kind = None if cut.weights is None else node.kind
    if node.kind in UNMASKED and not keep_masks:
        kind = UNMASKED[node.kind]
    return copying.remake(node.layer, kind, **{**cut.config, "name": name})


def _fill(layer: Any, source: Any, cut: channels.Cut) -> None:
    """Gives a new, built layer the weights of a cut."""
    if cut.weights is None and not isinstance(source, Masked):
        copying.carry(source, layer)
        return
    weights = keras_graph.weights_of(source) if cut.weights is None else cut.weights
    if isinstance(source, Masked) and not isinstance(layer, Masked):
        weights = _unmasked(weights)
    for variable in getattr(layer, "variables", ()):
        if variable.name in weights:  # All but the states of random generators.
            variable.assign(weights[variable.name])


def _new_names(graph: keras_graph.Graph) -> dict[str, str]:
    """For each node a name of its own: its layer's, or, where another has that, its whole path."""
    last = {name: name.rpartition("/")[2] for name in graph.nodes}
    count = collections.Counter(last.values())
    names = {name: own for name, own in last.items() if count[own] == 1 and "@" not in own}
    taken = set(names.values())
    for name in graph.nodes:
        if name not in names:
            path = re.sub("[/@]", "_", name)
            while path in taken:
                path += "_"
            names[name] = path
            taken.add(path)
    return names


def _unmasked(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of a Conv2D or Dense that computes what the masked layer does."""
    plain = {name: weight for name, weight in weights.items() if name != "mask"}
    return {**plain, "kernel": weights["kernel"] * (weights["mask"] > 0)}


def cut_layers(analysis: Analysis) -> dict[str, channels.Cut]:
    """Configuration and weights of every layer that the compacted model has, by node name."""
    cuts: dict[str, channels.Cut] = {}
    for name, node in analysis.graph.nodes.items():
        kept = analysis.kept[name]
        if not kept.any():
            continue
        shift = cuts[node.parents[0]].shift if len(node.parents) == 1 else np.zeros(kept.sum())
        site = analysis.sites[name]
        cuts[name] = analysis.rules[name].cut(site, analysis.inputs[name], analysis.kept_inputs(name), kept, shift)
    return cuts


def live_parameters(model: keras.Model) -> int:
    """Parameters as the paper counts them: those of the compacted model outside masked kernels.

    The model is not rebuilt. Moving statistics and masks are no parameters (see `complexity`).

    Raises:
      ValueError: as in `compact`.
    """
    analysis = analyse(model)
    return sum(
        complexity.parameter_counts(_weights(analysis, name, cut))[1]
        for name, cut in cut_layers(analysis).items()
        if analysis.first_alive(name) == name
    )


def live_costs(model: keras.Model) -> dict[str, complexity.Cost]:
    """Cost of every layer of the compacted model, by node name, without building it.

    Multiply-adds need known spatial sizes; layers that the compacted model lacks cost nothing.

    Raises:
      ValueError: as in `compact` and `complexity.layer_cost`.
    """
    analysis = analyse(model)
    costs = dict.fromkeys(analysis.graph.nodes, complexity.Cost())
    for name, cut in cut_layers(analysis).items():
        kind, shape = analysis.graph.nodes[name].kind, complexity.computed_at(analysis.graph, name)
        again = analysis.first_alive(name) != name
        costs[name] = complexity.layer_cost(kind, _weights(analysis, name, cut), shape, name=name, again=again)
    return costs


def _weights(analysis: Analysis, name: str, cut: channels.Cut) -> Mapping[str, np.ndarray]:
    return complexity.all_weights(analysis.graph.nodes[name].layer) if cut.weights is None else cut.weights
