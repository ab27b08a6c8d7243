"""Parameters and multiply-adds against hand-worked counts."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from nhn_tf.layers import BatchNorm, FactorizedReduction, GroupedGlobalPool, MaskedConv2D
from nhn_tf.models import complexity
from nhn_tf.models.complexity import Cost


def model_of(*stack: layers.Layer, shape=(8, 8, 3)) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *stack])


@pytest.mark.parametrize(
    ("layer", "params", "flops"),
    [
        (layers.Conv2D(4, 3, padding="same"), 3 * 3 * 3 * 4 + 4, 64 * 108),
        (layers.Conv2D(4, 3, strides=2, use_bias=False), 108, 9 * 108),  # 8 -> 3
        (layers.Conv2D(6, 3, groups=3, padding="same"), 9 * 1 * 6 + 6, 64 * 54),
        (layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), 9 * 3 * 2 + 6, 64 * 54),
        (layers.SeparableConv2D(5, 3, padding="same"), 9 * 3 + 3 * 5 + 5, 64 * (27 + 15)),
        (layers.Dense(5), 3 * 5 + 5, 64 * 15),  # on every position
        (layers.Conv2DTranspose(4, 3, strides=2), 9 * 4 * 3 + 4, 64 * 108),  # each of 64 pixels spreads a kernel
        (layers.LayerNormalization(), 6, 0),
        (layers.PReLU(), 192, 0),
        (GroupedGlobalPool(), 8 * 8 * 3, 192),
        (FactorizedReduction(5), 3 * 3 + 3 * 2, 16 * 15),
        (layers.BatchNormalization(), 6, 0),  # gamma and beta; moving statistics are state
        (BatchNorm(), 6, 0),
        (layers.Dropout(0.5), 0, 0),
        (layers.MaxPooling2D(), 0, 0),
    ],
)
def test_cost_of_a_layer(layer, params, flops):
    model = model_of(layer)
    assert complexity.layer_costs(model)[layer.name] == Cost(params, params, flops, flops)
    assert complexity.model_cost(model) == Cost(params, params, flops, flops)


def test_masked_kernels_are_not_counted():
    model = model_of(MaskedConv2D(4, 3, padding="same", name="conv"))
    mask = np.zeros((3, 4), bool)
    mask[0, :2] = mask[2, 3] = True  # 3 of 12 kernels
    model.get_layer("conv").set_mask(mask)
    assert complexity.layer_costs(model)["conv"] == Cost(
        params=112, live_params=3 * 9 + 4, flops=64 * 108, live_flops=64 * 27
    )


def test_a_model_costs_what_its_layers_do():
    model = model_of(layers.Conv2D(4, 3), layers.BatchNormalization(), layers.GlobalAveragePooling2D(), layers.Dense(2))
    assert complexity.model_cost(model) == Cost(112 + 8 + 10, 112 + 8 + 10, 36 * 108 + 8, 36 * 108 + 8)


def test_unknown_types_are_counted_by_their_parameters_and_named():
    model = model_of(layers.ConvLSTM1D(2, 3, name="recurrent"), layers.Dropout(0.2))
    # Four gates of 2 units: kernels [3, 3, 8] and [3, 2, 8], biases [8].
    assert complexity.layer_costs(model)["recurrent"] == Cost(72 + 48 + 8, 72 + 48 + 8, 0, 0)
    assert complexity.uncounted(model) == {"recurrent": "ConvLSTM1D"}


def test_a_layer_called_twice_has_its_parameters_once_and_computes_twice():
    inputs = keras.Input((8, 8, 4))
    conv = layers.Conv2D(4, 1, name="conv")
    costs = complexity.layer_costs(keras.Model(inputs, conv(layers.MaxPooling2D()(conv(inputs)))))
    assert costs["conv"] == Cost(20, 20, 64 * 16, 64 * 16)
    assert costs["conv@2"] == Cost(0, 0, 16 * 16, 16 * 16)


def test_sizes_are_those_of_the_model_at_hand_not_of_a_layers_first_call():
    base = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 1, name="conv")], name="base")
    base(keras.Input((32, 32, 3)))
    images = keras.Input((8, 8, 3))
    assert complexity.layer_costs(keras.Model(images, base(images)))["base/conv"].flops == 64 * 12


def test_unknown_sizes_are_refused_by_name():
    with pytest.raises(ValueError, match="known sizes. Received: shape .* at layer 'conv'"):
        complexity.layer_costs(model_of(layers.Conv2D(4, 3, name="conv"), shape=(None, None, 3)))
