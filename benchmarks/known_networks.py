"""Networks that people use, with random weights, pruned at random: what `inference.py` compares engines on.

Weights are random, since what is measured is time, which depends on sizes and masks only.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers


def mobilenet_v2(side: int, sparsity: float, seed: int = 0) -> keras.Model:
    """MobileNetV2 for 1000 classes; `sparsity` of the weights of each 1x1 convolution are 0."""
    keras.utils.set_random_seed(seed)
    model = keras.applications.MobileNetV2(input_shape=(side, side, 3), weights=None, classifier_activation=None)
    return _pruned(model, (1, 1), sparsity, seed)


def resnet50(side: int, sparsity: float, seed: int = 0) -> keras.Model:
    """ResNet50 for 1000 classes; `sparsity` of the kernels of each 3x3 convolution are 0."""
    keras.utils.set_random_seed(seed)
    model = keras.applications.ResNet50(input_shape=(side, side, 3), weights=None, classifier_activation=None)
    return _pruned(model, (3, 3), sparsity, seed)


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
    return _pruned(model, (3, 3), sparsity, seed)


def _pruned(model: keras.Model, size: tuple[int, int], sparsity: float, seed: int) -> keras.Model:
    """Sets random kernels [kh, kw] of the convolutions of this size to 0, but for the first layer's."""
    rng = np.random.default_rng(seed)
    convs = [layer for layer in model.layers if type(layer) is layers.Conv2D][1:]
    for layer in convs:
        if layer.kernel_size == size:
            kernel = keras.ops.convert_to_numpy(layer.kernel)
            dead = rng.permutation(kernel[0, 0].size)[: round(sparsity * kernel[0, 0].size)]
            kernel.reshape(*size, -1)[:, :, dead] = 0
            layer.kernel.assign(kernel)
    settle(model, rng.standard_normal((8, *model.input_shape[1:])).astype(np.float32))
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
