"""The mixed op: it computes the chosen op alone, and only that one learns."""

import keras
import numpy as np
import pytest
from keras import ops

from nhn_tf.layers import MixedOp
from nhn_tf.values.space import OP_NAMES

SHAPE = (4, 6, 6, 3)
FILTERS = 5


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def array(value):
    return ops.convert_to_numpy(value)


def observe(x, callback):
    """Returns x; calls `callback` whenever this point of a compiled graph is reached."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.control_dependencies([tf.py_function(callback, [], [])]):
            return tf.identity(x)
    import jax

    jax.debug.callback(callback)
    return x


class Observed(MixedOp):
    """Keeps a list of the ops that really ran."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.runs = []

    def observed(self, op, branch):
        return lambda x: branch(observe(x, lambda: self.runs.append(op.name)))

    def _convolution(self, op, *args, **kwargs):
        return self.observed(op, super()._convolution(op, *args, **kwargs))

    def _pooling(self, op, *args):
        return self.observed(op, super()._pooling(op, *args))


class Net(keras.Model):
    """A mixed op whose choice is fed as a batch of equal integers."""

    def __init__(self, mixed):
        super().__init__()
        self.mixed = mixed
        mixed.build(SHAPE)
        self.built = True

    def call(self, inputs, training=None):
        return self.mixed(inputs["x"], choice=inputs["choice"][0], training=training)


def feed(choice, seed=0):
    return {"x": numbers(*SHAPE, seed=seed), "choice": np.full(len(numbers(*SHAPE)), choice, "int32")}


def net(mixed):
    model = Net(mixed)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    return model


def snapshot(layer):
    return {weight.path: array(weight.value).copy() for weight in layer.weights}


def test_only_the_chosen_op_runs_in_inference_and_in_training():
    mixed = Observed(OP_NAMES, FILTERS, name="mixed")
    model = net(mixed)
    target = numbers(*SHAPE[:3], FILTERS, seed=9)
    for choice, name in enumerate(OP_NAMES):
        mixed.runs.clear()
        model.predict_on_batch(feed(choice))
        assert mixed.runs == [name]
        mixed.runs.clear()
        model.train_on_batch(feed(choice), target)
        assert set(mixed.runs) == {name}


def test_only_the_chosen_op_gets_gradients_and_statistics():
    mixed = MixedOp(OP_NAMES, FILTERS, name="mixed")
    model = net(mixed)
    for choice, name in enumerate(OP_NAMES):
        before = snapshot(mixed)
        model.train_on_batch(feed(choice, seed=choice), numbers(*SHAPE[:3], FILTERS, seed=9))
        for path, after in snapshot(mixed).items():
            changed = (after != before[path]).reshape(len(after), -1).any(axis=1)
            room, variable = path.split("/")[-2:]
            if room == "in_bn" or variable == "in_kernel":
                expected = [index == choice for index in range(6)]
            elif room == "op_bn":
                expected = [index == choice for index in range(4)]
            else:
                assert changed.any() == variable.startswith(f"{name}_"), path
                continue
            assert changed.tolist() == expected, path


@pytest.mark.parametrize("name", OP_NAMES)
def test_an_op_equals_the_same_keras_layers(name):
    mixed = MixedOp((name,), FILTERS, name="mixed")
    x = numbers(*SHAPE)
    y = array(mixed(x, training=True))
    z = array(mixed(x, training=False))

    weights = {weight.path.split("mixed/")[1]: array(weight.value) for weight in mixed.weights}
    convolution = {"padding": "same", "use_bias": False}
    layers = [
        keras.layers.Conv2D(FILTERS, 1, **convolution),
        keras.layers.BatchNormalization(epsilon=1e-5),
        keras.layers.ReLU(),
    ]
    size = 5 if "5" in name else 3
    if "pool" in name:
        pool = keras.layers.AveragePooling2D if "avg" in name else keras.layers.MaxPooling2D
        layers += [pool(3, strides=1, padding="same")]
    else:
        layer = keras.layers.SeparableConv2D if "sep" in name else keras.layers.Conv2D
        layers += [
            layer(FILTERS, size, **convolution),
            keras.layers.BatchNormalization(epsilon=1e-5),
            keras.layers.ReLU(),
        ]
    expected = keras.Sequential([keras.Input(SHAPE[1:]), *layers])
    layers[0].set_weights([weights["in_kernel"][0]])
    if "pool" not in name:
        parts = ["depthwise", "pointwise"] if "sep" in name else ["kernel"]
        layers[3].set_weights([weights[f"{name}_{part}"] for part in parts])
    np.testing.assert_allclose(y, array(expected(x, training=True)), atol=1e-4)
    for index, bn in ((1, "in_bn"), (4, "op_bn")):
        if index < len(layers):
            statistics = [weights[f"{bn}/{key}"][0] for key in ("gamma", "beta", "moving_mean", "moving_variance")]
            layers[index].set_weights(statistics)
    np.testing.assert_allclose(z, array(expected(x, training=False)), atol=1e-4)


@pytest.mark.parametrize(
    "names", [("max_pool3x3", "conv5x5"), ("avg_pool3x3", "max_pool3x3"), ("sep_conv3x3", "conv3x3")]
)
def test_any_subset_of_ops_in_any_order_equals_its_single_ops(names):
    mixed = MixedOp(names, FILTERS, name="mixed")
    mixed.build(SHAPE)
    for weight in mixed.weights:
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(1 + np.abs(numbers(*weight.shape, seed=3)))
    x = numbers(*SHAPE)
    convolutions = [name for name in names if "conv" in name]
    for choice, name in enumerate(names):
        single = MixedOp((name,), FILTERS, name="single")
        single.build(SHAPE)
        given = {weight.path.split("mixed/")[1]: array(weight.value) for weight in mixed.weights}
        for weight in single.weights:
            key = weight.path.split("single/")[1]
            if key.startswith("op_bn"):
                index = convolutions.index(name)
                weight.assign(given[key][index : index + 1])
            elif key.startswith("in_"):
                weight.assign(given[key][choice : choice + 1])
            else:
                weight.assign(given[key])
        np.testing.assert_allclose(array(mixed(x, choice=choice)), array(single(x)), atol=1e-5)


def test_inference_uses_the_moving_statistics_of_the_chosen_op():
    mixed = MixedOp(("avg_pool3x3", "max_pool3x3"), FILTERS, name="mixed")
    mixed.build(SHAPE)
    x = numbers(*SHAPE)
    before = [array(mixed(x, choice=choice)) for choice in (0, 1)]
    mixed.in_bn.moving_mean.assign(np.stack([np.zeros(FILTERS), np.full(FILTERS, -100.0)]))
    np.testing.assert_array_equal(array(mixed(x, choice=0)), before[0])
    # 100 standard deviations above the mean of op 1: the ReLU passes everything.
    np.testing.assert_allclose(array(mixed(x, choice=1)).mean(), 100, rtol=0.05)


def test_batch_statistics_at_inference_update_nothing():
    mixed = MixedOp(("conv3x3", "max_pool3x3"), FILTERS, use_batch_statistics=True, name="mixed")
    mixed.build(SHAPE)
    before = snapshot(mixed)
    x = numbers(*SHAPE)
    y = array(mixed(x, choice=0, training=False))
    for path, after in snapshot(mixed).items():
        np.testing.assert_array_equal(after, before[path])
    np.testing.assert_allclose(y, array(mixed(x, choice=0, training=True)), atol=1e-6)


def test_a_choice_is_needed_where_there_are_several_ops():
    with pytest.raises(ValueError, match="needs `choice`"):
        MixedOp(("conv3x3", "max_pool3x3"), FILTERS, name="mixed")(numbers(*SHAPE))


@pytest.mark.parametrize(
    ("names", "message"), [((), "at least one"), (("conv3x3",) * 2, "none twice"), (("conv7x7",), "conv7x7")]
)
def test_ops_that_make_no_choice_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        MixedOp(names, FILTERS)


def test_configuration_round_trip_and_announced_shape():
    mixed = MixedOp(("conv5x5", "avg_pool3x3"), FILTERS, smooth_init=False, momentum=0.5, name="mixed")
    again = keras.layers.deserialize(keras.layers.serialize(mixed))
    assert again.get_config() == mixed.get_config()
    assert mixed.compute_output_shape(SHAPE) == (*SHAPE[:3], FILTERS)


def test_mixed_precision_keeps_statistics_in_float32():
    mixed = MixedOp(OP_NAMES, FILTERS, dtype="mixed_bfloat16", name="mixed")
    model = net(mixed)
    model.train_on_batch(feed(3), numbers(*SHAPE[:3], FILTERS, seed=9))
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    assert keras.backend.standardize_dtype(mixed(numbers(*SHAPE), choice=3).dtype) == "bfloat16"
