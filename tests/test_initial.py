"""Scores in units of those that layers begin with."""

import keras
import numpy as np
import pytest
from keras import layers

from nhn_tf import pruning
from nhn_tf.layers import SmoothInit

pytestmark = [pytest.mark.jax, pytest.mark.filterwarnings("ignore:layer .* keeps")]

SIZES = {"narrow": (3, 8), "wide": (3, 32), "large": (5, 16)}
"""Layer to (k, Cin)."""


def untrained(initializer):
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((8, 8, 3))
    for name, (size, channels) in SIZES.items():
        x = layers.Conv2D(channels, 1, name=f"to_{name}")(x)
        x = layers.Conv2D(32, size, padding="same", kernel_initializer=initializer(), name=name)(x)
    return keras.Model(inputs, x)


@pytest.fixture(scope="module", params=["he_normal", "smooth"])
def model(request):
    return untrained(lambda: "he_normal" if request.param == "he_normal" else SmoothInit("he_normal"))


def test_units_are_the_standard_deviations_that_an_initializer_draws():
    units = pruning.units(pruning.prunable(untrained(lambda: "he_normal")))
    # The standard deviation of k * k numbers of a normal distribution is about 1 - 3 / (4 * k * k) of its own.
    expected = {n: np.sqrt(2 / (k * k * c)) * (1 - 0.75 / (k * k)) for n, (k, c) in SIZES.items()}
    assert units == pytest.approx(expected, rel=0.03)
    assert units == pruning.units(pruning.prunable(untrained(lambda: "he_normal")))


def test_before_training_the_normalized_scope_prunes_all_layers_alike(model):
    kept = {scope: pruning.propose(model, sparsity=0.7, scope=scope).masks for scope in ("global", "normalized")}
    off = {scope: max(abs(mask.mean() - 0.3) for mask in masks.values()) for scope, masks in kept.items()}
    assert off["global"] > 0.25
    assert off["normalized"] < 0.1
    assert kept["normalized"].sparsity == pytest.approx(0.7, abs=1 / kept["normalized"].total)


def test_a_normalized_threshold_is_in_units_of_each_layer(model):
    chosen = pruning.propose(model, threshold=1.0, scope="normalized").masks
    units = pruning.units(pruning.prunable(model))
    for name, mask in chosen.items():
        std = np.std(keras.ops.convert_to_numpy(model.get_layer(name).kernel), axis=(0, 1))
        np.testing.assert_array_equal(mask, std >= units[name])
    pruned = pruning.prune(model, threshold=1.0, scope="normalized")
    assert pruning.masks_of(pruned) == chosen
    # Masked layers remember their initializer.
    assert pruning.units(pruning.masked_layers(pruned)) == units


def test_kernels_that_begin_flat_are_no_unit():
    with pytest.raises(ValueError, match="narrow, wide, large, which begins from scores of 0"):
        pruning.prune(untrained(lambda: "zeros"), sparsity=0.5, scope="normalized")
