"""Batch normalisation on the backend's fastest kernel."""

from __future__ import annotations

from typing import Any, Final

import keras
from keras import ops

from nhn_tf.layers import backend

# ENAS's, of every batch normalisation here.
MOMENTUM: Final = 0.9
EPSILON: Final = 1e-5


@keras.saving.register_keras_serializable("nhn_tf")
class BatchNorm(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with ENAS's defaults and, on TensorFlow, the fused kernel.

    Outputs, gradients and moving statistics are Keras's own; whatever the fast path cannot do (another axis, a mask,
    no scale or centre, renormalisation, synchronisation) is left to Keras.

    Args:
      momentum: of the moving statistics.
      epsilon: added to the variance.
      use_batch_statistics: normalise by the batch's statistics when not training too. The moving statistics are then
        still updated by training only.
      **kwargs: of `keras.layers.BatchNormalization`.

    Input shape: [..., C].
    Output shape: the same.
    """

    def __init__(
        self, *, momentum: float = MOMENTUM, epsilon: float = EPSILON, use_batch_statistics: bool = False, **kwargs: Any
    ):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)
        self.use_batch_statistics = use_batch_statistics
        self.supports_jit = backend.supports_jit()
        if use_batch_statistics and not self._is_plain():
            raise ValueError("`use_batch_statistics` needs scale and centre, and neither renorm nor synchronized.")

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        last = self.axis in (-1, len(inputs.shape) - 1)
        if mask is not None or not last or not self._is_plain():
            return super().call(inputs, training=training, mask=mask)
        learning = training and self.trainable
        if not (learning or self.use_batch_statistics):
            moving = (self.moving_mean, self.moving_variance)
            return backend.batch_norm_inference(
                inputs, *map(ops.convert_to_tensor, (self.gamma, self.beta, *moving)), epsilon=self.epsilon
            )
        outputs, mean, variance = backend.batch_norm_training(
            inputs, *map(ops.convert_to_tensor, (self.gamma, self.beta)), epsilon=self.epsilon
        )
        if learning:
            for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + ops.cast(value, moving.dtype) * (1.0 - self.momentum))
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "use_batch_statistics": self.use_batch_statistics}

    def _is_plain(self) -> bool:
        return self.scale and self.center and not self.synchronized and not getattr(self, "renorm", False)
