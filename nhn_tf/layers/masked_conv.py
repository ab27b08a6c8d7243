"""A full convolution of which single kernels can be switched off."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


class Masked(keras.layers.Layer):
    """What layers with a mask over their connections share; stands before the Keras layer among the parents.

    Attributes:
      mask: float [Cin, Cout], 1 where a connection is kept. Saved and loaded with the weights.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        shape = self.kernel.shape[-2:]
        self.mask = self.add_weight(name="mask", shape=shape, initializer="ones", trainable=False)
        if self.kernel_regularizer is not None:
            self.kernel.regularizer = self._penalty

    def set_mask(self, mask: np.ndarray) -> None:
        """Keeps the connections where `mask` is True; the others' weights become 0.

        Args:
          mask: bool [Cin, Cout].

        Raises:
          ValueError: of another shape or type.
        """
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != tuple(self.mask.shape):
            raise ValueError(
                f"the mask of layer {self.name!r} must be bool {tuple(self.mask.shape)}. "
                f"Received: {mask.dtype} {mask.shape}."
            )
        self.mask.assign(mask.astype("float32"))
        self.kernel.assign(ops.convert_to_numpy(self.kernel) * mask)

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        if self.built:
            store["mask"] = self.mask

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        if self.built:
            self.mask.assign(store["mask"])

    def _penalty(self, kernel: Any) -> Any:
        return self.kernel_regularizer(kernel * ops.cast(self.mask, kernel.dtype))


@keras.saving.register_keras_serializable("nhn_tf")
class MaskedConv2D(Masked, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a mask over its connections (paper, section 2.2).

    A connection is the spatial kernel K[:, :, i, j] between input channel i and output channel j. The layer convolves
    with `kernel * mask`, so a pruned connection neither acts nor receives a gradient. A `kernel_regularizer` sees the
    live connections only. The mask is saved and loaded with the weights.

    Args:
      filters: Cout.
      kernel_size: k, or (kh, kw).
      **kwargs: of `keras.layers.Conv2D`, except `groups`.

    Input shape: [B, H, W, Cin] (channels last).
    Output shape: [B, H', W', Cout].
    """

    def __init__(self, filters: int, kernel_size: int | tuple[int, int], **kwargs: Any):
        super().__init__(filters, kernel_size, **kwargs)
        if self.groups != 1:
            raise ValueError(f"`groups` must be 1: a mask addresses pairs of channels. Received: {self.groups}.")

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        return super().convolution_op(inputs, ops.multiply(kernel, ops.cast(self.mask, kernel.dtype)))
