"""The plain network that a run's is compared with: what one would write oneself."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from nhn_tf.layers import BatchNorm

STAGES = 3
"""Stretches of equal map size, as in the searched networks."""


def build(input_shape: Sequence[int], num_classes: int, *, filters: int = 32, dropout: float = 0.0) -> keras.Model:
    """Three stages of two 3x3 convolutions, each with BN and ReLU; a maximum pooling behind each but the last.

    Args:
      input_shape: (H, W, C) of the images.
      num_classes: of the logits.
      filters: channels of the first stage; each stage has twice as many as the one before.
      dropout: share of the classifier's inputs dropped in training.

    Returns:
      A functional model from images [B, H, W, C] to logits, float32 [B, num_classes].
    """
    x = images = keras.Input(tuple(input_shape), name="images")
    for stage in range(STAGES):
        if stage:
            x = layers.MaxPooling2D(name=f"pool{stage}")(x)
        for number in range(2):
            name = f"stage{stage}_conv{number}"
            x = layers.Conv2D(
                filters * 2**stage, 3, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
            )(x)
            x = BatchNorm(epsilon=1e-3, name=f"stage{stage}_bn{number}")(x)
            x = layers.ReLU(name=f"stage{stage}_relu{number}")(x)
    x = layers.GlobalAveragePooling2D(name="global_pool")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name="plain_cnn")
