"""Global pooling whose weights are learnt."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("nhn_tf")
class GroupedGlobalPool(keras.layers.Layer):
    """A depthwise H x W convolution, VALID, without bias: each map becomes one value (paper, section 2.1).

    It starts as exact global average pooling (every weight 1 / (H * W)) and then learns where to look.

    Input shape: [B, H, W, C], with H and W known.
    Output shape: [B, C].
    """

    def build(self, input_shape: tuple[Any, ...]) -> None:
        if len(input_shape) != 4 or None in input_shape[1:]:
            raise ValueError(f"the input must be [B, H, W, C] with H, W and C known. Received: {tuple(input_shape)}.")
        _, height, width, channels = input_shape
        self.kernel = self.add_weight(
            name="kernel",
            shape=(height, width, channels),
            initializer=keras.initializers.Constant(1.0 / (height * width)),
            autocast=False,
        )

    def call(self, inputs: Any) -> Any:
        # Summed in the weights' precision: H * W terms would lose bits in a half-precision sum.
        weighted = ops.cast(inputs, self.kernel.dtype) * self.kernel
        return ops.cast(ops.sum(weighted, axis=(1, 2)), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], input_shape[3])
