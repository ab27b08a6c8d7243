"""Layers: against NumPy oracles, and through one harness (shapes, serialisation, a training step, mixed precision)."""

import keras
import numpy as np
import pytest
from keras import ops

from nhn_tf.layers import BatchNorm, FactorizedReduction, GroupedGlobalPool, MaskedConv2D, SmoothInit, backend

pytestmark = pytest.mark.jax


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def array(value):
    return ops.convert_to_numpy(value)


def convolve(x, kernel):
    """NumPy oracle: stride 1, zero padding to the same size. x [B, H, W, Cin], kernel [k, k, Cin, Cout]."""
    size = kernel.shape[0]
    pad = size // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = x.shape[1:3]
    return sum(
        padded[:, dy : dy + height, dx : dx + width] @ kernel[dy, dx] for dy in range(size) for dx in range(size)
    )


LAYERS = {
    "masked_conv": (
        lambda **kw: MaskedConv2D(5, 3, padding="same", kernel_regularizer="l2", **kw),
        (4, 6, 6, 3),
        (4, 6, 6, 5),
    ),
    "global_pool": (GroupedGlobalPool, (4, 6, 4, 3), (4, 3)),
    "batch_norm": (BatchNorm, (4, 6, 6, 3), (4, 6, 6, 3)),
    "batch_norm_of_the_batch": (lambda **kw: BatchNorm(use_batch_statistics=True, **kw), (4, 6, 6, 3), (4, 6, 6, 3)),
    "reduction": (lambda **kw: FactorizedReduction(7, filters_a=2, **kw), (4, 6, 4, 3), (4, 3, 2, 7)),
}


@pytest.fixture(params=LAYERS)
def case(request):
    return LAYERS[request.param]


def test_layer_computes_the_shape_it_announces(case):
    make, shape, expected = case
    layer = make(name="layer")
    assert layer.compute_output_shape(shape) == expected
    assert layer(numbers(*shape)).shape == expected
    assert keras.Sequential([keras.Input(shape[1:]), make(name="layer")]).output_shape == (None, *expected[1:])


def test_layer_survives_serialisation_with_its_weights(case, tmp_path):
    make, shape, _ = case
    x = numbers(*shape)
    model = keras.Sequential([keras.Input(shape[1:]), make(name="layer")])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.layers[0].get_config() == model.layers[0].get_config()
    np.testing.assert_array_equal(array(again(x)), array(model(x)))


def test_one_training_step_moves_every_trainable_weight(case):
    make, shape, expected = case
    model = keras.Sequential([keras.Input(shape[1:]), make(name="layer")])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    before = [array(weight).copy() for weight in model.trainable_weights]
    assert np.isfinite(model.train_on_batch(numbers(*shape), numbers(*expected, seed=1)))
    assert all((array(weight) != old).any() for weight, old in zip(model.trainable_weights, before, strict=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_agrees_with_float32(case, dtype):
    make, shape, _ = case
    layer, half = make(name="layer"), make(name="half", dtype=f"mixed_{dtype}")
    x = numbers(*shape)
    full = array(layer(x, training=True)) if isinstance(layer, BatchNorm) else array(layer(x))
    half.build(shape)
    half.set_weights(make_weights(make, shape, layer))
    result = half(x, training=True) if isinstance(layer, BatchNorm) else half(x)
    assert keras.backend.standardize_dtype(result.dtype) == dtype
    assert {weight.dtype for weight in half.weights} == {"float32"}
    np.testing.assert_allclose(array(ops.cast(result, "float32")), full, atol=0.06)


def make_weights(make, shape, layer):
    """The weights of `layer`; a batch norm's as they were before its call moved the statistics."""
    if not isinstance(layer, BatchNorm):
        return layer.get_weights()
    fresh = make(name="fresh")
    fresh.build(shape)
    return fresh.get_weights()


# MaskedConv2D


def test_masked_convolution_equals_the_oracle_over_live_kernels():
    layer = MaskedConv2D(5, 3, padding="same", name="conv")
    x = numbers(2, 6, 7, 4)
    layer.build(x.shape)
    kernel = array(layer.kernel).copy()
    mask = np.random.default_rng(1).random((4, 5)) < 0.5
    layer.set_mask(mask)
    np.testing.assert_allclose(array(layer(x)), convolve(x, kernel * mask), atol=1e-5)
    np.testing.assert_array_equal(array(layer.kernel), kernel * mask)


def test_a_pruned_kernel_stays_dead_through_training_and_its_penalty_does_not_count():
    layer = MaskedConv2D(2, 3, kernel_regularizer=keras.regularizers.L2(1.0), use_bias=False, name="conv")
    model = keras.Sequential([keras.Input((5, 5, 2)), layer])
    model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), loss="mse")
    mask = np.array([[True, False], [True, True]])
    layer.set_mask(mask)
    for _ in range(3):
        model.train_on_batch(numbers(4, 5, 5, 2), numbers(4, 3, 3, 2, seed=1))
    kernel = array(layer.kernel)
    assert (kernel[:, :, 0, 1] == 0).all()
    assert (kernel[:, :, mask] != 0).all()
    layer.kernel.assign(np.ones((3, 3, 2, 2)))
    np.testing.assert_allclose(float(layer.losses[0]), 27.0)  # 3 live kernels of 9 ones


def test_the_mask_is_saved_with_the_weights(tmp_path):
    model = keras.Sequential([keras.Input((5, 5, 2)), MaskedConv2D(3, 3, name="conv")])
    mask = np.array([[True, False, True], [False, False, True]])
    model.layers[0].set_mask(mask)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(keras.saving.load_model(tmp_path / "model.keras").layers[0].mask), mask)
    model.save_weights(tmp_path / "model.weights.h5")
    model.layers[0].set_mask(np.ones((2, 3), bool))
    model.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(array(model.layers[0].mask), mask)


@pytest.mark.parametrize("mask", [np.ones((3, 2), bool), np.ones((2, 3)), np.ones((3, 3, 2, 3), bool)])
def test_a_mask_of_another_shape_or_type_is_refused(mask):
    layer = MaskedConv2D(3, 3, name="conv")
    layer.build((None, 5, 5, 2))
    with pytest.raises(ValueError, match=r"layer 'conv' must be bool \(2, 3\). Received"):
        layer.set_mask(mask)


def test_a_grouped_masked_convolution_is_refused():
    with pytest.raises(ValueError, match="`groups` must be 1"):
        MaskedConv2D(4, 3, groups=2)


# GroupedGlobalPool


def test_grouped_global_pool_starts_as_average_pooling():
    x = numbers(3, 4, 6, 5)
    expected = keras.layers.GlobalAveragePooling2D()(x)
    np.testing.assert_allclose(array(GroupedGlobalPool()(x)), array(expected), atol=1e-6)


def test_grouped_global_pool_is_a_depthwise_convolution():
    x, kernel = numbers(3, 4, 6, 5), numbers(4, 6, 5, seed=1)
    layer = GroupedGlobalPool()
    layer.build(x.shape)
    layer.kernel.assign(kernel)
    expected = ops.depthwise_conv(x, kernel[..., None], padding="valid", data_format="channels_last")[:, 0, 0]
    np.testing.assert_allclose(array(layer(x)), array(expected), atol=1e-4)


def test_grouped_global_pool_needs_a_known_map_size():
    with pytest.raises(ValueError, match="H, W and C known"):
        GroupedGlobalPool().build((None, None, 4, 3))


# Max pooling


def gradients(function, *arrays, weights):
    """Gradients of sum(weights * function(*arrays)), each by a step of plain SGD at rate 1 on that array alone.

    Alone, because a sum is linear: TensorFlow may then update a variable before it reads it for another's gradient.
    """
    return [gradient(function, arrays, number, weights) for number in range(len(arrays))]


def gradient(function, arrays, number, weights):
    class Sum(keras.Model):
        def build(self, input_shape):
            self.move = self.add_weight(shape=arrays[number].shape, initializer="zeros", name="move")

        def call(self, inputs):
            moved = [*arrays[:number], self.move + arrays[number], *arrays[number + 1 :]]
            y = function(*(ops.convert_to_tensor(array) for array in moved))
            return ops.reshape(ops.sum(weights * y), (1, 1)) + 0 * inputs

    model, fed = Sum(), np.zeros((1, 1), "float32")
    model.build(fed.shape)
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss=lambda _, y: y, jit_compile=False)
    model.train_on_batch(fed, fed)
    return -array(model.move)


def test_max_pool_by_hand():
    x = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 2, 0]], "float32").reshape(1, 3, 4, 1)
    expected = [[1, 1, 0, 0], [1, 2, 2, 2], [0, 2, 2, 2]]
    np.testing.assert_array_equal(array(backend.max_pool(x))[0, :, :, 0], expected)
    # Window i passes i back, to its largest pixel. Windows 1, 2 and 5 hold the 1 and no 2; windows 3 and 4, above on
    # the right, and 9, below on the left, hold only 0 and pass to the first pixel; the others hold the 2.
    weights = np.arange(1.0, 13.0, dtype="float32").reshape(1, 3, 4, 1)
    (gradient,) = gradients(backend.max_pool, x, weights=weights)
    expected = [[1 + 2 + 5, 3, 4, 0], [9, 0, 0, 0], [0, 0, 6 + 7 + 8 + 10 + 11 + 12, 0]]
    np.testing.assert_array_equal(gradient[0, :, :, 0], expected)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 2), (3, 2, 1, 1), (2, 8, 8, 4)])
def test_max_pool_has_keras_gradient_also_where_pixels_are_equal(shape):
    def reference(x):
        return ops.max_pool(x, 3, strides=1, padding="same", data_format="channels_last")

    weights = numbers(*shape, seed=1)
    for x in (numbers(*shape), np.maximum(np.round(numbers(*shape)), 0)):
        ours, theirs = (gradients(function, x, weights=weights)[0] for function in (backend.max_pool, reference))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


# FactorizedReduction


@pytest.mark.parametrize(("filters", "filters_a"), [(6, None), (5, None), (5, 1), (3, 0), (3, 3)])
def test_factorized_reduction_equals_two_strided_paths(filters, filters_a):
    x = numbers(2, 6, 4, 3)
    layer = FactorizedReduction(filters, filters_a=filters_a)
    y = array(layer(x))
    kernel_a, kernel_b = array(layer.kernel_a)[0, 0], array(layer.kernel_b)[0, 0]
    assert kernel_a.shape[1] == ((filters + 1) // 2 if filters_a is None else filters_a)
    expected = np.concatenate([x[:, ::2, ::2] @ kernel_a, x[:, 1::2, 1::2] @ kernel_b], axis=-1)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_the_two_paths_of_a_reduction_start_different():
    layer = FactorizedReduction(6)
    layer.build((None, 4, 4, 3))
    assert (array(layer.kernel_a) != array(layer.kernel_b)).all()


def test_odd_maps_cannot_be_reduced():
    with pytest.raises(ValueError, match="must be even"):
        FactorizedReduction(4).build((None, 5, 4, 3))


# BatchNorm


def pair_of_norms(shape):
    """Ours and Keras's, with the same parameters and statistics."""
    ours = BatchNorm(name="ours")
    theirs = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="theirs")
    channels = shape[-1]
    values = [1 + 0.1 * numbers(channels), numbers(channels), numbers(channels), 1 + numbers(channels) ** 2]
    for layer in (ours, theirs):
        layer.build(shape)
        layer.set_weights(values)
    return ours, theirs


@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (1, 1, 2, 3), (8, 3), (4, 7, 3)])
def test_batch_norm_equals_keras_in_outputs_and_moving_statistics(shape):
    ours, theirs = pair_of_norms(shape)
    x = 3 * numbers(*shape, seed=5) + 2
    for training in (False, True, True, False):
        np.testing.assert_allclose(
            array(ours(x, training=training)), array(theirs(x, training=training)), rtol=1e-3, atol=2e-4
        )
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_moving_variance_follows_the_biased_variance():
    # 2 values, -1 and 1: biased variance 1, unbiased 2. From 1, with momentum 0.9, it stays 1 (or would become 1.1).
    layer = BatchNorm()
    layer(np.array([-1.0, 1.0], "float32").reshape(2, 1, 1, 1), training=True)
    np.testing.assert_allclose(array(layer.moving_variance), [1.0], atol=1e-6)


def test_batch_norm_has_keras_gradients():
    shape = (4, 5, 6, 3)
    kernels_after = []
    for norm in pair_of_norms(shape):
        conv = keras.layers.Conv2D(3, 1, kernel_initializer=keras.initializers.HeNormal(seed=1), name="conv")
        model = keras.Sequential([keras.Input(shape[1:]), conv, norm])
        model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
        model.train_on_batch(numbers(*shape, seed=2), numbers(*shape, seed=3))
        kernels_after.append([array(weight) for weight in model.trainable_weights])
    for ours, theirs in zip(*kernels_after, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_frozen_batch_norm_uses_and_keeps_its_moving_statistics():
    layer, _ = pair_of_norms((4, 5, 6, 3))
    x = numbers(4, 5, 6, 3)
    layer.trainable = False
    before = layer.get_weights()
    np.testing.assert_array_equal(array(layer(x, training=True)), array(layer(x, training=False)))
    for a, b in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_batch_statistics_at_inference_update_nothing():
    layer = BatchNorm(use_batch_statistics=True)
    x = 5 + numbers(4, 5, 6, 3)
    y = array(layer(x, training=False))
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_array_equal(array(layer.moving_mean), 0)
    np.testing.assert_array_equal(array(layer.moving_variance), 1)


def test_what_the_fast_path_cannot_do_is_left_to_keras():
    x = numbers(4, 5, 6, 3)
    ours, theirs = BatchNorm(axis=1, scale=False), keras.layers.BatchNormalization(axis=1, scale=False, epsilon=1e-5)
    np.testing.assert_allclose(array(ours(x, training=True)), array(theirs(x, training=True)), atol=1e-5)
    with pytest.raises(ValueError, match="use_batch_statistics"):
        BatchNorm(scale=False, use_batch_statistics=True)


# SmoothInit


@pytest.mark.parametrize("shape", [(3, 3, 16, 8), (5, 5, 8, 4), (3, 3, 64, 1)])
def test_smoothing_keeps_the_layers_variance_and_brings_neighbours_closer(shape):
    drawn = keras.initializers.HeNormal(seed=3)
    rough, smooth = array(drawn(shape)), array(SmoothInit(drawn)(shape))
    np.testing.assert_allclose(smooth.var(), rough.var(), rtol=1e-4)
    assert np.square(np.diff(smooth, axis=0)).mean() < 0.5 * np.square(np.diff(rough, axis=0)).mean()


def test_smoothing_is_the_binomial_gaussian_over_zero_padding():
    # A single 1 in the middle becomes [1 2 1; 2 4 2; 1 2 1] / 16; the scale is whatever restores the variance.
    impulse = np.zeros((3, 3, 1, 1), "float32")
    impulse[1, 1] = 1
    smooth = array(SmoothInit(lambda shape, dtype=None: ops.convert_to_tensor(impulse))((3, 3, 1, 1)))[..., 0, 0]
    np.testing.assert_allclose(smooth / smooth[0, 0], [[1, 2, 1], [2, 4, 2], [1, 2, 1]], rtol=1e-5)
    np.testing.assert_allclose(smooth.var(), impulse.var(), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_constant_kernel_is_left_as_drawn(value):
    kernel = array(SmoothInit(keras.initializers.Constant(value))((3, 3, 2, 2)))
    np.testing.assert_array_equal(kernel, np.full((3, 3, 2, 2), value, "float32"))


@pytest.mark.parametrize("shape", [(1, 1, 8, 4), (8, 4)])
def test_a_kernel_without_extent_is_left_as_drawn(shape):
    drawn = keras.initializers.HeNormal(seed=3)
    np.testing.assert_array_equal(array(SmoothInit(drawn)(shape)), array(drawn(shape)))


def test_smooth_init_survives_serialisation():
    initializer = SmoothInit(keras.initializers.HeNormal(seed=3))
    again = keras.initializers.deserialize(keras.initializers.serialize(initializer))
    np.testing.assert_array_equal(array(again((3, 3, 4, 4))), array(initializer((3, 3, 4, 4))))


# Compilation


def test_models_with_these_layers_resolve_auto_to_the_default_policy():
    model = keras.Sequential([keras.Input((4, 4, 2)), BatchNorm()])
    model.compile(loss="mse")
    assert model.jit_compile is (backend.default_jit_compile() == "auto")


# Kernels of our own against Keras's operations


def test_a_pointwise_convolution_has_the_values_and_gradients_of_keras():
    def reference(x, kernel):
        return ops.conv(x, kernel, strides=1, padding="valid", data_format="channels_last")

    x, kernel, weights = numbers(3, 4, 5, 2), numbers(1, 1, 2, 6, seed=1), numbers(3, 4, 5, 6, seed=2)
    np.testing.assert_allclose(array(backend.pointwise(x, kernel)), x @ kernel[0, 0], atol=1e-5)
    ours, theirs = (gradients(f, x, kernel, weights=weights) for f in (backend.pointwise, reference))
    for mine, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-4)


@pytest.mark.parametrize("widths", [(3, 3), (1, 4), (0, 2)])
def test_a_reduction_has_the_gradients_of_its_two_paths(widths):
    def reference(x, a, b):
        return ops.concatenate([ops.matmul(x[:, ::2, ::2], a[0, 0]), ops.matmul(x[:, 1::2, 1::2], b[0, 0])], axis=-1)

    arrays = [numbers(2, 6, 4, 3), *(numbers(1, 1, 3, width, seed=width) for width in widths)]
    weights = numbers(2, 3, 2, sum(widths), seed=9)
    ours, theirs = (gradients(f, *arrays, weights=weights) for f in (backend.factorized_reduction, reference))
    for mine, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-5)


@pytest.mark.parametrize("bit", [0, 1])
def test_a_skip_is_added_and_gets_its_gradient_where_its_bit_is_set(bit):
    x, other, weights = (numbers(2, 3, 3, 2, seed=seed) for seed in range(3))

    def join(x, other):
        return backend.add_where(ops.convert_to_tensor(bit, dtype="int32"), x, other)

    np.testing.assert_array_equal(array(join(ops.convert_to_tensor(x), ops.convert_to_tensor(other))), x + bit * other)
    to_x, to_other = gradients(join, x, other, weights=weights)
    np.testing.assert_allclose(to_x, weights, atol=1e-6)
    np.testing.assert_allclose(to_other, bit * weights, atol=1e-6)
