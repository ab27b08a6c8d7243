"""The residual network of small images (He et al. 2016a, section 4.2), what a run's network is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from nhn_tf.layers import BatchNorm

STAGES = 3
BLOCKS = 3
"""Of two convolutions in each stage: 20 layers, with the stem and the classifier."""


def build(input_shape: Sequence[int], num_classes: int, *, filters: int = 16, dropout: float = 0.0) -> keras.Model:
    """ResNet-20; of 32x32 colour images and 10 classes 272,474 parameters.

    Shortcuts are the identity, and a 1x1 convolution where a stage begins (option B).

    Args:
      input_shape: (H, W, C) of the images.
      num_classes: of the logits.
      filters: channels of the first stage; each stage has twice as many as the one before.
      dropout: share of the classifier's inputs dropped in training.

    Returns:
      A functional model from images [B, H, W, C] to logits, float32 [B, num_classes].
    """
    images = keras.Input(tuple(input_shape), name="images")
    x = layers.ReLU(name="stem_relu")(_convolve(images, filters, "stem"))
    for stage in range(STAGES):
        for block in range(BLOCKS):
            x = _block(x, filters * 2**stage, f"stage{stage}_block{block}", halve=stage > 0 and block == 0)
    x = layers.GlobalAveragePooling2D(name="global_pool")(x)
    x = layers.Dropout(dropout, seed=0, name="dropout")(x)
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name="resnet20")


def _block(x: Any, filters: int, name: str, *, halve: bool) -> Any:
    strides = 2 if halve else 1
    y = layers.ReLU(name=f"{name}_relu0")(_convolve(x, filters, f"{name}_0", strides=strides))
    y = _convolve(y, filters, f"{name}_1")
    if halve:
        x = _convolve(x, filters, f"{name}_shortcut", size=1, strides=strides)
    return layers.ReLU(name=f"{name}_relu1")(layers.Add(name=f"{name}_add")([x, y]))


def _convolve(x: Any, filters: int, name: str, *, size: int = 3, strides: int = 1) -> Any:
    """A convolution without bias, and BN."""
    convolution = layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )
    return BatchNorm(name=f"{name}_bn")(convolution(x))
