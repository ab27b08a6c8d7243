"""A dense layer of which single weights can be switched off."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from nhn_tf.layers.masked_conv import Masked


@keras.saving.register_keras_serializable("nhn_tf")
class MaskedDense(Masked, keras.layers.Dense):
    """`keras.layers.Dense` with a mask over its weights, as `MaskedConv2D` has one over its kernels.

    Args:
      units: Cout.
      **kwargs: of `keras.layers.Dense`.

    Input shape: [B, ..., Cin].
    Output shape: [B, ..., Cout].
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        y = ops.matmul(inputs, ops.multiply(self.kernel, ops.cast(self.mask, self.compute_dtype)))
        if self.bias is not None:
            y = ops.add(y, self.bias)
        return y if self.activation is None else self.activation(y)
