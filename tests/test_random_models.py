"""Random functional graphs of the whole table of layers: pruned, compacted and compiled they compute the same."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from nhn_tf import pruning, sparse
from nhn_tf.models import agreement, keras_graph
from nhn_tf.pruning.channels import ELEMENTWISE
from nhn_tf.pruning.rules import RULES
from nhn_tf.pruning.rules import UNARY as UNARY_OPERATIONS
from nhn_tf.sparse.program.from_keras import READERS

# Layers at which compaction ends are part of the graphs, and few of so few channels may stay.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

TOLERANCE = 1e-5
OPEN = (10, 7)
"""Of the images, where a network takes any size."""


class SameConv(layers.Conv2D):
    """A subclass in name and arguments only."""

    def __init__(self, filters, size, **options):
        super().__init__(filters, size, **{"padding": "same", **options})


def conv(rng, **options):
    size = [(3, 3), (1, 1), (5, 5), (1, 7)][rng.integers(4)]
    activation = [None, "relu", "gelu", "tanh", layers.LeakyReLU(0.1), "hard_silu"][rng.integers(6)]
    how = {"padding": "same", "use_bias": bool(rng.integers(2)), "activation": activation, **options}
    return [layers.Conv2D, SameConv][rng.integers(2)](int(rng.choice([4, 6, 8])), size, **how)


ACTIVATIONS = {function.__name__ for function in ELEMENTWISE} - {"exponential", "threshold"}


BARE = [function for function in UNARY_OPERATIONS if function not in (keras.ops.exp, keras.ops.square)]


def squeeze_excite(x):
    pooled = layers.Dense(4, activation="relu")(layers.GlobalAveragePooling2D()(x))
    return layers.Multiply()([x, layers.Dense(x.shape[-1], activation="sigmoid")(pooled)])


def turned_aside(x):
    turn = layers.Permute((2, 1, 3))
    return turn(layers.Conv2D(6, (1, 3), padding="same")(turn(x)))


def model_within(rng):
    """A residual block as a model of its own, with a Sequential in it, called as transfer learning does."""

    def apply(x):
        inputs = keras.Input(x.shape[1:])
        branch = keras.Sequential([layers.Conv2D(x.shape[-1], 3, padding="same"), layers.BatchNormalization()])
        block = keras.Model(inputs, layers.Add()([inputs, branch(inputs)]))
        return block(x, training=False)

    return apply


PREPROCESSING = (
    layers.Identity,
    lambda: layers.Rescaling(1 / 2, offset=-1),
    lambda: layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 3.0, 4.0]),
    lambda: layers.RandomFlip("horizontal"),
    lambda: layers.RandomRotation(0.1),
    lambda: layers.Resizing(8, 8),
)
"""What stands first; the images are 8x8, and for `Resizing` 12x10."""

UNARY = (
    conv,
    conv,
    conv,
    lambda rng: conv(rng, dilation_rate=2),
    lambda rng: layers.Conv2D(8, 3, padding="same", groups=2),
    lambda rng: layers.Conv2DTranspose(6, 3, padding="same", use_bias=bool(rng.integers(2))),
    lambda rng: lambda x: layers.MaxPooling2D(2)(layers.Conv2DTranspose(6, int(rng.integers(1, 4)), strides=2)(x)),
    lambda rng: layers.DepthwiseConv2D(3, padding="same", depth_multiplier=int(rng.integers(1, 3))),
    lambda rng: layers.SeparableConv2D(6, 3, padding="same"),
    lambda rng: layers.Dense(6, activation="relu"),
    lambda rng: layers.BatchNormalization(center=bool(rng.integers(2))),
    lambda rng: layers.BatchNormalization(),
    lambda rng: layers.LayerNormalization(scale=bool(rng.integers(2))),
    lambda rng: [layers.UnitNormalization(), layers.RMSNormalization()][rng.integers(2)],
    lambda rng: layers.GroupNormalization(2),
    lambda rng: layers.ReLU(negative_slope=0.1 * rng.integers(2)),
    lambda rng: layers.LeakyReLU(0.2),
    lambda rng: layers.PReLU(shared_axes=[1, 2]),
    lambda rng: layers.ELU(),
    lambda rng: layers.Activation(sorted(ACTIVATIONS)[rng.integers(len(ACTIVATIONS))]),
    lambda rng: layers.ReLU(max_value=2.5, negative_slope=0.1 * rng.integers(2), threshold=0.2 * rng.integers(2)),
    lambda rng: layers.MaxPooling2D(3, strides=1, padding="same"),
    lambda rng: layers.AveragePooling2D(3, strides=1, padding="same"),
    lambda rng: [layers.SpatialDropout2D(0.2), layers.Dropout(0.2), layers.AlphaDropout(0.2)][rng.integers(3)],
    lambda rng: layers.GaussianNoise(0.1),
    lambda rng: turned_aside,
    lambda rng: (
        lambda x: layers.AveragePooling2D(2)(
            layers.UpSampling2D(2, interpolation=["nearest", "bilinear"][rng.integers(2)])(x)
        )
    ),
    lambda rng: lambda x: layers.Cropping2D(1)(layers.ZeroPadding2D(1)(x)),
    lambda rng: lambda x: 2 - x / 3,
    lambda rng: BARE[rng.integers(len(BARE))],
    lambda rng: lambda x: 1 / (1 + keras.ops.softplus(x)),
    lambda rng: lambda x: keras.ops.relu(x) * 0.5,
    lambda rng: lambda x: x * layers.GlobalAveragePooling2D(keepdims=True)(x),
    lambda rng: squeeze_excite,
    lambda rng: lambda x: layers.Multiply()([x, layers.Conv2D(1, 1, activation="hard_sigmoid")(x)]),
    lambda rng: layers.Softmax(),
    lambda rng: lambda x: keras_graph.LayerScale(0.5, x.shape[-1])(x),
    lambda rng: model_within(rng),
)
"""From a random generator to a layer, or a function, that reads one map of any size."""

SIZED = (
    lambda rng: layers.Permute((2, 1, 3)),
    lambda rng: lambda x: layers.MaxPooling2D(2)(layers.Conv2DTranspose(6, 4, strides=2)(x)),  # a pixel larger
    lambda rng: layers.LayerNormalization(axis=[1, 2, 3], scale=bool(rng.integers(2))),
    lambda rng: layers.PReLU(),
    lambda rng: lambda x: layers.Reshape((4, 16, -1) if np.prod(x.shape[1:3]) == 64 else (*x.shape[2:0:-1], -1))(x),
    lambda rng: lambda x: layers.Reshape(x.shape[1:])(layers.Flatten()(x)),
    lambda rng: lambda x: layers.Resizing(*x.shape[1:3])(layers.Resizing(5, 7)(x)),
)
"""Those that must know it, or change it."""

JOINING = (
    lambda a, b: layers.Add()([a, b]),
    lambda a, b: keras_graph.ScaledSum(0.3)([a, b]),
    lambda a, b: layers.Average()([a, b]),
    lambda a, b: layers.Maximum()([a, b]),
    lambda a, b: layers.Multiply()([a, b]),
    lambda a, b: layers.Subtract()([a, b]),
    lambda a, b: layers.Minimum()([a, b]),
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a / (1 + keras.ops.square(b)),
    lambda a, b: keras.ops.minimum(a, b),
    lambda a, b: keras.ops.maximum(a, b),
)


def random_model(seed: int, length: int = 9, *, open_size: bool = False) -> keras.Model:
    """A graph of random layers on 8x8 maps (or 4x16), some called twice, of an image and a table, with two outputs.

    With `open_size` it takes images of any size.
    """
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    first = PREPROCESSING[rng.integers(len(PREPROCESSING))]()
    size = (None, None) if open_size else (12, 10) if isinstance(first, layers.Resizing) else (8, 8)
    inputs, table = keras.Input((*size, 4)), keras.Input((5,))
    kinds = UNARY if open_size else (*UNARY, *SIZED)
    maps = [layers.Conv2D(8, 3, padding="same")(first(inputs))]
    maps.append(layers.Conv2D(8, 3, padding="same", name="sure")(maps[0]))
    shared = []
    for _ in range(length):
        x = maps[int(rng.integers(max(0, len(maps) - 3), len(maps)))]
        alike = [other for other in maps if other.shape[1:3] == x.shape[1:3]]
        y = alike[int(rng.integers(len(alike)))]
        choice = rng.random()
        if choice < 0.15:
            maps.append(layers.Concatenate()([x, y]))
        elif choice < 0.35 and x.shape == y.shape:
            maps.append(JOINING[int(rng.integers(len(JOINING)))](x, y))
        elif choice < 0.45 and shared and shared[-1][1] == x.shape[-1]:
            maps.append(shared[-1][0](x))
        else:
            layer = kinds[int(rng.integers(len(kinds)))](rng)
            if isinstance(layer, (layers.Conv2D, layers.BatchNormalization, layers.ReLU)):
                shared.append((layer, x.shape[-1]))
            maps.append(layer(x))
    pooled = [layers.GlobalAveragePooling2D()(maps[-3]), layers.GlobalMaxPooling2D()(maps[-2]), layers.Dense(4)(table)]
    pooled = layers.Concatenate()([*pooled, layers.GlobalAveragePooling2D()(maps[-1])])
    return keras.Model([inputs, table], [layers.Dense(3, activation="softmax")(pooled), layers.Conv2D(2, 1)(maps[-1])])


def channels_first(rng, filters):
    """A layer whose maps have their channels in front."""
    how = {"data_format": "channels_first"}
    kinds = (
        lambda: layers.Conv2D(filters, [3, 1, 5][rng.integers(3)], padding="same", activation="relu", **how),
        lambda: layers.Conv2D(filters, 3, padding="same", dilation_rate=2, use_bias=False, **how),
        lambda: layers.DepthwiseConv2D(3, padding="same", **how),
        lambda: layers.SeparableConv2D(filters, 3, padding="same", **how),
        lambda: layers.Conv2DTranspose(filters, 3, padding="same", **how),
        lambda: layers.BatchNormalization(axis=1),
        lambda: layers.PReLU(shared_axes=[2, 3]),
        lambda: layers.MaxPooling2D(3, strides=1, padding="same", **how),
        lambda: layers.AveragePooling2D(3, strides=1, padding="same", **how),
        lambda: layers.SpatialDropout2D(0.2, **how),
        lambda: layers.LeakyReLU(0.2),
    )
    return kinds[int(rng.integers(len(kinds)))]()


def random_model_with_channels_first(seed: int, length: int = 8) -> keras.Model:
    """A graph of such layers on 8x8 maps, with sums, concatenations and a scaled map among them."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4, 8, 8))
    how = {"padding": "same", "data_format": "channels_first"}
    maps = [layers.Conv2D(6, 3, name="stem", **how)(inputs)]
    maps.append(layers.Conv2D(6, 3, **how)(maps[0]))
    for _ in range(length):
        x, y = (maps[int(i)] for i in rng.integers(max(0, len(maps) - 3), len(maps), 2))
        choice = rng.random()
        if choice < 0.15:
            maps.append(layers.Concatenate(axis=1)([x, y]))
        elif choice < 0.3 and x.shape == y.shape:
            maps.append(JOINING[int(rng.integers(len(JOINING)))](x, y))
        elif choice < 0.4:
            maps.append(x * layers.GlobalAveragePooling2D(data_format="channels_first", keepdims=True)(x))
        else:
            maps.append(channels_first(rng, int(rng.choice([4, 6, 8])))(x))
    pooled = layers.GlobalAveragePooling2D(data_format="channels_first")(maps[-1])
    return keras.Model(inputs, layers.Dense(3)(pooled))


def shake(model: keras.Model, seed: int) -> None:
    """Biases and statistics as after training, and masks of which whole rows and columns are dead."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.name in ("moving_variance", "gamma"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("moving_mean", "beta", "bias", "alpha"):
            variable.assign(rng.normal(0.0, 0.3, variable.shape))
    for layer in pruning.masked_layers(model).values():
        mask = rng.random(layer.mask.shape) < 0.5
        layer.set_mask(mask & (rng.random(mask.shape[0]) < 0.7)[:, None] & (rng.random(mask.shape[1]) < 0.6))


def check(model: keras.Model, seed: int) -> None:
    pruned = pruning.prune(model, sparsity=0.0, layers="all")
    inputs = agreement.sample_inputs(model, [(*OPEN, 4), (5,)] if None in model.inputs[0].shape[1:] else None)
    shake(pruned, seed)
    expected = agreement.run(pruned, inputs)[0]
    assert agreement.relative_error(agreement.run(pruning.compact(pruned), inputs)[0], expected) < TOLERANCE
    wide = pruning.compact(pruned, multiple_of=4, keep_masks=True)
    assert agreement.relative_error(agreement.run(wide, inputs)[0], expected) < TOLERANCE
    assert pruning.live_parameters(pruned) <= pruned.count_params()
    runtime = sparse.compile(pruned, threads=1)
    assert agreement.relative_error(agreement.as_list(runtime(*inputs)), expected) < TOLERANCE
    keras.backend.clear_session()


@pytest.mark.parametrize("seed", range(3))
def test_a_random_graph_computes_the_same_pruned_compacted_and_compiled(seed):
    pytest.importorskip("llvmlite")
    check(random_model(seed), seed)


@pytest.mark.parametrize("seed", range(2))
def test_a_random_graph_of_open_size_computes_the_same(seed):
    pytest.importorskip("llvmlite")
    check(random_model(seed, open_size=True), seed)


@pytest.mark.jax
@pytest.mark.parametrize("seed", range(3))
def test_a_random_graph_with_channels_first_is_pruned_and_keeps_its_channels(seed):
    model = random_model_with_channels_first(seed)
    told = pruning.check(model, layers="all")
    walls = {layer.name for layer in told.layers if "channels must come last" in layer.compact}
    assert {layer.name for layer in model.layers if getattr(layer, "data_format", "") == "channels_first"} == walls
    pruned = pruning.prune(model, sparsity=0.0, layers="all")
    shake(pruned, seed)
    inputs = agreement.sample_inputs(model)
    expected = agreement.run(pruned, inputs)[0]
    small = pruning.compact(pruned)
    assert agreement.relative_error(agreement.run(small, inputs)[0], expected) < TOLERANCE
    assert all(small.get_layer(name).count_params() == model.get_layer(name).count_params() for name in walls)


@pytest.mark.parametrize("seed", range(3))
def test_a_random_graph_with_channels_first_is_compiled_as_far_as_keras_computes_the_rest(seed):
    pytest.importorskip("llvmlite")
    model = pruning.prune(random_model_with_channels_first(seed), sparsity=0.5, layers="all")
    with pytest.raises(sparse.UnsupportedLayerError, match="channels must come last"):
        sparse.compile(model)
    inputs = agreement.sample_inputs(model)
    runtime = sparse.compile(model, threads=1, fallback="keras")
    expected = agreement.run(model, inputs)[0]
    assert agreement.relative_error(agreement.as_list(runtime(*inputs)), expected) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("open_size", [False, True])
@pytest.mark.parametrize("seed", range(100, 160))
def test_many_random_graphs_compute_the_same(seed, open_size):
    pytest.importorskip("llvmlite")
    check(random_model(seed, open_size=open_size), seed)


def test_the_random_graphs_are_of_most_of_what_is_followed_and_compiled():
    kinds = {node.kind for seed in range(20) for node in keras_graph.trace(random_model(seed)).nodes.values()}
    assert len(kinds & set(RULES)) >= 38
    assert len(kinds & set(READERS)) >= 46
