"""Smooth initial kernels, so that flatness can tell useless connections later."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("nhn_tf")
class SmoothInit(keras.initializers.Initializer):
    """Smooths what another initializer draws (paper, section 2.2).

    Every spatial kernel [kh, kw] is convolved with the 3x3 binomial Gaussian [1 2 1; 2 4 2; 1 2 1] / 16, zero padded;
    the whole tensor is then scaled to the variance it had before. Left as drawn are tensors where that has no meaning:
    1x1 kernels (smoothing and rescaling cancel) and tensors of variance 0 (already flat).

    Args:
      initializer: anything `keras.initializers.get` takes.
    """

    def __init__(self, initializer: Any = "he_normal"):
        self.initializer = keras.initializers.get(initializer)

    def __call__(self, shape: tuple[int, ...], dtype: Any = None, **kwargs: Any) -> Any:
        """Draws a kernel [kh, kw, ...]."""
        kernel = self.initializer(shape, dtype=dtype, **kwargs)
        if len(shape) < 3 or tuple(shape[:2]) == (1, 1):
            return kernel
        drawn = ops.cast(kernel, "float32")
        smooth = _binomial(_binomial(drawn, axis=0), axis=1)
        before, after = ops.var(drawn), ops.var(smooth)
        # Rounding leaves a constant tensor a variance of order epsilon^2 times its mean square.
        is_flat = before <= 1e-12 * ops.mean(ops.square(drawn))
        scaled = smooth * ops.sqrt(before / ops.where(is_flat, 1.0, after))
        return ops.cast(ops.where(is_flat, drawn, scaled), kernel.dtype)

    def get_config(self) -> dict[str, Any]:
        return {"initializer": keras.initializers.serialize(self.initializer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SmoothInit:
        return cls(keras.initializers.deserialize(config["initializer"]))

    def clone(self) -> SmoothInit:
        return type(self)(self.initializer.clone())


def _binomial(kernel: Any, *, axis: int) -> Any:
    """Convolution with [1 2 1] / 4 along one axis, zero padded."""
    size = kernel.shape[axis]
    widths = [(1, 1) if a == axis else (0, 0) for a in range(len(kernel.shape))]
    padded = ops.pad(kernel, widths)
    shifts = [ops.take(padded, ops.arange(start, start + size), axis=axis) for start in range(3)]
    return 0.25 * shifts[0] + 0.5 * shifts[1] + 0.25 * shifts[2]
