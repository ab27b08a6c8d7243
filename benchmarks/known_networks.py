"""Networks that people use, with random weights, pruned at random: what `inference.py` compares engines on.

Weights are random, since what is measured is time, which depends on sizes and masks only.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from nhn_tf import pruning


def mobilenet_v2(side: int, sparsity: float, seed: int = 0) -> keras.Model:
    """MobileNetV2 for 1000 classes; `sparsity` of the weights of each 1x1 convolution are 0."""
    return _pruned(_application("MobileNetV2", side, seed), {1: sparsity}, seed)


def resnet50(side: int, sparsity: float, pointwise: float = 0.0, block: int = 1, seed: int = 0) -> keras.Model:
    """ResNet50 for 1000 classes; `sparsity` of the kernels of each 3x3 convolution are 0, and `pointwise` of the
    weights of each 1x1 convolution, for `block` neighbouring filters together.
    """
    return _pruned(_application("ResNet50", side, seed), {3: sparsity, 1: pointwise}, seed, block)


def efficientnet_v2_b0(side: int, sparsity: float, seed: int = 0) -> keras.Model:
    """EfficientNetV2B0 for 1000 classes; `sparsity` of the kernels of each 3x3 and of the weights of each 1x1
    convolution are 0, but for those of its gates.
    """
    return _pruned(
        _application("EfficientNetV2B0", side, seed, include_preprocessing=False),
        {3: sparsity, 1: sparsity},
        seed,
        leave="*_se_*",
    )


def _application(name: str, side: int, seed: int, **options: bool) -> keras.Model:
    keras.utils.set_random_seed(seed)
    make = getattr(keras.applications, name)
    return make(input_shape=(side, side, 3), weights=None, classifier_activation=None, **options)


def resnet20(sparsity: float, seed: int = 0) -> keras.Model:
    """The ResNet of 20 layers for 32x32 images (He et al. 2015, section 4.2), projections where the size changes."""
    keras.utils.set_random_seed(seed)

    def conv(x: keras.KerasTensor, filters: int, size: int, strides: int) -> keras.KerasTensor:
        x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    images = keras.Input((32, 32, 3))
    x = layers.ReLU()(conv(images, 16, 3, 1))
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if filters > 16 and not block else 1
            y = layers.ReLU()(conv(x, filters, 3, strides))
            y = conv(y, filters, 3, 1)
            x = layers.ReLU()(layers.Add()([y, conv(x, filters, 1, strides) if strides == 2 else x]))
    model = keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    return _pruned(model, {3: sparsity}, seed)


def _pruned(
    model: keras.Model, sparsity: Mapping[int, float], seed: int, block: int = 1, leave: str = ""
) -> keras.Model:
    """The model with random kernels switched off, but for the first layer's.

    Args:
      model: of plain Keras layers; its moving statistics are changed.
      sparsity: by the side of the windows, which share of each layer's kernels [kh, kw].
      seed: of the choice.
      block: neighbouring filters whose 1x1 kernels go together.
      leave: a pattern of names of layers that stay whole.
    """
    convs = [layer for layer in model.layers if type(layer) is layers.Conv2D][1:]
    shares = {layer.name: sparsity.get(layer.kernel_size[0], 0.0) for layer in convs}
    shares = {name: share for name, share in shares.items() if share and not fnmatch.fnmatch(name, leave)}
    if shares:
        model = pruning.prune(
            model, sparsity=shares, scope="layer", criterion="random", block=block, seed=seed, check=False
        )
    settle(model, np.random.default_rng(seed).standard_normal((8, *model.input_shape[1:])).astype(np.float32))
    return model


def settle(model: keras.Model, images: np.ndarray) -> None:
    """Moving statistics that fit the weights, so that activations keep their scale."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    model(images, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
