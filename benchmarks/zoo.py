"""Networks as people write them, each through all that the package does: what works, what is refused, what is wrong.

    python benchmarks/zoo.py                     # about an hour on two cores that other work shares
    python benchmarks/zoo.py --only=resnet,se    # those whose names contain one of these
    python benchmarks/zoo.py --results=zoo.json  # keeps each result as it comes; what is there is not run again

The file names, under `settings`, the processor, versions and parameters that each result comes from, by number. A bare
list of results, which it was before, is read too; those stay without.

Each network is pruned (half of its kernels; where it has no 3x3 or 5x5 ones, of whatever it has), trained two steps,
saved and loaded, compacted, loaded again by a process that knows Keras alone, and compiled without fallback; after each
step its answers to random images are compared with those of the step before. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
from keras import layers as L

import nhn_tf.layers
from nhn_tf import pruning, sparse
from nhn_tf.models import agreement
from nhn_tf.runs import journal
from nhn_tf.storage import files

TOLERANCE: Final = 1e-5
"""Largest relative error that is not called wrong, in float32."""

HALF_TOLERANCE: Final = 0.05
"""The same in half precision, where it is no figure."""

SIDE: Final = 32
SPARSITY: Final = 0.5
STEPS: Final = 2
SEED: Final = 0
NETWORKS: dict[str, Callable[[], keras.Model]] = {}


def network(function: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    NETWORKS[function.__name__.strip("_")] = function
    return function


def images(side: int = SIDE, channels: int = 3) -> keras.KerasTensor:
    return keras.Input((side, side, channels))


def head(x: keras.KerasTensor) -> keras.KerasTensor:
    return L.Dense(10)(L.GlobalAveragePooling2D()(x))


def conv(x: keras.KerasTensor, filters: int, size: int = 3, **options: object) -> keras.KerasTensor:
    return L.Conv2D(filters, size, padding="same", **options)(x)


def around(name: str, middle: Callable[[keras.KerasTensor], keras.KerasTensor]) -> None:
    """A network of one idea: a stem, a convolution, `middle`, another convolution, a classifier."""

    def build() -> keras.Model:
        inputs = images(16)
        x = conv(conv(inputs, 8), 16, use_bias=False)
        return keras.Model(inputs, head(conv(middle(x), 16)))

    NETWORKS[name] = build


def residual(x: keras.KerasTensor, filters: int, strides: int, relu: Callable = L.ReLU) -> keras.KerasTensor:
    y = relu()(L.BatchNormalization()(conv(x, filters, strides=strides, use_bias=False)))
    y = L.BatchNormalization()(conv(y, filters, use_bias=False))
    if strides > 1 or x.shape[-1] != filters:
        x = L.BatchNormalization()(conv(x, filters, 1, strides=strides, use_bias=False))
    return relu()(L.Add()([x, y]))


def squeeze_excite(x: keras.KerasTensor, ratio: int = 4) -> keras.KerasTensor:
    channels = x.shape[-1]
    s = L.GlobalAveragePooling2D(keepdims=True)(x)
    s = conv(conv(s, channels // ratio, 1, activation="relu"), channels, 1, activation="sigmoid")
    return L.Multiply()([x, s])


@network
def mnist_convnet() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            L.Conv2D(16, 3, activation="relu"),
            L.MaxPooling2D(),
            L.Conv2D(32, 3, activation="relu"),
            L.MaxPooling2D(),
            L.Flatten(),
            L.Dropout(0.5),
            L.Dense(10, activation="softmax"),
        ]
    )


@network
def resnet20() -> keras.Model:
    inputs = images()
    x = L.ReLU()(L.BatchNormalization()(conv(inputs, 16, use_bias=False)))
    for filters in (16, 32, 64):
        for block in range(3):
            x = residual(x, filters, 2 if filters > 16 and not block else 1)
    return keras.Model(inputs, head(x))


@network
def unet() -> keras.Model:
    inputs = images()
    x, skips = inputs, []
    for filters in (8, 16):
        x = conv(conv(x, filters, activation="relu"), filters, activation="relu")
        skips.append(x)
        x = L.MaxPooling2D()(x)
    x = conv(x, 32, activation="relu")
    for filters, skip in zip((16, 8), reversed(skips), strict=True):
        x = L.Conv2DTranspose(filters, 2, strides=2, padding="same")(x)
        x = conv(L.Concatenate()([x, skip]), filters, activation="relu")
    return keras.Model(inputs, L.Conv2D(2, 1, activation="sigmoid")(x))


@network
def unet_of_classes() -> keras.Model:
    """With normalised transposed convolutions of 3x3 and a softmax at each pixel."""
    inputs = images()
    x, skips = inputs, []
    for filters in (8, 16):
        skips.append(conv(x, filters, activation="relu"))
        x = conv(skips[-1], filters, strides=2, activation="relu")
    for filters, skip in zip((16, 8), reversed(skips), strict=True):
        x = L.Conv2DTranspose(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = conv(L.Concatenate()([L.ReLU()(L.BatchNormalization()(x)), skip]), filters, activation="relu")
    return keras.Model(inputs, L.Conv2D(4, 1, activation="softmax")(x))


@network
def autoencoder() -> keras.Model:
    inputs = images()
    x = conv(conv(inputs, 8, strides=2, activation="relu"), 16, strides=2, activation="relu")
    code = L.Dense(12, name="code")(L.Flatten()(x))
    x = L.Reshape((8, 8, 16))(L.Dense(8 * 8 * 16, activation="relu")(code))
    x = L.Conv2DTranspose(8, 4, strides=2, padding="same", activation="relu")(x)
    return keras.Model(inputs, [L.Conv2DTranspose(3, 4, strides=2, padding="same", activation="sigmoid")(x), code])


@network
def feature_pyramid() -> keras.Model:
    inputs = images()
    levels = [conv(inputs, 8, strides=2, activation="relu")]
    for filters in (16, 24):
        levels.append(conv(levels[-1], filters, strides=2, activation="relu"))
    x, outputs = conv(levels[-1], 12, 1), []
    for level in reversed(levels[:-1]):
        x = L.Add()([L.UpSampling2D()(x), conv(level, 12, 1)])
        outputs.append(conv(conv(x, 12, activation="relu"), 5, 1))
    return keras.Model(inputs, outputs)


@network
def conditioned() -> keras.Model:
    """A table's numbers scale and shift an image's channels."""
    inputs, table = images(16), keras.Input((5,))
    x = conv(conv(inputs, 8), 16, use_bias=False)
    x = L.Add()([L.Multiply()([x, L.Dense(16)(table)]), L.Reshape((1, 1, 16))(L.Dense(16)(table))])
    return keras.Model([inputs, table], head(conv(L.ReLU()(x), 16)))


@network
def inverted_residuals() -> keras.Model:
    """As in MobileNetV3 and EfficientNet: a wide middle, gates, hard-swish."""
    inputs = images()
    x = conv(inputs, 8, strides=2, activation="hard_silu")
    for strides in (1, 2):
        y = L.Activation("hard_silu")(L.BatchNormalization()(conv(x, 32, 1, use_bias=False)))
        y = L.BatchNormalization()(L.DepthwiseConv2D(5, strides=strides, padding="same", use_bias=False)(y))
        s = L.Dense(8, activation="relu")(L.GlobalAveragePooling2D()(y))
        y = L.Multiply()([L.Activation("hard_silu")(y), L.Dense(32, activation="hard_sigmoid")(s)])
        y = L.BatchNormalization()(conv(y, 8, 1, use_bias=False))
        x = L.Add()([x, y]) if strides == 1 else y
    return keras.Model(inputs, head(conv(x, 16)))


@network
def resnext_block() -> keras.Model:
    inputs = images(16)
    x = conv(inputs, 16, activation="relu")
    y = conv(conv(x, 16, 1, activation="relu"), 16, groups=4, activation="relu")
    return keras.Model(inputs, head(L.ReLU()(L.Add()([x, squeeze_excite(conv(y, 16, 1))]))))


@network
def squeezenet_fire() -> keras.Model:
    inputs = images()
    x = L.MaxPooling2D(3, 2)(conv(inputs, 16, strides=2, activation="relu"))
    for filters in (8, 16):
        s = conv(x, filters, 1, activation="relu")
        x = L.Concatenate()([conv(s, 2 * filters, 1, activation="relu"), conv(s, 2 * filters, activation="relu")])
    return keras.Model(inputs, L.Softmax()(L.GlobalAveragePooling2D()(conv(x, 10, 1))))


@network
def unet_upsampling() -> keras.Model:
    inputs = images()
    x = conv(inputs, 8, activation="relu")
    y = conv(L.MaxPooling2D()(x), 16, activation="relu")
    y = conv(L.UpSampling2D()(y), 8, activation="relu")
    return keras.Model(inputs, L.Conv2D(2, 1)(conv(L.Concatenate()([x, y]), 8)))


@network
def siamese() -> keras.Model:
    tower = keras.Sequential(
        [images(16), L.Conv2D(8, 3, activation="relu"), L.Conv2D(16, 3, activation="relu"), L.GlobalMaxPooling2D()]
    )
    left, right = images(16), images(16)
    return keras.Model([left, right], L.Dense(1)(L.Subtract()([tower(left), tower(right)])))


@network
def siamese_layers() -> keras.Model:
    first, second, norm, relu = L.Conv2D(8, 3), L.Conv2D(16, 3, use_bias=False), L.BatchNormalization(), L.ReLU()
    inputs = [images(16), images(16)]
    towers = [L.GlobalAveragePooling2D()(relu(norm(second(relu(first(x)))))) for x in inputs]
    return keras.Model(inputs, L.Dense(1)(L.Concatenate()(towers)))


@network
def two_inputs_two_outputs() -> keras.Model:
    left, right = keras.Input((16, 16, 3), name="left"), keras.Input((16, 16, 1), name="right")
    x = conv(L.Concatenate()([conv(left, 8), conv(right, 8)]), 16, activation="relu")
    return keras.Model({"left": left, "right": right}, {"maps": conv(x, 2, 1), "classes": head(x)})


@network
def image_and_table() -> keras.Model:
    inputs, table = images(16), keras.Input((5,))
    x = L.GlobalAveragePooling2D()(conv(conv(inputs, 8), 16, activation="relu"))
    return keras.Model([inputs, table], L.Dense(3)(L.Concatenate()([x, L.Dense(8, activation="relu")(table)])))


@network
def transfer_learning() -> keras.Model:
    base = keras.applications.MobileNetV2(input_shape=(SIDE, SIDE, 3), include_top=False, weights=None, alpha=0.35)
    inputs = images()
    x = base(L.Rescaling(1 / 127.5, offset=-1)(inputs), training=False)
    return keras.Model(inputs, head(conv(x, 16, activation="relu")))


@network
def nested_twice() -> keras.Model:
    inner = keras.Sequential([L.Conv2D(8, 3, padding="same"), L.BatchNormalization(), L.ReLU()])
    middle_in = keras.Input((None, None, 8))
    middle = keras.Model(middle_in, L.Add()([middle_in, inner(middle_in)]))
    inputs = images(16)
    return keras.Model(inputs, head(middle(middle(conv(inputs, 8)))))


@network
def vgg_block() -> keras.Model:
    model = keras.Sequential([images()])
    for filters in (8, 16):
        for _ in range(2):
            model.add(L.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(L.MaxPooling2D())
    model.add(L.Flatten())
    model.add(L.Dense(32, activation="relu"))
    model.add(L.Dense(10))
    return model


@network
def inception_block() -> keras.Model:
    inputs = images(16)
    x = conv(inputs, 16, activation="relu")
    paths = [conv(x, 8, 1), conv(conv(x, 8, 1), 8, 3), conv(conv(x, 4, 1), 8, 5)]
    paths.append(conv(L.MaxPooling2D(3, 1, padding="same")(x), 8, 1))
    return keras.Model(inputs, head(L.ReLU()(L.Concatenate()(paths))))


@network
def seven_by_one() -> keras.Model:
    inputs = images(16)
    x = conv(conv(inputs, 8), 8, (1, 7), activation="relu")
    return keras.Model(inputs, head(conv(conv(x, 8, (7, 1)), 8, 3)))


@network
def dense_block() -> keras.Model:
    inputs = images(16)
    x = conv(inputs, 8)
    for _ in range(3):
        y = conv(L.ReLU()(L.BatchNormalization()(x)), 8, use_bias=False)
        x = L.Concatenate()([x, y])
    return keras.Model(inputs, head(conv(x, 8, 1)))


@network
def pre_activation() -> keras.Model:
    inputs = images(16)
    x = conv(inputs, 16)
    for _ in range(2):
        y = conv(L.ReLU()(L.BatchNormalization()(x)), 16, use_bias=False)
        x = x + conv(L.ReLU()(L.BatchNormalization()(y)), 16)
    return keras.Model(inputs, head(x))


@network
def convnext_block() -> keras.Model:
    inputs = images(16)
    x = conv(conv(inputs, 16), 16)
    y = L.LayerNormalization(epsilon=1e-6)(L.DepthwiseConv2D(7, padding="same")(x))
    return keras.Model(inputs, head(L.Add()([x, L.Dense(16)(L.Dense(64, activation="gelu")(y))])))


@network
def frozen_base() -> keras.Model:
    inputs = images(16)
    x = L.Conv2D(8, 3, trainable=False)(inputs)
    x = L.Conv2D(8, 3, trainable=False)(x)
    return keras.Model(inputs, head(L.Conv2D(16, 3)(x)))


@network
def open_sizes() -> keras.Model:
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, head(conv(conv(inputs, 8, activation="relu"), 16, activation="relu")))


@network
def mixed_bfloat16() -> keras.Model:
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    inputs = images(16)
    x = L.Conv2D(8, 3, dtype=policy)(inputs)
    x = L.ReLU(dtype=policy)(L.BatchNormalization(dtype=policy)(L.Conv2D(16, 3, dtype=policy)(x)))
    return keras.Model(inputs, L.Dense(10, dtype="float32")(L.GlobalAveragePooling2D(dtype=policy)(x)))


@network
def mixed_float16() -> keras.Model:
    policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    inputs = images(16)
    x = L.Conv2D(8, 3, dtype=policy, activation="relu")(inputs)
    x = L.Conv2D(16, 3, dtype=policy)(x)
    return keras.Model(inputs, L.Dense(10, dtype="float32")(L.GlobalMaxPooling2D(dtype=policy)(x)))


@network
def subclass_in_name_only() -> keras.Model:
    class Conv3(L.Conv2D):
        def __init__(self, filters: int, **options: object):
            super().__init__(filters, 3, **options)

    inputs = images(16)
    return keras.Model(inputs, head(Conv3(16)(L.ReLU()(Conv3(8)(inputs)))))


@network
def own_layer() -> keras.Model:
    inputs = images(16)
    return keras.Model(inputs, head(conv(Residual(8)(conv(conv(inputs, 8), 8)), 8)))


@keras.saving.register_keras_serializable("zoo")
class Residual(L.Layer):
    def __init__(self, filters: int, **options: object):
        super().__init__(**options)
        self.filters = filters
        self.first, self.second = (L.Conv2D(filters, 3, padding="same") for _ in range(2))

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.first.build(shape)
        self.second.build(shape)

    def call(self, inputs: object) -> object:
        return inputs + self.second(keras.ops.relu(self.first(inputs)))

    def get_config(self) -> dict:
        return {**super().get_config(), "filters": self.filters}


@network
def recurrent() -> keras.Model:
    inputs = images(16)
    x = conv(conv(inputs, 8), 8, strides=4)
    return keras.Model(inputs, L.Dense(3)(L.Bidirectional(L.LSTM(4))(L.Reshape((16, 8))(x))))


@network
def attention() -> keras.Model:
    inputs = images(16)
    x = L.Reshape((16, 8))(conv(conv(inputs, 8), 8, strides=4))
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(L.MultiHeadAttention(2, 4)(x, x) + x)))


@network
def subclassed_model() -> keras.Model:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.dense = L.Conv2D(8, 3), L.Dense(3)

        def call(self, x: object) -> object:
            return self.dense(keras.ops.mean(self.conv(x), axis=(1, 2)))

    model = Net()
    model(np.zeros((1, 16, 16, 3)))
    return model


for _name, _middle in {
    "se": squeeze_excite,
    "grouped": lambda x: conv(x, 16, groups=4),
    "dilated": lambda x: conv(x, 16, dilation_rate=2),
    "transposed": lambda x: L.Conv2DTranspose(8, 3, strides=2, padding="same")(x),
    "separable": lambda x: L.SeparableConv2D(16, 3, padding="same", activation="relu")(x),
    "depth_multiplier": lambda x: L.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x),
    "relu6": lambda x: L.ReLU(max_value=6)(L.BatchNormalization()(x)),
    "leaky_relu": lambda x: L.LeakyReLU(0.1)(L.BatchNormalization()(x)),
    "leaky_argument": lambda x: conv(x, 16, activation=L.LeakyReLU(0.2)),
    "prelu": lambda x: L.PReLU(shared_axes=[1, 2])(x),
    "elu": lambda x: L.ELU()(x),
    "gelu": lambda x: conv(x, 16, activation="gelu"),
    "swish": lambda x: L.Activation("silu")(L.BatchNormalization()(x)),
    "hard_swish": lambda x: L.Activation("hard_silu")(x),
    "tanh": lambda x: conv(x, 16, activation="tanh"),
    "hard_sigmoid": lambda x: conv(x, 16, activation="hard_sigmoid"),
    "mish": lambda x: L.Activation("mish")(L.BatchNormalization()(x)),
    "selu": lambda x: L.AlphaDropout(0.1)(conv(x, 16, activation="selu")),
    "softplus": lambda x: conv(x, 16, activation="softplus"),
    "prelu_of_pixels": lambda x: L.PReLU()(x),
    "layer_norm": lambda x: L.LayerNormalization()(x),
    "layer_norm_of_maps": lambda x: L.LayerNormalization(axis=[1, 2, 3])(x),
    "rms_norm": lambda x: L.RMSNormalization()(x),
    "unit_norm": lambda x: L.UnitNormalization()(x),
    "group_norm": lambda x: L.GroupNormalization(4)(x),
    "instance_norm": lambda x: L.GroupNormalization(-1)(x),
    "gated": lambda x: x * keras.ops.sigmoid(conv(x, 16, 1)),
    "gate_of_pixels": lambda x: L.Multiply()([x, conv(x, 1, 7, activation="sigmoid")]),
    "minimum_of": lambda x: L.Minimum()([x, conv(x, 16)]),
    "average_of": lambda x: L.Average()([x, conv(x, 16)]),
    "maximum_of": lambda x: L.Maximum()([x, conv(x, 16)]),
    "arithmetic": lambda x: (x * 2 + 1) / 3 - conv(x, 16),
    "noise": lambda x: L.SpatialDropout2D(0.2)(L.GaussianNoise(0.1)(x)),
    "reshape_permute": lambda x: L.Permute((2, 1, 3))(L.Reshape((8, 32, 16))(x)),
    "global_context": lambda x: x + L.GlobalAveragePooling2D(keepdims=True)(conv(x, 16, 1)),
    "crop_and_pad": lambda x: L.ZeroPadding2D(2)(L.Cropping2D(((1, 2), (0, 1)))(x)),
    "bilinear": lambda x: L.UpSampling2D(interpolation="bilinear")(x),
    "shared_relu": lambda x: (lambda r: r(conv(r(x), 16)))(L.ReLU()),
}.items():
    around(_name, _middle)


def _behind(name: str, first: Callable[[], L.Layer]) -> None:
    def build() -> keras.Model:
        inputs = images(16)
        return keras.Model(inputs, head(conv(conv(first()(inputs), 8, activation="relu"), 16)))

    NETWORKS[name] = build


_behind("rescaling", lambda: L.Rescaling(1 / 255))
_behind("normalization", lambda: L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0]))
_behind("augmentation", lambda: L.RandomFlip("horizontal"))
_behind("resizing", lambda: L.Resizing(20, 12))

for _name, _options in {
    "VGG16": {}, "ResNet50": {}, "ResNet50V2": {}, "DenseNet121": {}, "MobileNet": {}, "MobileNetV2": {},
    "MobileNetV3Small": {}, "MobileNetV3Large": {}, "EfficientNetB0": {}, "EfficientNetV2B0": {}, "ConvNeXtTiny": {},
    "NASNetMobile": {}, "InceptionV3": {"side": 75}, "Xception": {"side": 71}, "InceptionResNetV2": {"side": 75},
}.items():  # fmt: skip

    def _application(name: str = _name, side: int = _options.get("side", SIDE)) -> keras.Model:
        return getattr(keras.applications, name)(
            input_shape=(side, side, 3), weights=None, classes=10, classifier_activation=None
        )

    NETWORKS[_name] = _application


@dataclasses.dataclass
class Result:
    """How far a network came.

    Attributes:
      error: the largest relative one of all steps.
      setting: number of that in which it ran, in the file of results; None where that was not kept.
    """

    network: str
    pruned: bool = False
    compacted: bool = False
    compiled: bool = False
    refused: str = ""
    late: bool = False
    wrong: bool = False
    error: float = 0.0
    note: str = ""
    setting: int | None = None


READER: Final = """
import sys, keras, numpy as np
{own}
model = keras.models.load_model(sys.argv[1])
given = [np.load(f"{{sys.argv[2]}}/{{i}}.npy") for i in range(int(sys.argv[3]))]
struct = model.inputs[0] if isinstance(model, keras.Sequential) else model._inputs_struct
y = model(keras.tree.pack_sequence_as(struct, given), training=False)
np.savez(f"{{sys.argv[2]}}/out.npz", *[np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(t, "float32"))) for t in keras.tree.flatten(y)])
sys.exit(3 if "nhn_tf" in sys.modules else 0)
"""  # noqa: E501


def run(name: str) -> Result:
    """Takes one network through everything."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    result = Result(name)
    model = NETWORKS[name]()
    if isinstance(model, keras.Model) and getattr(model, "outputs", None):
        _shake(model)
    outlook = pruning.check(model)
    options: dict = {}
    if not outlook.ok and "nothing to prune" in outlook.refusal:
        options = {"layers": "all"}
        outlook = pruning.check(model, **options)
    if not outlook.ok:
        result.refused = outlook.refusal.splitlines()[0]
        return result
    half = any("16" in str(layer.compute_dtype) for layer in model.layers)
    inputs = agreement.sample_inputs(model)

    def compare(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
        if not all(np.isfinite(one).all() for one in expected):  # Any two NaN agree: nothing would be shown.
            raise RuntimeError("the network's own answers are not finite")
        error = agreement.relative_error(found, expected)
        result.error = max(result.error, 0.0 if half and error <= HALF_TOLERANCE else error)
        result.wrong |= error > (HALF_TOLERANCE if half else TOLERANCE)

    try:
        pruned = pruning.prune(model, sparsity=0.0, **options)
        compare(agreement.run(pruned, inputs)[0], agreement.run(model, inputs)[0])
        pruned = pruning.prune(model, sparsity=SPARSITY, **options)
        result.pruned = True
    except ValueError as error:
        result.refused = str(error).splitlines()[0]
        return result
    try:
        _train(pruned, inputs)
        with tempfile.TemporaryDirectory() as folder:
            pruned.save(f"{folder}/pruned.keras")
            loaded = keras.saving.load_model(f"{folder}/pruned.keras")
            expected = agreement.run(pruned, inputs)[0]
            compare(agreement.run(loaded, inputs)[0], expected)
            small = pruning.compact(loaded)
            compare(agreement.run(small, inputs)[0], expected)
            small.save(f"{folder}/small.keras")
            compare(_read_elsewhere(name, folder, inputs), expected)
        result.compacted = True
    except (ValueError, TypeError, RuntimeError) as error:
        result.late, result.note = True, f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return result
    promised = not any(layer.sparse for layer in outlook.layers)
    try:
        runtime = sparse.compile(small)
        compare(agreement.as_list(runtime(*inputs)), expected)
        result.compiled = True
    except ValueError as error:
        result.note = str(error).splitlines()[0]
        result.late = promised
    return result


def _shake(model: keras.Model) -> None:
    """Moves biases and statistics from their special initial values, as training would."""
    rng = np.random.default_rng(SEED)
    for variable in model.variables:
        if variable.name in ("moving_variance", "gamma"):
            variable.assign(rng.uniform(0.8, 1.2, variable.shape))
        elif variable.name in ("moving_mean", "beta", "bias"):
            variable.assign(rng.normal(0.0, 0.05, variable.shape))


def _train(model: keras.Model, inputs: list[np.ndarray]) -> None:
    structure = agreement.structured(model, inputs)
    answers = model.predict(structure, verbose=0)
    y = keras.tree.map_structure(lambda answer: np.zeros(np.shape(answer), "float32"), answers)
    loss = keras.tree.map_structure(lambda _: "mse", y)
    model.compile(keras.optimizers.SGD(1e-4, clipnorm=1.0), loss, jit_compile=False)
    model.fit(structure, y, batch_size=2, epochs=STEPS, verbose=0)


def _read_elsewhere(name: str, folder: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The answers of a process that has not imported the package."""
    for number, array in enumerate(inputs):
        np.save(f"{folder}/{number}.npy", array)
    own = ""
    if name == "own_layer":
        here = Path(__file__).read_text(encoding="utf-8")
        start = here.index('@keras.saving.register_keras_serializable("zoo")')
        own = "from keras import layers as L\n" + here[start : here.index("@network", start)]
    command = [sys.executable, "-c", READER.format(own=own), f"{folder}/small.keras", folder, str(len(inputs))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Keras alone does not load it: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    with np.load(f"{folder}/out.npz") as arrays:
        return [arrays[key] for key in arrays.files]


def attempt(name: str) -> Result:
    """As `run`; a fault of the package or of this file is told, and the others still run."""
    try:
        return run(name)
    except Exception:
        return Result(name, late=True, note=traceback.format_exc().strip().splitlines()[-1])


def row(result: Result) -> str:
    ticks = [("yes" if flag else "no") for flag in (result.pruned, result.compacted, result.compiled)]
    wrong = "WRONG " if result.wrong else ""
    note = (result.refused or result.note)[:150]
    return f"{result.network:24} {ticks[0]:6} {ticks[1]:9} {ticks[2]:8} {result.error:.1e}  {wrong}{note}"


def summary(results: list[Result]) -> dict[str, float]:
    return {
        "networks": len(results),
        "pruned": sum(r.pruned for r in results),
        "compacted": sum(r.compacted for r in results),
        "compiled": sum(r.compiled for r in results),
        "refused_before_training": sum(bool(r.refused) for r in results),
        "refused_late": sum(r.late for r in results),
        "silently_wrong": sum(r.wrong for r in results),
        "max_relative_error": float(f"{max((r.error for r in results), default=0.0):.2g}"),
    }


def setting() -> dict[str, Any]:
    """Where, with what and how networks run here."""
    packages = ("keras", keras.backend.backend(), "numpy", "llvmlite")
    installed = {package: importlib.metadata.version(package) for package in packages}
    return {
        "cpu": journal.device(),
        "versions": {"python": platform.python_version(), "nhn_tf": nhn_tf.__version__, **installed},
        "parameters": {
            "tolerance": TOLERANCE,
            "half_tolerance": HALF_TOLERANCE,
            "sparsity": SPARSITY,
            "steps": STEPS,
            "seed": SEED,
        },
    }


def kept(path: Path | None) -> tuple[list[dict[str, Any]], dict[str, Result]]:
    """The settings and results, by network, of a file; none where there is no such file."""
    if path is None or not path.exists():
        return [], {}
    found = files.read_json(path)
    settings, entries = ([], found) if isinstance(found, list) else (found["settings"], found["results"])
    return settings, {entry["network"]: Result(**entry) for entry in entries}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="parts of names, by commas")
    parser.add_argument("--results", type=Path, help="file for each network's result; those in it are not run again")
    arguments = parser.parse_args()
    wanted = [part for part in arguments.only.split(",") if part]
    names = [name for name in NETWORKS if not wanted or any(part in name for part in wanted)]
    warnings.simplefilter("ignore")
    settings, known = kept(arguments.results)
    if (here := setting()) not in settings:
        settings.append(here)
    print(f"{'network':24} pruned compacted compiled  error    note")
    for name in names:
        if name not in known:
            known[name] = dataclasses.replace(attempt(name), setting=settings.index(here))
            if arguments.results:
                results = [dataclasses.asdict(known[other]) for other in NETWORKS if other in known]
                files.write_json(arguments.results, {"settings": settings, "results": results})
        print(row(known[name]), flush=True)
    print(json.dumps(summary([known[name] for name in names])))


if __name__ == "__main__":
    main()
