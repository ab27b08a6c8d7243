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
    nhn_tf.layers.BatchNorm,
    nhn_tf.layers.FactorizedReduction,
    nhn_tf.layers.GroupedGlobalPool,
)
"""The package's layers that a network of its own is made of."""

ALL = "counted compacted compiled"
ONLY_SOME = {layers.Reshape: "compiled"}
"""Layer types that not every room knows, and where they are known."""


@pytest.mark.parametrize("kind", sorted({*COUNTED, *RULES, *READERS}, key=lambda kind: kind.__name__))
def test_what_one_room_knows_of_layers_the_others_know_too(kind):
    rooms = {"counted": COUNTED, "compacted": RULES, "compiled": READERS}
    assert " ".join(room for room, table in rooms.items() if kind in table) == ONLY_SOME.get(kind, ALL)


def test_every_layer_of_our_own_is_known_and_exported_as_a_layer_of_keras():
    for kind in OURS:
        assert kind in COUNTED and kind in RULES and kind in READERS
    assert set(REPLACEMENTS) == set(OURS)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.ReLU(), None),
        (layers.LSTM(4), "its type is unknown. Known types: Conv2D, ReLU$"),
        (type("Own", (layers.Conv2D,), {})(4, 3), "its type is unknown"),
        (layers.Conv2D(4, 3, data_format="channels_first"), "channels must come last"),
        (keras.KerasTensor((2, 3)).__add__(1.0)._keras_history.operation, "it is a bare operation"),
    ],
    ids=["known", "unknown", "subclass", "channels_first", "operation"],
)
def test_one_guard_says_what_stands_in_the_way_of_a_layer(layer, reason):
    found = keras_graph.obstacle(layer, {layers.ReLU: 0, layers.Conv2D: 1})
    assert found == reason if reason is None else re.match(reason, found)
