"""Add-on neurons while they are searched: convolutions that join a layer's output (paper, section 2.3).

Letters: B batch, H W spatial, C channels, s sources, n directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from nhn_tf.layers.mixed_op import StackedBatchNorm
from nhn_tf.layers.smooth_init import SmoothInit


@keras.saving.register_keras_serializable("nhn_tf")
class AddOnChoice(keras.layers.Layer):
    """Adds at most one of several add-ons to a layer's output: x + BN(convolution(sources[choice])).

    There is a kernel and a BN for each source; only the chosen one is computed. A choice of -1 returns x itself and
    leaves all statistics as they were. The BN's scale starts at 0, so that a fresh add-on changes nothing
    (`docs/decisions.md`, "Add-ons start at zero").

    Args:
      num_sources: s.
      kernel_size: k of every kernel.
      smooth_init: smooth the initial kernels (paper, section 2.2).

    Call arguments:
      inputs: [B, H, W, C], the layer's output x.
      sources: s tensors of the same shape.
      choice: int32 scalar, -1 to s - 1.
      training: whether to normalise by the batch and to update the chosen add-on's moving statistics.

    Output shape: [B, H, W, C].
    """

    def __init__(self, num_sources: int, kernel_size: int, *, smooth_init: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_sources = num_sources
        self.kernel_size = kernel_size
        self.smooth_init = smooth_init
        self.bn = StackedBatchNorm(num_sources, gamma_initializer="zeros", name="bn", dtype=self.dtype_policy)

    def build(self, inputs_shape: tuple[int | None, ...], sources_shape: Any = None, choice_shape: Any = None) -> None:
        channels = inputs_shape[-1]
        shape = (self.kernel_size, self.kernel_size, channels, channels)
        self.kernels = [
            self.add_weight(
                name=f"kernel{source}",
                shape=shape,
                initializer=SmoothInit("he_normal") if self.smooth_init else "he_normal",
            )
            for source in range(self.num_sources)
        ]
        self.bn.build(inputs_shape)

    def call(self, inputs: Any, sources: Sequence[Any], choice: Any, training: bool | None = None) -> Any:
        learning = bool(training) and self.trainable
        one_hot = ops.one_hot(choice, self.num_sources, dtype="float32")  # all zeros for -1
        chosen = self.bn.select(one_hot)

        def none(x: Any) -> tuple[Any, Any, Any]:
            return x, chosen.mean, chosen.variance

        def add_on(source: Any, kernel: Any) -> Callable[[Any], tuple[Any, Any, Any]]:
            def branch(x: Any) -> tuple[Any, Any, Any]:
                y = ops.conv(source, kernel, strides=1, padding="same", data_format="channels_last")
                y, mean, variance = self.bn.normalize(y, chosen, by_batch=learning)
                return x + y, mean, variance

            return branch

        branches = [none, *(add_on(*pair) for pair in zip(sources, self.kernels, strict=True))]
        y, mean, variance = ops.switch(choice + 1, branches, inputs)
        if learning:
            self.bn.update(one_hot, mean, variance)
        return y

    def compute_output_shape(self, inputs_shape: tuple[int | None, ...], *unused: Any) -> tuple[int | None, ...]:
        return tuple(inputs_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_sources": self.num_sources,
            "kernel_size": self.kernel_size,
            "smooth_init": self.smooth_init,
        }


@keras.saving.register_keras_serializable("nhn_tf")
class DirectedConv2D(keras.layers.Conv2D):
    """A convolution with several masks over its connections, one of which is chosen at run time.

    Like `MaskedConv2D` it convolves with `kernel * mask`, mask [Cin, Cout]; the kernel keeps its values outside the
    mask, for the other directions.

    Args:
      filters: Cout.
      kernel_size: k.
      directions: n, how many masks there are; at first they keep every connection.
      **kwargs: of `keras.layers.Conv2D`, except `groups` and `use_bias`.

    Call arguments:
      inputs: [B, H, W, Cin].
      direction: int32 scalar, 0 to n - 1.

    Output shape: [B, H', W', Cout].
    """

    def __init__(self, filters: int, kernel_size: int, *, directions: int, **kwargs: Any):
        super().__init__(filters, kernel_size, **{**kwargs, "use_bias": False})
        self.directions = directions

    def build(self, inputs_shape: tuple[int | None, ...], direction_shape: Any = None) -> None:
        super().build(inputs_shape)
        shape = (self.directions, *self.kernel.shape[2:])
        # uint8: a population's masks take a quarter of the kernels' room.
        self.masks = self.add_weight(name="masks", shape=shape, initializer="ones", dtype="uint8", trainable=False)

    def call(self, inputs: Any, direction: Any) -> Any:
        mask = ops.take(ops.convert_to_tensor(self.masks), direction, axis=0)
        kernel = ops.convert_to_tensor(self.kernel)
        return self.convolution_op(inputs, kernel * ops.cast(mask, kernel.dtype))

    def set_masks(self, masks: np.ndarray) -> None:
        """Replaces all masks by bool [n, Cin, Cout]."""
        masks = np.asarray(masks)
        if masks.dtype != np.bool_ or masks.shape != tuple(self.masks.shape):
            raise ValueError(
                f"the masks of layer {self.name!r} must be bool {tuple(self.masks.shape)}. "
                f"Received: {masks.dtype} {masks.shape}."
            )
        self.masks.assign(masks.astype("uint8"))

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        if self.built:
            store["masks"] = self.masks

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        if self.built:
            self.masks.assign(store["masks"])

    def compute_output_shape(
        self, inputs_shape: tuple[int | None, ...], direction_shape: Any = None
    ) -> tuple[int | None, ...]:
        return super().compute_output_shape(inputs_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "directions": self.directions}
