"""Keras models compiled: each layer type, random networks, threads, errors."""

import concurrent.futures
import os
import pickle
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from keras import layers

import nhn_tf.sparse
from nhn_tf.layers import BatchNorm, FactorizedReduction, GroupedGlobalPool, MaskedConv2D
from nhn_tf.models import network
from nhn_tf.pruning.channels import ELEMENTWISE
from nhn_tf.sparse import runtime
from nhn_tf.sparse.native import machine
from nhn_tf.sparse.plan import dtypes
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.masks import Masks
from nhn_tf.values.space import Space

llvmlite = pytest.importorskip("llvmlite", reason="the sparse runtime makes its kernels with llvmlite")

TOLERANCE = 1e-5


def randomize(model, seed=0):
    """Weights and statistics that are not at their special initial values."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.name == "mask" or "seed" in variable.path:
            continue
        value = rng.standard_normal(variable.shape)
        if variable.name == "moving_variance":
            value = rng.uniform(0.5, 2, variable.shape)
        elif "kernel" in variable.name:
            value = value / np.sqrt(np.prod(variable.shape[:-1]))
        variable.assign(value)


def agree(model, *, batch=2, seed=0, **options):
    """Compares a model with its compiled form; returns that."""
    runtime = nhn_tf.sparse.compile(model, **options)
    rng = np.random.default_rng(seed)
    images = [rng.standard_normal((batch, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs]
    expected = model(images if len(images) > 1 else images[0], training=False)
    results = runtime(*images)
    if not isinstance(expected, (list, tuple)):
        expected, results = [expected], [results]
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, keras.ops.convert_to_numpy(wanted), atol=TOLERANCE)
    return runtime


def masked(filters, size, density, **options):
    """A function that applies a MaskedConv2D with random masks."""

    def apply(x):
        layer = MaskedConv2D(filters, size, padding="same", **options)
        y = layer(x)
        layer.set_mask(np.random.default_rng(filters).random(layer.mask.shape) < density)
        return y

    return apply


ALL_LAYERS = {
    "conv_same": layers.Conv2D(7, 3, padding="same", activation="relu"),
    "conv_valid_stride": layers.Conv2D(5, 5, strides=2, activation="leaky_relu"),
    "conv_same_stride": layers.Conv2D(5, 3, strides=2, padding="same", use_bias=False),
    "conv_rectangular": layers.Conv2D(5, (1, 7), padding="same", strides=(2, 1)),
    "conv_dilated": layers.Conv2D(5, 3, padding="same", dilation_rate=(2, 1)),
    "conv_dilated_valid": layers.Conv2D(5, 3, dilation_rate=2, activation=layers.LeakyReLU(0.1)),
    "depthwise_dilated": layers.DepthwiseConv2D(3, padding="same", dilation_rate=2),
    "prelu": layers.PReLU(shared_axes=[1, 2]),
    "rescaling": layers.Rescaling(0.5, offset=[0.1, 0.2, 0.3, 0.4]),
    "normalization": layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 3.0, 4.0]),
    "normalization_back": layers.Normalization(mean=0.5, variance=4.0, invert=True),
    "resizing_to_itself": layers.Resizing(10, 8),
    "augmentation": layers.RandomFlip("horizontal"),
    "noise": layers.GaussianNoise(0.5),
    "conv_groups": layers.Conv2D(8, 3, padding="same", groups=2),
    "conv_even": layers.Conv2D(3, 4, padding="same", activation="tanh"),
    "masked": masked(9, 3, 0.4),
    "depthwise": layers.DepthwiseConv2D(5, padding="same", depth_multiplier=2, activation="relu6"),
    "depthwise_stride": layers.DepthwiseConv2D(3, padding="same", strides=2),
    "separable": layers.SeparableConv2D(6, 3, padding="same", activation="silu"),
    "reduction": FactorizedReduction(7),
    "reduction_one_path": FactorizedReduction(5, filters_a=5),
    "norm": layers.BatchNormalization(),
    "fast_norm": BatchNorm(center=True, scale=False),
    "average_same": layers.AveragePooling2D(3, strides=1, padding="same"),
    "average_stride": layers.AveragePooling2D(3, strides=2, padding="same"),
    "average_valid": layers.AveragePooling2D(2),
    "max_same": layers.MaxPooling2D(3, strides=1, padding="same"),
    "max_stride": layers.MaxPooling2D(3, strides=2, padding="same"),
    "max_valid": layers.MaxPooling2D((3, 2), strides=(1, 2)),
    "global_average": layers.GlobalAveragePooling2D(),
    "global_average_kept": layers.GlobalAveragePooling2D(keepdims=True),
    "global_max": layers.GlobalMaxPooling2D(),
    "grouped_pool": GroupedGlobalPool(),
    "flatten": layers.Flatten(),
    "reshape": layers.Reshape((-1,)),
    "pixel_dense": layers.Dense(5, activation="elu"),
    "padding": layers.ZeroPadding2D(((1, 2), (0, 3))),
    "cropping": layers.Cropping2D(((1, 2), (0, 3))),
    "upsampling": layers.UpSampling2D((2, 1)),
    "relu": layers.ReLU(),
    "relu_slope": layers.ReLU(negative_slope=0.3),
    "relu6": layers.ReLU(max_value=6),
    "leaky_relu": layers.LeakyReLU(negative_slope=0.1),
    "elu": layers.ELU(alpha=0.7),
    "sigmoid": layers.Activation("sigmoid"),
    "dropout": layers.Dropout(0.5),
    "spatial_dropout": layers.SpatialDropout2D(0.5),
    "identity": layers.Identity(),
}


@pytest.mark.parametrize("name", ALL_LAYERS)
def test_a_layer_computes_what_it_does_in_keras(name):
    images = keras.Input((10, 8, 4))
    layer = ALL_LAYERS[name]
    clone = layer if name == "masked" else type(layer).from_config(layer.get_config())
    model = keras.Model(images, clone(images))
    randomize(model)
    agree(model)


def each_agrees(size, functions):
    """One model with an output for each function of its images."""
    images = keras.Input(size)
    model = keras.Model(images, [function(images) for function in functions])
    randomize(model)
    return agree(model)


def test_every_activation_of_keras_that_treats_elements_alone_is_compiled():
    names = sorted(function.__name__ for function in ELEMENTWISE if function is not keras.activations.threshold)
    functions = [layers.Activation(name) for name in names]
    functions += [lambda x: keras.ops.gelu(x), lambda x: keras.ops.leaky_relu(x, 0.4), lambda x: keras.ops.elu(x, 0.4)]
    functions += [layers.ReLU(max_value=0.5, negative_slope=0.3), layers.ReLU(threshold=0.3), layers.ReLU(6, 0.2, 0.4)]
    functions += [layers.ReLU(max_value=3.5), lambda x: -keras.ops.square(keras.ops.abs(x))]
    each_agrees((5, 7, 3), functions)


@pytest.mark.jax_slow
def test_transposed_convolutions_are_keras():
    made = [
        layers.Conv2DTranspose(5, size, strides=strides, padding=padding, activation="relu")
        for strides, size in ((1, 3), (2, 2), (2, 3), (2, 4), (3, 2), (3, 5), ((2, 1), (3, 4)))
        for padding in ("same", "valid")
    ]
    made.append(layers.Conv2DTranspose(2, 3, strides=2, padding="same", output_padding=1))
    made.append(layers.Conv2DTranspose(2, 4, strides=2, output_padding=1, use_bias=False))
    each_agrees((6, 5, 3), made)


def test_values_of_several_shapes_are_combined_as_in_keras():
    def pooled(x, **options):
        return layers.GlobalAveragePooling2D(**options)(x)

    each_agrees(
        (6, 5, 4),
        [
            lambda x: layers.Multiply()([x, layers.Conv2D(4, 1)(x), pooled(x, keepdims=True)]),
            lambda x: layers.Multiply()([pooled(x), x]),
            lambda x: layers.Add()([x, layers.Conv2D(1, 1)(x)]),
            lambda x: layers.Average()([x, pooled(x)]),
            lambda x: layers.Maximum()([x, layers.Conv2D(4, 1)(x), pooled(x)]),
            lambda x: keras.ops.minimum(x, layers.Conv2D(4, 1)(x)),
            lambda x: keras.ops.maximum(keras.ops.minimum(x, 0.5), -0.25),
            lambda x: pooled(x, keepdims=True) - x,
            lambda x: x / (keras.ops.abs(layers.Conv2D(4, 1)(x)) + 1.5),
            lambda x: 2 / (keras.ops.abs(x) + 1.5),
            lambda x: x * np.float32([1, 2, 3, 4]) + np.float32([4, 3, 2, 1]),
            lambda x: layers.Multiply()([pooled(x), layers.Dense(1)(pooled(x))]),
        ],
    )


def test_images_are_normalised_by_their_own_statistics_as_in_keras():
    of_maps = [
        layers.LayerNormalization(), layers.LayerNormalization(axis=[1, 2, 3]), layers.LayerNormalization(scale=False),
        layers.RMSNormalization(), layers.UnitNormalization(), layers.GroupNormalization(2),
        layers.GroupNormalization(-1, center=False), layers.PReLU(), layers.PReLU(shared_axes=[1]), layers.Softmax(),
    ]  # fmt: skip
    of_vectors = [layers.LayerNormalization(), layers.GroupNormalization(5), layers.UnitNormalization()]
    each_agrees((7, 5, 4), [*of_maps, *(lambda x, norm=norm: norm(layers.Flatten()(x)) for norm in of_vectors)])


@pytest.mark.jax_slow
def test_pixels_are_rearranged_and_resized_as_in_keras():
    each_agrees(
        (10, 8, 4),
        [
            layers.Permute((2, 1, 3)), layers.Permute((1, 2, 3)), layers.Reshape((20, 4, 4)),
            layers.Reshape((5, -1, 2)), lambda x: layers.Reshape((2, 8, 20))(layers.Flatten()(x)),
            layers.Resizing(7, 13), layers.Resizing(20, 5), layers.Resizing(3, 3, antialias=True),
            layers.Resizing(15, 12, "nearest", crop_to_aspect_ratio=True),
            layers.UpSampling2D(2, interpolation="bilinear"), layers.UpSampling2D((3, 1), interpolation="bicubic"),
        ],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "pad", "after", "folded"),
    [
        ([], 1, layers.Conv2D(5, 3), True),
        ([], ((0, 1), (0, 1)), layers.DepthwiseConv2D(3, strides=2), True),
        ([], 3, layers.Conv2D(5, 7, strides=2, activation="relu"), True),
        ([layers.ReLU()], 1, layers.MaxPooling2D(3, strides=2), True),
        ([], 1, layers.MaxPooling2D(3, strides=2), False),  # Of negative numbers, the padding's 0 is the largest.
        ([layers.ReLU()], 1, layers.AveragePooling2D(3, strides=2), False),  # Zeros count.
        ([], 2, layers.Conv2D(5, 2), False),  # The first window lies in the padding.
    ],
)
def test_padding_becomes_part_of_what_slides_over_it(before, pad, after, folded):
    x = images = keras.Input((10, 9, 3))
    for layer in [layers.Conv2D(4, 1), *before, layers.ZeroPadding2D(pad), after]:
        x = type(layer).from_config(layer.get_config())(x)
    model = keras.Model(images, x)
    randomize(model)
    kinds = [type(op).__name__ for op in agree(model).program.ops]
    assert ("Pad" not in kinds) == folded


def test_padding_that_others_read_too_stays():
    images = keras.Input((8, 8, 3))
    x = layers.ZeroPadding2D(1)(layers.Conv2D(4, 1)(images))
    agree(keras.Model(images, [layers.Conv2D(2, 3)(x), x]))


def test_vectors_go_through_concatenation_norm_dense_and_softmax():
    images = keras.Input((6, 6, 3))
    pooled = [layers.GlobalAveragePooling2D()(images), layers.GlobalMaxPooling2D()(images)]
    x = layers.BatchNormalization()(layers.Concatenate()(pooled))
    x = layers.Add()([layers.Dense(6, activation="relu")(x), x])
    x = layers.Dense(70)(x)
    x = layers.Reshape((1, 1, 70))(x)
    x = layers.Flatten()(layers.Conv2D(33, 1)(x))
    model = keras.Model(images, layers.Dense(10, activation="softmax")(x))
    randomize(model)
    agree(model)


SUMS = {
    "average": lambda x, y: layers.Average()([x, y, x]),
    "maximum": lambda x, y: layers.Maximum()([x, y]),
    "minimum": lambda x, y: keras.ops.minimum(x, y),
    "subtract": lambda x, y: layers.Subtract()([x, y]),
    "arithmetic": lambda x, y: (3.0 - x * 2) / 4 + (y - 1.5) - x,
    "functions": lambda x, y: keras.ops.sigmoid(x) + keras.ops.tanh(keras.ops.relu6(y)),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_and_bare_operations_are_compiled(name):
    images = keras.Input((6, 6, 3))
    x, y = layers.Conv2D(4, 3)(images), layers.Conv2D(4, 3)(images)
    model = keras.Model(images, layers.Conv2D(2, 1)(SUMS[name](x, y)))
    randomize(model)
    agree(model)


@pytest.mark.parametrize(
    "odd",
    [lambda x, y: keras.ops.erf(x) + y, lambda x, y: x * np.ones((4, 4, 4)) + y],
    ids=["erf", "array"],
)
def test_operations_that_are_not_known_are_refused(odd):
    images = keras.Input((6, 6, 3))
    model = keras.Model(images, odd(layers.Conv2D(4, 3)(images), layers.Conv2D(4, 3)(images)))
    with pytest.raises(nhn_tf.sparse.UnsupportedLayerError, match="is not supported"):
        nhn_tf.sparse.compile(model)


def test_models_within_and_shared_layers_are_compiled():
    tower = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3, activation="relu")])
    left, right = keras.Input((6, 8, 3)), keras.Input((6, 8, 3))
    model = keras.Model([left, right], layers.Dense(2)(layers.Flatten()(tower(left) - tower(right))))
    randomize(model)
    agree(model)


def test_a_model_of_open_sizes_is_compiled_for_the_size_first_seen(tmp_path):
    images = keras.Input((None, None, 3))
    x = layers.Lambda(lambda x: x + 1)(layers.Conv2D(4, 3, padding="same", strides=2)(images))
    for model in (keras.Model(images, x), keras.Model(images, layers.Conv2D(2, 1)(images))):
        compiled = nhn_tf.sparse.compile(model, fallback="keras")
        assert compiled.input_shapes == ((None, None, 3),)
        with pytest.raises(ValueError, match="would hold no size"):
            compiled.save(tmp_path / "net.nhn")
        with pytest.raises(ValueError, match=r"must have the shape \[B, None, None, 3\]. Received: \(8, 8, 1\)"):
            compiled(np.zeros((1, 8, 8, 1)))
        batch = np.random.default_rng(0).normal(size=(2, 9, 6, 3)).astype("float32")
        np.testing.assert_allclose(compiled(batch), keras.ops.convert_to_numpy(model(batch)), atol=TOLERANCE)
        assert compiled.input_shapes[0][:2] == (9, 6)
    plain = nhn_tf.sparse.compile(keras.Model(images, layers.Conv2D(2, 3)(images)))
    plain(batch)
    plain.save(tmp_path / "net.nhn")
    np.testing.assert_array_equal(nhn_tf.sparse.load(tmp_path / "net.nhn")(batch), plain(batch))
    with pytest.raises(ValueError, match=r"must have the shape \[B, 9, 6, 3\]"):
        plain(np.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize("layer", [layers.BatchNormalization(name="odd"), layers.Dropout(0.5, name="odd")])
def test_what_is_called_as_in_training_is_refused(layer):
    images = keras.Input((6, 6, 3))
    model = keras.Model(images, layer(images, training=True))
    with pytest.raises(nhn_tf.sparse.UnsupportedLayerError, match="'odd' .* called with training=True"):
        nhn_tf.sparse.compile(model)


def test_layers_that_keras_computes_do_not_train():
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(layers.RandomErasing(1.0, name="erasing")(layers.Dropout(0.5)(images)))
    assert agree(keras.Model(images, x), fallback="keras").keras_layers == ("erasing",)


def test_a_runtime_that_answers_otherwise_is_not_handed_out(monkeypatch):
    images = keras.Input((6, 6, 3))
    model = keras.Model(images, layers.Conv2D(4, 3, name="conv")(images))
    right = runtime.SparseRuntime.__call__
    monkeypatch.setattr(runtime.SparseRuntime, "__call__", lambda self, *images, **how: 1.01 * right(self, *images))
    with pytest.raises(ValueError, match="the compiled network must answer"):
        nhn_tf.sparse.compile(model)
    assert nhn_tf.sparse.compile(model, check=False)


def test_several_inputs_and_outputs_keep_their_order():
    first, second = keras.Input((6, 6, 3)), keras.Input((6, 6, 2))
    x = layers.Concatenate()([second, first])
    y = layers.Conv2D(4, 3, padding="same")(x)
    model = keras.Model([first, second], [layers.GlobalAveragePooling2D()(y), y, x])
    agree(model)


def test_a_relu_that_others_read_too_is_not_fused_away():
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same")(images)
    y = layers.ReLU()(x)
    z = layers.Conv2D(5, 1)(y)
    w = layers.Conv2D(5, 3, padding="same")(y)
    model = keras.Model(images, [layers.Concatenate()([z, w]), layers.GlobalAveragePooling2D()(x)])
    agree(model)


def test_two_linear_pointwise_convolutions_become_one_where_that_saves_work():
    images = keras.Input((8, 8, 12))
    x = BatchNorm()(layers.Conv2D(16, 1, use_bias=False)(layers.ReLU()(images)))
    model = keras.Model(images, BatchNorm()(FactorizedReduction(20)(x)))
    randomize(model)
    runtime = agree(model)
    assert len(runtime.plan.decisions) == 2  # Both paths of the reduction, straight from the images.
    bottleneck = keras.Model(images, layers.Conv2D(12, 1)(layers.Conv2D(2, 1)(images)))
    assert len(agree(bottleneck).plan.decisions) == 2


def nhn(seed=0, *, filters=12, density=0.15, side=16, classes=10):
    """A small network of our own, pruned at random."""
    rng = np.random.default_rng(seed)
    space = Space(num_layers=6)
    genotype = Genotype.from_genes(space, space.sample(rng)[0])
    model = network.build(genotype, input_shape=(side, side, 3), num_classes=classes, form=Form(filters=filters))
    masks = {
        layer.name: rng.random(tuple(layer.mask.shape)) < density
        for layer in model.layers
        if isinstance(layer, MaskedConv2D)
    }
    model = network.build(
        Genotype(genotype.space, genotype.ops, genotype.skips, masks=Masks(masks)),
        input_shape=(side, side, 3), num_classes=classes, form=Form(filters=filters),
    )  # fmt: skip
    randomize(model, seed)
    for layer in model.layers:
        if isinstance(layer, MaskedConv2D):
            layer.set_mask(masks[layer.name])
    return model


@pytest.fixture(scope="module")
def compiled():
    """A pruned network as native code."""
    return nhn_tf.sparse.compile(nhn(), threads=1)


@pytest.mark.parametrize("seed", range(3))
def test_a_pruned_nhn_computes_what_it_does_in_keras(seed):
    agree(nhn(seed, filters=(7, 12, 16)[seed], side=(16, 24, 12)[seed]), batch=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_many_pruned_nhns_compute_what_they_do_in_keras(seed):
    rng = np.random.default_rng(seed)
    model = nhn(
        seed, filters=int(rng.integers(2, 40)), density=float(rng.choice([0, 0.1, 0.5, 1])),
        side=4 * int(rng.integers(1, 9)), classes=int(rng.integers(1, 40)),
    )  # fmt: skip
    agree(model, batch=int(rng.integers(1, 6)))


def test_neither_threads_nor_the_batch_change_a_bit(compiled):
    images = np.random.default_rng(1).standard_normal((7, 16, 16, 3)).astype(np.float32)
    expected = compiled(images)
    for threads in (2, 3, 9):
        np.testing.assert_array_equal(compiled(images, threads=threads), expected)
    for i in range(7):
        np.testing.assert_array_equal(compiled(images[i : i + 1])[0], expected[i])
    assert compiled(images[:0]).shape == (0, 10)
    np.testing.assert_array_equal(compiled(images[::-1].astype(np.float64))[::-1], expected)


def test_a_thread_that_never_starts_holds_nobody_up(compiled):
    images = np.random.default_rng(3).standard_normal((5, 16, 16, 3)).astype(np.float32)
    expected = compiled(images)
    release = threading.Event()
    timer = threading.Timer(30, release.set)  # So that a failure does not hang.
    timer.start()
    others = [runtime._pool(2).submit(release.wait) for _ in range(2)]
    try:
        np.testing.assert_array_equal(compiled(images, threads=2), expected)
        assert not release.is_set()
    finally:
        release.set()
        timer.cancel()
        concurrent.futures.wait(others)


def test_callers_in_several_threads_do_not_disturb_each_other(compiled):
    images = np.random.default_rng(2).standard_normal((24, 16, 16, 3)).astype(np.float32)
    expected = compiled(images)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda i: compiled(images[i : i + 2], threads=2), range(22))
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result, expected[i : i + 2])


def test_a_saved_network_is_the_same_network(compiled, tmp_path):
    runtime = compiled
    images = np.random.default_rng(1).standard_normal((2, 16, 16, 3)).astype(np.float32)
    runtime.save(tmp_path / "net.nhn")
    np.testing.assert_array_equal(nhn_tf.sparse.load(tmp_path / "net.nhn")(images), runtime(images))
    runtime.save(tmp_path / "half.nhn", dtype="float16")
    half = nhn_tf.sparse.load(tmp_path / "half.nhn")(images)
    assert 0 < np.abs(half - runtime(images)).max() < 0.05 * np.abs(half).max()


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.Conv2D(3, 3, dilation_rate=8, name="odd"), "`window` must be two numbers in 1..15"),
        (layers.Resizing(10, 15, crop_to_aspect_ratio=True, name="odd"), "it must neither crop nor pad"),
        (layers.Conv2D(3, 17, padding="same", name="odd"), "`window` must be two numbers in 1..15"),
        (layers.Activation(keras.ops.sin, name="odd"), "its activation 'sin' is unknown"),
        (layers.ReLU(max_value=0, name="odd"), "a ReLU's maximum must be above 0"),
        (layers.LayerNormalization(axis=1, name="odd"), "it must normalise over the channels, or over all axes"),
        (layers.GroupNormalization(2, axis=1, name="odd"), "its axis must be the channels"),
        (layers.Lambda(lambda x: x + 1, name="odd"), "its type is unknown. Known layers: "),
        (layers.BatchNormalization(axis=1, name="odd"), "its axis must be the channels"),
        (BatchNorm(use_batch_statistics=True, name="odd"), "it must normalise by its moving statistics"),
        (layers.Permute((3, 2, 1), name="odd"), "channels must stay the last axis"),
    ],
)
def test_an_unsupported_layer_is_named_and_keras_can_take_it(layer, reason):
    images = keras.Input((20, 20, 3))
    x = layer(layers.Conv2D(4, 3, padding="same", activation="relu")(images))
    x = layers.ReLU()(layers.Conv2D(4, 1)(x))
    model = keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(ValueError, match=f"layer 'odd' .* is not supported by the sparse runtime: {reason}"):
        nhn_tf.sparse.compile(model)
    runtime = agree(model, fallback="keras")
    assert runtime.keras_layers == ("odd",)
    with pytest.raises(ValueError, match="cannot hold the layers that Keras computes: odd"):
        runtime.save("net.nhn")


def test_branches_cross_between_keras_and_native_parts():
    images = keras.Input((8, 8, 4))
    a = layers.Conv2D(4, 3, padding="same")(images)
    b = layers.LayerNormalization(axis=1, name="norm1")(images)
    c = layers.Concatenate()([a, b])
    d = layers.LayerNormalization(axis=1, name="norm2")(layers.Conv2D(8, 1)(c))
    model = keras.Model(images, [layers.Add()([c, d]), b])
    assert agree(model, fallback="keras").keras_layers == ("norm1", "norm2")


def test_keras_computes_operations_of_several_tensors():
    images = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="x")(images)
    y = layers.Conv2D(4, 1, name="y")(images)
    gated = keras.ops.multiply(x + y, keras.ops.sigmoid(y))
    attended = layers.MultiHeadAttention(1, 4, name="attention")(gated, x)
    model = keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(attended)))
    with pytest.raises(nhn_tf.sparse.UnsupportedLayerError, match="layer 'attention' .* its type is unknown"):
        nhn_tf.sparse.compile(model)
    runtime = agree(model, fallback="keras")
    assert "attention" in runtime.keras_layers
    assert (runtime.input_shapes, runtime.output_shapes) == (((8, 8, 4),), ((3,),))


def test_text_and_large_identifiers_reach_kerass_layers_as_they_are():
    images = keras.Input((8, 8, 3))
    word, number = keras.Input((1,), dtype="string", name="word"), keras.Input((1,), dtype="int32")
    words = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot", name="words")
    numbers = layers.IntegerLookup(vocabulary=[2**24, 2**24 + 1], output_mode="one_hot", name="numbers")
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(images))
    model = keras.Model([images, word, number], layers.Concatenate()([pooled, words(word), numbers(number)]))
    runtime = nhn_tf.sparse.compile(model, fallback="keras")
    assert set(runtime.keras_layers) == {"word", "words", "numbers"}
    zeros = np.zeros((2, 8, 8, 3), np.float32)
    found = runtime(zeros, np.array([["b"], ["?"]], object), np.array([[2**24 + 1], [7]], np.int32))
    np.testing.assert_array_equal(found[:, 4:], [[0, 0, 1, 0, 0, 1], [1, 0, 0, 1, 0, 0]])


def test_whole_numbers_wrap_around_as_in_keras():
    images = keras.Input((4, 4, 2), dtype="uint8")
    shifted = layers.Rescaling(1.0)(images - 100)
    model = keras.Model(images, layers.Conv2D(1, 1, kernel_initializer="ones")(shifted))
    with pytest.raises(ValueError, match="it must compute with floating point numbers. Received: uint8"):
        nhn_tf.sparse.compile(model)
    found = nhn_tf.sparse.compile(model, fallback="keras")(np.full((1, 4, 4, 2), 90, np.uint8))
    np.testing.assert_array_equal(found, np.full((1, 4, 4, 1), 2.0 * 246))


def test_maps_beyond_the_limits_are_kerass():
    images = keras.Input((1100, 16, 1))
    small = layers.AveragePooling2D((110, 1))(images)
    model = keras.Model(images, layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(small)))
    with pytest.raises(
        nhn_tf.sparse.UnsupportedLayerError, match=r"must be within .*\. Received: \(1100, 16, 1\)\. Rep"
    ):
        nhn_tf.sparse.compile(model)
    agree(model, fallback="keras")


def test_fallback_is_not_used_where_nothing_needs_it():
    images = keras.Input((4, 4, 2))
    model = keras.Model(images, layers.ReLU()(images))
    assert isinstance(nhn_tf.sparse.compile(model, fallback="keras"), nhn_tf.sparse.SparseRuntime)
    with pytest.raises(ValueError, match=r'`fallback` must be None or "keras"'):
        nhn_tf.sparse.compile(model, fallback="torch")
    with pytest.raises(ValueError, match="`threads` must be a positive whole number"):
        nhn_tf.sparse.compile(model, threads=0)


def test_images_of_another_shape_are_refused(compiled):
    runtime = compiled
    with pytest.raises(ValueError, match=r"must have the shape \[B, 16, 16, 3\]. Received: \(1, 3, 16, 16\)"):
        runtime(np.zeros((1, 3, 16, 16)))
    with pytest.raises(ValueError, match="Received: none"):
        runtime()
    with pytest.raises(ValueError, match=r"Received: \(\)"):
        runtime(np.float32(1))
    with pytest.raises(ValueError, match="must be real numbers. Received: complex128"):
        runtime(np.zeros((1, 16, 16, 3), complex))
    for threads in (0, -3, 2.5):
        with pytest.raises(ValueError, match="`threads` must be a positive whole number"):
            runtime(np.zeros((1, 16, 16, 3)), threads=threads)


def test_images_of_any_type_and_order_are_read(compiled):
    images = np.random.default_rng(0).standard_normal((3, 16, 16, 3)).astype(np.float32)
    expected = compiled(images)
    others = [
        images.astype(float),
        images.astype(">f4"),
        np.asfortranarray(images),
        images[::-1][::-1],
        images.tolist(),
    ]
    assert all(np.array_equal(compiled(other), expected) for other in others)


@pytest.mark.skipif(not machine.has_pairs(), reason="the processor has no instructions for bfloat16")
@pytest.mark.parametrize("side", [16, None])
@pytest.mark.parametrize("fallback", [None, "keras"])
def test_models_compute_in_bfloat16_also_of_open_sizes_and_beside_keras(side, fallback, monkeypatch):
    monkeypatch.setattr(dtypes, "CONVERSION", 0.0)  # So few channels would be as fast in float32.
    images = keras.Input((side, side, 3))
    x = layers.ReLU()(layers.BatchNormalization()(masked(12, 3, 1.0)(images)))
    x = layers.Add()([masked(12, 5, 0.3)(x), layers.DepthwiseConv2D(3, padding="same")(x)])
    x = layers.Concatenate()([layers.Conv2D(8, 1, strides=2)(x), layers.MaxPooling2D(2)(x)])
    if fallback:
        x = layers.Lambda(lambda y: y * 2)(x)
    model = keras.Model(images, layers.Dense(5)(layers.GlobalAveragePooling2D()(masked(10, 3, 0.5)(x))))
    randomize(model)
    runtime = nhn_tf.sparse.compile(model, dtype="bfloat16", fallback=fallback)
    values = np.random.default_rng(0).standard_normal((3, 16, 16, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(model(values, training=False))
    off = np.abs(runtime(values) - expected).max() / np.abs(expected).max()
    assert 1e-5 < off < 0.03  # Rounded, and no more than that.


def test_inputs_of_unequal_batches_are_refused():
    a, b = keras.Input((2,)), keras.Input((3,))
    runtime = nhn_tf.sparse.compile(keras.Model([a, b], layers.Dense(2)(layers.Concatenate()([a, b]))))
    with pytest.raises(ValueError, match=r"as many images. Received: \(1, 2\), \(2, 3\)"):
        runtime(np.zeros((1, 2)), np.zeros((2, 3)))


def test_a_pickled_network_is_the_same_network(compiled):
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    again = pickle.loads(pickle.dumps(compiled))
    assert again.threads == compiled.threads
    np.testing.assert_array_equal(again(images), compiled(images))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_computes_in_memory_of_its_own(tmp_path):
    """Arenas so large that they are mapped; both sides compute at the same time."""
    images = keras.Input((64, 64, 3))
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(images)
    x = layers.Conv2D(32, 3, padding="same")(x)
    nhn_tf.sparse.compile(keras.Model(images, layers.GlobalAveragePooling2D()(x))).save(tmp_path / "net.nhn")
    script = """
import os, sys, time, warnings
import numpy as np
from nhn_tf.sparse import load
runtime = load(sys.argv[1])
assert 4 * runtime.plan.arena > 2**20
images = np.random.default_rng(0).standard_normal((64, *runtime.input_shapes[0])).astype(np.float32)
def numbers(i):
    return runtime(images[i:i + 1], threads=1).tobytes()
expected = [numbers(i) for i in range(64)]
warnings.simplefilter("ignore")
child = os.fork()
order = list(range(64)) if child else list(range(63, -1, -1))
deadline = time.monotonic() + 1.5
wrong = 0
while time.monotonic() < deadline:
    wrong += sum(numbers(i) != expected[i] for i in order)
if not child:
    os._exit(min(wrong, 100))
print(wrong, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-c", script, str(tmp_path / "net.nhn")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.split() == ["0", "0"]


def test_without_llvmlite_everything_imports_and_compile_says_what_to_install():
    script = """
import sys
sys.modules["llvmlite"] = None
import nhn_tf, nhn_tf.sparse
try:
    nhn_tf.sparse.compile(None)
except nhn_tf.sparse.MissingLLVMError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 'pip install ".[sparse]"' in run.stdout
