"""`pruning.check` and the warnings of `prune`: what a user hears before any training."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from nhn_tf import pruning, sparse


def model_of(middle) -> keras.Model:
    """Stem, a 3x3 convolution, something, a 1x1 convolution, a classifier; on 8x8 images."""
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(x)
    x = layers.Conv2D(4, 1, use_bias=False, name="point")(middle(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.GlobalAveragePooling2D(name="pool")(x)))


def test_the_share_within_reach_is_that_of_the_pruned_layers_multiply_adds():
    outlook = pruning.check(model_of(layers.ReLU()))
    # At 64 positions 144, 144 and 16 multiply-adds; the head has 8.
    total = 64 * (144 + 144 + 16) + 8
    assert outlook.reach == pytest.approx(64 * 144 / total)
    assert pruning.check(model_of(layers.ReLU()), layers="all").reach == pytest.approx((64 * 160 + 8) / total)
    found = {layer.name: layer.prune for layer in outlook.layers if layer.prune is not None}
    assert found["conv"] == ""
    assert found["stem"] == "a stem: it reads the model's input"
    assert found["point"].startswith("its kernels are 1x1, not asked for")
    assert outlook.ok


def test_each_layer_that_stays_whole_or_needs_keras_is_named_with_the_reason():
    outlook = pruning.check(model_of(layers.GroupNormalization(2, name="norm")))
    (norm,) = [layer for layer in outlook.layers if layer.name == "norm"]
    assert norm.compact.startswith("its type is unknown")
    text = str(outlook)
    assert "conv (Conv2D), 47.3%: pruned" in text
    assert "norm (GroupNormalization): compaction keeps its channels, its type is unknown" in text
    assert 'needs fallback="keras"' not in str(pruning.check(model_of(layers.ReLU())))


def test_what_the_check_promises_of_the_sparse_runtime_is_what_it_does():
    model = model_of(layers.Permute((3, 1, 2), name="turned"))
    needed = {layer.name for layer in pruning.check(model).layers if layer.sparse}
    runtime = sparse.compile(model, fallback="keras")
    assert set(runtime.keras_layers) == needed == {"turned"}


def test_open_sizes_are_counted_at_a_usual_one():
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    model = keras.Model(inputs, layers.Conv2D(4, 3, padding="same", use_bias=False)(x))
    assert pruning.check(model, "compact").reach == pytest.approx(4 / 7)


def test_models_that_cannot_be_pruned_at_all_are_refused_before_anything_is_trained():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    class Unnamed(layers.Layer):
        def __init__(self, width, **kwargs):
            super().__init__(**kwargs)

        def call(self, inputs):
            return inputs

        def get_config(self):
            return super().get_config()

    assert "subclassed model" in pruning.check(Own()).refusal
    assert "nothing to prune" in pruning.check(keras.Sequential([keras.Input((4,)), layers.Dense(2)])).refusal
    outlook = pruning.check(model_of(Unnamed(3, name="odd")))
    assert "layer 'odd' (Unnamed) cannot be copied" in str(outlook)
    assert not outlook.ok
    with pytest.raises(ValueError, match="`goal` must be one of prune, compact, sparse"):
        pruning.check(model_of(layers.ReLU()), "export")


def test_prune_warns_of_layers_at_which_compaction_ends_but_not_of_preprocessing():
    with pytest.warns(UserWarning, match=r"`compact` will keep all channels .* norm \(LayerNormalization: its type"):
        pruning.prune(model_of(layers.LayerNormalization(name="norm")), sparsity=0.5)
    inputs = keras.Input((8, 8, 3))
    x = layers.RandomFlip("horizontal")(layers.Resizing(8, 8)(layers.Rescaling(1 / 255)(inputs)))
    model = keras.Model(inputs, layers.Conv2D(4, 3)(layers.Conv2D(4, 3)(x)))
    assert pruning.masks_of(pruning.prune(model, sparsity=0.5)).sparsity == 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "reach"), [("VGG16", 0.986), ("ResNet50", 0.48), ("MobileNetV2", 0.0)])
def test_the_reach_in_networks_that_people_know(name, reach):
    model = getattr(keras.applications, name)(weights=None)
    assert pruning.check(model).reach == pytest.approx(reach, abs=0.005)
