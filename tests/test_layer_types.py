"""What the package can do with each layer type: the tables of its rooms side by side."""

from __future__ import annotations

import re

import keras
import pytest
from keras import layers

import nhn_tf.layers
from nhn_tf.export.plain import REPLACEMENTS
from nhn_tf.models import keras_graph
from nhn_tf.models.complexity import COUNTED
from nhn_tf.pruning.rules import RULES
from nhn_tf.sparse.program.from_keras import READERS

OURS = (
    nhn_tf.layers.MaskedConv2D,
    nhn_tf.layers.MaskedDense,
    nhn_tf.layers.BatchNorm,
    nhn_tf.layers.FactorizedReduction,
    nhn_tf.layers.GroupedGlobalPool,
)
"""The package's layers that a network of its own is made of."""

NOT_COMPILED: set[type] = set()
"""Layers that compaction follows and the sparse runtime does not know."""

NOT_FOLLOWED: set[type] = {
    *(layers.Rescaling, layers.Normalization, layers.Resizing),
    *(layers.RandomBrightness, layers.RandomContrast, layers.RandomFlip, layers.RandomRotation),
    *(layers.RandomTranslation, layers.RandomZoom),
    *(layers.LayerNormalization, layers.GroupNormalization, layers.RMSNormalization, layers.UnitNormalization),
    keras_graph.LayerScale,
}
"""Layers that the sparse runtime knows and compaction keeps whole: they stand at the input, all of which stays, or
normalise over channels, each of which counts.
"""


def test_what_one_room_knows_of_layers_the_others_know_too():
    followed = {kind for kind in RULES if issubclass(kind, keras.Layer)}
    compiled = {kind for kind in READERS if issubclass(kind, keras.Layer)}
    assert followed - compiled == NOT_COMPILED
    assert compiled - followed == NOT_FOLLOWED


@pytest.mark.parametrize(
    "kind", sorted(set(RULES) | set(READERS), key=lambda kind: f"{kind.__module__} {kind.__name__}")
)
def test_layers_with_weights_are_counted(kind):
    has_weights = issubclass(kind, keras.Layer) and "build" in vars(kind) and kind.__name__ not in WEIGHTLESS
    assert not has_weights or kind in COUNTED


WEIGHTLESS = {
    *("Activation", "Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract", "CustomScaleLayer"),
    *("Permute", "Reshape", "Softmax", "Resizing"),
}


def test_every_layer_of_our_own_is_known_and_exported_as_a_layer_of_keras():
    for kind in OURS:
        assert kind in RULES
        assert kind in READERS
    assert set(REPLACEMENTS) == set(OURS)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.ReLU(), None),
        (layers.Conv1D(4, 3), "its type is unknown. Known layers: Conv2D, ReLU$"),
        (type("Own", (layers.ReLU,), {"call": lambda self, x: x + 1})(), "its type is unknown"),
        (type("Renamed", (layers.Conv2D,), {})(4, 3), None),
        (layers.Conv2D(4, 3, data_format="channels_first"), "channels must come last"),
        (lambda x: x + 1, "it is a bare operation"),
        (lambda x: layers.ReLU()(inputs=x), "it must be called on one tensor, .* as its only positional argument"),
    ],
    ids=["known", "unknown", "subclass", "renamed", "channels_first", "operation", "keyword"],
)
def test_one_guard_says_what_stands_in_the_way_of_a_layer(layer, reason):
    inputs = keras.Input((8, 3) if isinstance(layer, layers.Conv1D) else (8, 8, 3))
    (node,) = [n for n in keras_graph.trace(keras.Model(inputs, layer(inputs))).nodes.values() if n.parents]
    found = keras_graph.obstacle(node, {layers.ReLU: 0, layers.Conv2D: 1})
    assert found is None if reason is None else re.match(reason, found)
