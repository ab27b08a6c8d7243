"""A masked network as a physically smaller one with the same outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from nhn_tf.layers.masked_conv import MaskedConv2D
from nhn_tf.models import complexity, keras_graph
from nhn_tf.pruning import channels
from nhn_tf.pruning.liveness import Analysis, analyse
from nhn_tf.pruning.rules import RULES


def compact(model: keras.Model, *, keep_masks: bool = False) -> keras.Model:
    """Rebuilds a model without its dead neurons.

    A channel goes when the masks leave no live kernel that leads to it, or when nothing alive reads it, over the whole
    graph (see `liveness`). What a dead channel emitted all the same, such as a bias, moves into the next bias or batch
    normalisation, or, where zero padding forbids that, into the kernels of one kept constant channel; so the outputs
    agree on any input up to rounding. The branches that an `Add` joins keep the union of their channels. The model's
    inputs and outputs keep theirs.

    Args:
      model: functional (or built Sequential), of ordinary layers: convolutions, batch normalisation, activations,
        pooling, Concatenate, Add, Flatten, Dense, Dropout and the layers of `nhn_tf`.
      keep_masks: a MaskedConv2D stays one, for training on. By default it becomes a Conv2D with zeros where a kernel is
        masked, so that the compacted form of a model of plain Keras layers needs nothing but Keras. Nothing holds those
        zeros in training; count live parameters and FLOPs on the masked model.

    Returns:
      A new functional model, not compiled. Layers keep their names, and but for MaskedConv2D their classes; layers
      without a live output are gone.

    Raises:
      ValueError: a layer type that is not known, a layer called twice, a nested or subclassed model; the message names
        the layer.
    """
    analysis = analyse(model)
    cuts = cut_layers(analysis)
    tensors: dict[str, Any] = {}
    for name, node in analysis.graph.nodes.items():
        if name not in cuts:
            continue
        kind, weights = type(node.layer), cuts[name].weights
        if kind is MaskedConv2D and not keep_masks:
            kind, weights = keras.layers.Conv2D, _unmasked(weights)
        layer = kind.from_config({**node.layer.get_config(), **cuts[name].config})
        if not node.parents:
            tensors[name] = layer.output
            continue
        read = zip(node.parents, analysis.kept_inputs(name), strict=True)
        inputs = [tensors[parent] for parent, kept in read if kept.any()]
        tensors[name] = layer(inputs if node.is_list else inputs[0], *node.args, **node.kwargs)
        for variable in layer.variables:
            variable.assign(weights[variable.name])

    inputs, outputs = (
        keras.tree.map_structure(lambda tensor: tensors[keras_graph.layer_of(tensor)], part)
        for part in keras_graph.structure_of(model)
    )
    return keras.Model(inputs, outputs, name=model.name)


def _unmasked(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of a Conv2D that computes what a MaskedConv2D does."""
    plain = {name: weight for name, weight in weights.items() if name != "mask"}
    return {**plain, "kernel": weights["kernel"] * (weights["mask"] > 0)}


def cut_layers(analysis: Analysis) -> dict[str, channels.Cut]:
    """Configuration and weights of every layer that the compacted model has, by name."""
    cuts: dict[str, channels.Cut] = {}
    for name, node in analysis.graph.nodes.items():
        kept = analysis.kept[name]
        if not kept.any():
            continue
        kept_inputs = analysis.kept_inputs(name)
        shift = cuts[node.parents[0]].shift if len(node.parents) == 1 else np.zeros(kept.sum())
        site = analysis.sites[name]
        rule = RULES[type(site.layer)]
        cuts[name] = rule.cut(site, analysis.inputs(name), kept_inputs, kept, shift)
    return cuts


def live_parameters(model: keras.Model) -> int:
    """Parameters as the paper counts them: those of the compacted model outside masked kernels.

    The model is not rebuilt. Moving statistics and masks are no parameters (see `complexity`).

    Raises:
      ValueError: as in `compact`.
    """
    cuts = cut_layers(analyse(model))
    return sum(complexity.parameter_counts(cut.weights)[1] for cut in cuts.values())


def live_costs(model: keras.Model) -> dict[str, complexity.Cost]:
    """Cost of every layer of the compacted model, by layer name, without building it.

    Multiply-adds need known spatial sizes; layers that the compacted model lacks cost nothing.

    Raises:
      ValueError: as in `compact` and `complexity.layer_cost`.
    """
    analysis = analyse(model)
    costs = dict.fromkeys(analysis.graph.nodes, complexity.Cost())
    for name, cut in cut_layers(analysis).items():
        node = analysis.graph.nodes[name]
        costs[name] = complexity.layer_cost(type(node.layer), cut.weights, node.shape, name=name)
    return costs
