"""Keras models as people write them: what is made of them computes the same, or says before it costs anything."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from nhn_tf import pruning
from nhn_tf.layers import MaskedConv2D
from nhn_tf.models import agreement, copying, keras_graph

# Layers at which compaction ends are warned of; what they compute is looked at here.
pytestmark = pytest.mark.filterwarnings("ignore:`compact` will keep")


def shake(model: keras.Model, seed: int = 0) -> keras.Model:
    """Random weights and statistics everywhere, also in layers within layers."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.name in ("mask", "seed_generator_state", "count", "mean", "variance"):
            continue
        if "variance" in variable.name:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        else:
            variable.assign(0.3 * rng.normal(size=variable.shape))
    return model


def answers(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(images, training=False))


def images_of(model: keras.Model) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype("float32")


def between(*middle, shape=(10, 10, 3)) -> keras.Model:
    """Two convolutions, some layers, and a classifier."""
    inputs = keras.Input(shape)
    x = layers.Conv2D(6, 3, padding="same", name="stem")(inputs)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv")(x)
    for layer in middle:
        x = layer(x)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten()(x)))
    answers(model, images_of(model))  # Layers that stand as activations get their weights now.
    return shake(model)


@keras.saving.register_keras_serializable("test_any_model")
class Residual(layers.Layer):
    """Two convolutions within one layer, whose variables have the same names."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.first = layers.Conv2D(filters, 3, padding="same")
        self.second = layers.Conv2D(filters, 3, padding="same")

    def build(self, shape):
        self.first.build(shape)
        self.second.build(shape)

    def call(self, inputs):
        return inputs + self.second(keras.ops.relu(self.first(inputs)))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


class Counted(layers.Layer):
    """A layer with state of its own kind, which only its own saving hooks know."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.factor = 1.0

    def call(self, inputs):
        return inputs * self.factor

    def save_own_variables(self, store):
        store["factor"] = np.float32(self.factor)

    def load_own_variables(self, store):
        self.factor = float(np.asarray(store["factor"]))


def adapted() -> layers.Layer:
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3.0, 2.0, (64, 6)))
    return normalization


def counted() -> layers.Layer:
    layer = Counted()
    layer.factor = 7.0
    return layer


STATES = {
    "block": lambda: [Residual(6)],
    "two_ways": lambda: [layers.Reshape((16, 6)), layers.Bidirectional(layers.LSTM(3, return_sequences=True))],
    "cells": lambda: [layers.Reshape((16, 6)), layers.RNN([layers.GRUCell(3), layers.LSTMCell(4)])],
    "per_step": lambda: [layers.TimeDistributed(layers.Conv1D(4, 3))],
    "adapted": lambda: [adapted()],
    "hooks": lambda: [counted()],
    "spectral": lambda: [layers.SpectralNormalization(layers.Conv2D(4, 3))],
    "lambda": lambda: [layers.Lambda(lambda x: x * 2)],
    "function": lambda: [layers.Conv2D(4, 3, activation=lambda x: keras.ops.relu(x) / 2)],
    "activation_layer": lambda: [layers.Conv2D(4, 3, activation=layers.PReLU())],
}


@pytest.mark.parametrize(
    "case",
    # On JAX each recurrent layer compiles for seconds.
    [pytest.param(c, marks=pytest.mark.jax_slow if c in ("two_ways", "cells") else pytest.mark.jax) for c in STATES],
)
def test_a_copy_has_all_that_the_model_has_learned(case, tmp_path):
    model = between(*STATES[case](), shape=(4, 4, 3))  # 16 steps of what is recurrent
    images = images_of(model)
    pruned = pruning.prune(model, sparsity=0.0)
    np.testing.assert_allclose(answers(pruned, images), answers(model, images), rtol=1e-5, atol=1e-5)
    halved = pruning.prune(model, sparsity=0.5)
    small = pruning.compact(halved)
    np.testing.assert_allclose(answers(small, images), answers(halved, images), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(layer, MaskedConv2D) for layer in small.layers)


def test_attention_on_several_tensors_is_copied_whole():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, name="conv")(layers.Conv2D(4, 3)(inputs))
    tokens = layers.Reshape((4, 4))(x)
    model = shake(keras.Model(inputs, layers.MultiHeadAttention(2, 3)(tokens, value=tokens + 1)))
    pruned = pruning.prune(model, sparsity=0.5)
    np.testing.assert_allclose(
        answers(pruning.compact(pruned), images_of(model)), answers(pruned, images_of(model)), atol=1e-5
    )


def test_a_vocabulary_is_copied():
    names = keras.Input((), dtype="string", name="names")
    lookup = layers.StringLookup(output_mode="one_hot", name="lookup")
    lookup.adapt(["b", "a", "b"])
    copy = copying.remake(lookup)
    copy(names)
    copying.carry(lookup, copy)
    np.testing.assert_array_equal(copy(np.array(["a", "b", "c"])), lookup(np.array(["a", "b", "c"])))


def test_random_generators_go_on_where_the_originals_stand():
    model = between(layers.Dropout(0.5, seed=3))
    for _ in range(2):
        model(images_of(model), training=True)
    pruned = pruning.prune(model, sparsity=0.0)
    images = images_of(model)
    np.testing.assert_allclose(pruned(images, training=True), model(images, training=True), atol=1e-6)


class Nameless(layers.Layer):
    """Its configuration lacks an argument."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor

    def get_config(self):
        return super().get_config()


class Forgetful(layers.Layer):
    """A copy of it computes something else."""

    made = 0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        Forgetful.made += 1
        self.factor = float(Forgetful.made)

    def call(self, inputs):
        return inputs * self.factor


def test_a_lambda_that_came_from_a_file_is_copied(tmp_path):
    between(layers.Lambda(lambda x: 2 * x + 1)).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras", safe_mode=False)
    images = images_of(model)
    np.testing.assert_array_equal(pruning.prune(model, sparsity=0.0)(images), model(images))


@keras.saving.register_keras_serializable("tests")
class Back(layers.Layer):
    """Multiplies by the transposed kernel of another layer."""

    def __init__(self, dense, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense

    def call(self, inputs):
        return keras.ops.matmul(inputs, keras.ops.transpose(self.dense.kernel))

    def get_config(self):
        return {**super().get_config(), "dense": keras.saving.serialize_keras_object(self.dense)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "dense": keras.saving.deserialize_keras_object(config["dense"])})


def test_weights_that_layers_share_are_not_torn_apart():
    dense = layers.Dense(4, name="dense")
    model = between(layers.GlobalAveragePooling2D(), dense, Back(dense, name="back"))
    refusal = "layers 'dense' and 'back' share the weights 'dense/kernel'"
    assert refusal in pruning.check(model).refusal
    for change in (lambda: pruning.prune(model, sparsity=0.5), lambda: pruning.compact(model)):
        with pytest.raises(ValueError, match=refusal):
            change()


def test_a_layer_that_cannot_be_made_again_is_named():
    with pytest.raises(ValueError, match=r"layer 'odd' \(Nameless\) cannot be copied: `from_config`.*get_config"):
        pruning.prune(between(Nameless(2.0, name="odd")), sparsity=0.5)


def test_a_copy_that_answers_otherwise_is_not_handed_out():
    model = between(Forgetful())
    with pytest.raises(agreement.DisagreementError, match="copy .* must answer random images.*check=False"):
        pruning.prune(model, sparsity=0.5)
    assert pruning.masks_of(pruning.prune(model, sparsity=0.5, check=False)).sparsity == 0.5


def test_the_comparison_leaves_no_trace_in_the_model():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(layers.Conv2D(4, 3)(inputs))
    x = layers.BatchNormalization()(x, training=True)
    model = keras.Model(inputs, layers.Dropout(0.5)(x, training=True))
    before = [keras.ops.convert_to_numpy(variable).copy() for variable in model.variables]
    pruning.compact(pruning.prune(model, sparsity=0.5))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)


def test_a_layer_that_stands_as_an_activation_may_wait_for_its_first_call():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation=layers.BatchNormalization())(layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, x)
    pruned = pruning.prune(model, sparsity=0.0)  # It warns where it could not compare the two.
    images = images_of(model)
    np.testing.assert_allclose(answers(pruned, images), answers(model, images), rtol=1e-5, atol=1e-6)


def test_errors_are_relative_to_the_largest_output():
    one, other = np.array([[100.0, 1.0]], "float32"), np.array([[100.0, 1.1]], "float32")
    assert agreement.relative_error([one], [other]) == pytest.approx(0.001)
    assert agreement.relative_error([one[:, :1]], [other]) == np.inf
    assert agreement.relative_error([np.full((1, 1), np.nan)], [np.ones((1, 1))]) == np.inf


def test_a_compiled_model_of_an_own_loss_is_copied():
    model = between()
    model.compile("sgd", loss=lambda y, p: keras.ops.mean(y - p))
    assert not pruning.prune(model, sparsity=0.5).compiled
    assert model.compiled


def base() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Conv2D(6, 3, name="stem"),
            layers.Conv2D(8, 3, name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
        ],
        name="base",
    )


def transfer(inner: keras.Model, shape=(12, 12, 3)) -> keras.Model:
    inputs = keras.Input(shape)
    x = inner(layers.Rescaling(1 / 255)(inputs), training=False)
    x = layers.Conv2D(8, 3, name="conv")(x)
    return shake(keras.Model(inputs, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D()(x))))


@pytest.mark.jax_slow
def test_models_within_models_are_pruned_within_and_compacted_flat(tmp_path):
    model = transfer(base())
    pruned = pruning.prune(model, sparsity=0.8)
    assert list(pruning.masks_of(pruned)) == ["base/conv", "conv"]
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in model.layers]
    small = pruning.compact(pruned)
    np.testing.assert_allclose(answers(small, images_of(model)), answers(pruned, images_of(model)), atol=1e-5)
    names = [layer.name for layer in small.layers]
    assert {"base_conv", "conv", "stem"} <= set(names)  # a path where two layers have one name
    assert not any(isinstance(layer, keras.Model) for layer in small.layers)
    pruned.save(tmp_path / "pruned.keras")
    assert pruning.masks_of(keras.saving.load_model(tmp_path / "pruned.keras")) == pruning.masks_of(pruned)
    assert "base/conv" in pruning.summary(pruned)


def test_names_stay_unique_where_a_path_reads_like_a_name():
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="x")], name="a")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="x")(layers.Conv2D(4, 1, name="a_x")(inner(inputs)))
    small = pruning.compact(pruning.prune(keras.Model(inputs, x), sparsity=0.5))
    assert {"x", "a_x", "a_x_"} == {layer.name for layer in small.layers if isinstance(layer, layers.Conv2D)}


def test_a_functional_model_within_a_model_within_a_model():
    inputs = keras.Input((12, 12, 3))
    inner = base()
    middle = keras.Model(inputs, [inner(inputs), layers.Conv2D(2, 3)(inputs)], name="middle")
    outer = keras.Input((12, 12, 3))
    first, second = middle(outer)
    pooled = [layers.GlobalAveragePooling2D()(first), layers.GlobalMaxPooling2D()(second)]
    model = shake(keras.Model(outer, layers.Concatenate()(pooled)))
    pruned = pruning.prune(model, sparsity=0.5)
    assert list(pruning.masks_of(pruned)) == ["middle/base/conv"]
    np.testing.assert_allclose(
        answers(pruning.compact(pruned), images_of(model)), answers(pruned, images_of(model)), atol=1e-5
    )


def test_towers_that_share_their_layers_share_masks_and_channels():
    tower = keras.Sequential(
        [keras.Input((10, 10, 3)), layers.Conv2D(6, 3, name="a"), layers.ReLU(), layers.Conv2D(8, 3, name="b")],
        name="tower",
    )
    left, right = keras.Input((10, 10, 3), name="left"), keras.Input((10, 10, 3), name="right")
    both = layers.Subtract()([tower(left), tower(right)])
    model = shake(keras.Model([left, right], layers.Dense(1)(layers.GlobalMaxPooling2D()(both))))
    pruned = pruning.prune(model, sparsity=0.9)
    assert list(pruning.masks_of(pruned)) == ["tower/b"]
    small = pruning.compact(pruned)
    images = [np.random.default_rng(seed).normal(size=(2, 10, 10, 3)).astype("float32") for seed in (0, 1)]
    np.testing.assert_allclose(small(images), pruned(images), atol=1e-5)
    assert sum(isinstance(layer, layers.Conv2D) for layer in small.layers) == 2
    assert small.get_layer("a").filters < 6
    assert pruning.live_parameters(pruned) < small.count_params() < model.count_params()


def test_a_shared_convolution_keeps_what_any_of_its_calls_needs():
    # Its first call reads the dead channels of `first`, its second one reads live ones: all must stay.
    inputs = keras.Input((8, 8, 4))
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    first = MaskedConv2D(4, 3, padding="same", name="first")
    model = shake(keras.Model(inputs, shared(layers.ReLU()(shared(first(inputs))))))
    mask = np.zeros((4, 4), bool)
    mask[:, :2] = True
    pruning.apply_masks(model, {"first": mask})
    small = pruning.compact(model)
    np.testing.assert_allclose(answers(small, images_of(model)), answers(model, images_of(model)), atol=1e-5)
    assert pruning.liveness(model)["first"].dead_neurons == 0


def test_dead_channels_of_a_shared_layer_leave_all_its_readers():
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    first = MaskedConv2D(4, 3, name="first")
    second = layers.Conv2D(5, 3, use_bias=False, name="second")
    norm = layers.BatchNormalization(name="norm")
    model = shake(keras.Model([left, right], layers.Add()([norm(second(first(left))), norm(second(first(right)))])))
    mask = np.zeros((3, 4), bool)
    mask[:, 0] = True
    pruning.apply_masks(model, {"first": mask})
    small = pruning.compact(model)
    assert small.get_layer("first").filters == 1  # the biases of the other three move into `second`
    images = [np.random.default_rng(seed).normal(size=(2, 8, 8, 3)).astype("float32") for seed in (0, 1)]
    np.testing.assert_allclose(small(images), model(images), atol=1e-5)


def test_a_layer_without_weights_may_be_called_often():
    relu = layers.ReLU(name="relu")
    inputs = keras.Input((10, 10, 3))
    x = relu(layers.Conv2D(6, 3)(inputs))
    x = relu(layers.Conv2D(6, 3, name="conv")(x))
    model = shake(keras.Model(inputs, layers.Conv2D(2, 1)(relu(x))))
    pruned = pruning.prune(model, sparsity=0.9)
    np.testing.assert_allclose(
        answers(pruning.compact(pruned), images_of(model)), answers(pruned, images_of(model)), atol=1e-5
    )


def test_a_subclass_that_computes_what_its_parent_does_is_pruned():
    class Named(layers.Conv2D):
        def __init__(self, width, *, author="me", **kwargs):
            super().__init__(width, 3, **kwargs)
            self.author = author

    inputs = keras.Input((10, 10, 3))
    model = shake(keras.Model(inputs, layers.Conv2D(2, 1)(Named(6, name="own")(Named(6, name="stem")(inputs)))))
    pruned = pruning.prune(model, sparsity=0.5)
    assert list(pruning.masks_of(pruned)) == ["own"]
    np.testing.assert_allclose(
        answers(pruning.compact(pruned), images_of(model)), answers(pruned, images_of(model)), atol=1e-5
    )


def joined(inputs):
    """A model of two inputs, of which it takes the second from the first."""
    small, large = keras.Input((8, 8, 3), name="small"), keras.Input((8, 8, 3), name="large")
    kept = layers.Conv2D(4, 3, name="kept")(layers.Conv2D(4, 3, name="stem")(large))
    return keras.Model(inputs(small, large), layers.Subtract()([layers.Conv2D(4, 5)(small), kept]))


@pytest.mark.jax
@pytest.mark.parametrize(
    ("inputs", "call"),
    [
        (lambda small, large: [small, large], lambda model, one, other: model([one, other])),
        (lambda small, large: [small, large], lambda model, one, other: model({"large": other, "small": one})),
        (lambda small, large: {"small": small, "large": large}, lambda model, a, b: model({"small": a, "large": b})),
        (lambda small, large: [large, small], lambda model, one, other: model([other, one], training=False)),
    ],
)
def test_models_within_of_several_inputs_are_read_as_keras_reads_them(inputs, call):
    one, other = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    model = shake(keras.Model([one, other], layers.Flatten()(call(joined(inputs), one, layers.ReLU()(other)))))
    arrays = agreement.sample_inputs(model)
    halved = pruning.prune(model, sparsity=0.5)
    expected = agreement.run(halved, arrays)[0]
    assert agreement.relative_error(agreement.run(pruning.compact(halved), arrays)[0], expected) < 1e-5


class Doubled(keras.Model):
    """Functional but for what it computes."""

    def __init__(self):
        inputs = keras.Input((8, 8, 3))
        super().__init__(inputs, layers.Conv2D(4, 3)(layers.Conv2D(4, 3)(inputs)), name="doubled")

    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training)


def test_a_model_that_computes_otherwise_than_its_graph_says_is_refused():
    inputs = keras.Input((8, 8, 3))
    for model in (Doubled(), keras.Model(inputs, layers.Flatten()(Doubled()(inputs)))):
        assert "model 'doubled' must compute what its graph of layers says" in pruning.check(model).refusal
        with pytest.raises(ValueError, match="Received: type Doubled, which has a `call` of its own"):
            pruning.prune(model, sparsity=0.5)


@pytest.mark.jax
def test_a_model_of_own_class_that_computes_its_graph_is_pruned():
    class Trained(keras.Model):
        def __init__(self):
            inputs = keras.Input((8, 8, 3))
            super().__init__(inputs, layers.Conv2D(4, 3)(layers.Conv2D(4, 3)(inputs)))

        def train_step(self, *args):
            raise NotImplementedError

    model = shake(Trained())
    images = images_of(model)
    np.testing.assert_allclose(answers(pruning.prune(model, sparsity=0.0), images), answers(model, images), rtol=1e-5)


class Renamed(layers.Layer):
    """Whose configuration has no name, since Keras finds none among its arguments."""

    def __init__(self, **options):
        super().__init__(**options)

    def call(self, inputs):
        return inputs + 1


def test_a_copy_has_its_layers_name_though_the_configuration_has_none():
    layer = Renamed()
    assert "name" not in layer.get_config()
    model = between(layer)
    small = pruning.compact(pruning.prune(model, sparsity=0.5))
    assert small.get_layer(layer.name) is not layer


def test_the_graph_names_calls_by_path_and_number():
    inner = base()
    inputs = keras.Input((12, 12, 3), name="images")
    model = keras.Model(inputs, layers.Add(name="sum")([inner(inputs), inner(inputs)]))
    graph = keras_graph.trace(model)
    convs = [name for name, node in graph.nodes.items() if isinstance(node.layer, layers.Conv2D)]
    assert convs == ["base/stem", "base/conv", "base/stem@2", "base/conv@2"]
    assert graph.calls["base/stem@2"] == ("base/stem", "base/stem@2")
    assert graph.nodes["base/conv@2"].shape == (None, 8, 8, 8)
    assert keras_graph.trace(model, [(1, 20, 16, 3)]).nodes["sum"].shape == (1, 16, 12, 8)
