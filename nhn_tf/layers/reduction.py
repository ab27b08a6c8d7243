"""ENAS's factorized reduction."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from nhn_tf.layers import backend


@keras.saving.register_keras_serializable("nhn_tf")
class FactorizedReduction(keras.layers.Layer):
    """Halves height and width without losing half of the pixels.

    Two 1x1 convolutions of stride 2, the second of which reads the map shifted by one pixel along both axes; their
    results stand side by side. No bias, no normalisation.

    Args:
      filters: F, channels of the result.
      filters_a: how many of them the first path makes; by default half, rounded up.
      kernel_initializer: of both 1x1 kernels, a name or a `keras.initializers.Initializer`.

    Input shape: [B, H, W, Cin], H and W even.
    Output shape: [B, H / 2, W / 2, F].

    Reference: ENAS's released code, `_factorized_reduction`.
    """

    def __init__(
        self, filters: int, *, filters_a: int | None = None, kernel_initializer: Any = "he_normal", **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.filters_a = (filters + 1) // 2 if filters_a is None else filters_a
        if filters < 1 or not 0 <= self.filters_a <= filters:
            raise ValueError(
                f"`filters` must be positive and `filters_a` in 0..filters. Received: {filters} and {filters_a}."
            )
        self.filters_b = filters - self.filters_a
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.compute_output_shape(input_shape)
        shape = (1, 1, input_shape[-1])
        # The second path gets a clone: called again, one initializer would draw the same weights.
        first, second = self.kernel_initializer, self.kernel_initializer.clone()
        self.kernel_a = self.add_weight(name="kernel_a", shape=(*shape, self.filters_a), initializer=first)
        self.kernel_b = self.add_weight(name="kernel_b", shape=(*shape, self.filters_b), initializer=second)

    def call(self, inputs: Any) -> Any:
        kernels = (ops.convert_to_tensor(self.kernel_a), ops.convert_to_tensor(self.kernel_b))
        return backend.factorized_reduction(inputs, *kernels)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, height, width, _ = input_shape
        if any(size is not None and size % 2 for size in (height, width)):
            raise ValueError(f"height and width must be even to be halved. Received: {tuple(input_shape)}.")
        halves = tuple(None if size is None else size // 2 for size in (height, width))
        return (batch, *halves, self.filters)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "filters_a": self.filters_a,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
