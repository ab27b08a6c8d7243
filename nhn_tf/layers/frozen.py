"""A part of a network that no longer learns."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from nhn_tf.layers import backend


@keras.saving.register_keras_serializable("nhn_tf")
class Frozen(keras.layers.Layer):
    """A model in inference mode, with no gradient into its weights and no backward pass that nobody asked for.

    Args:
      network: a functional model from a list of inputs to one output; it becomes untrainable.

    Call arguments:
      inputs: the list of the network's inputs.
      needed: whether a gradient with respect to the inputs is needed: bool, or a bool scalar tensor for a choice at run
        time. Without need the backward pass is not run; the gradient is zero.
      training: the network itself is never in training mode; outside of training there is nothing to gate.
    """

    def __init__(self, network: keras.Model, **kwargs: Any):
        super().__init__(**{**kwargs, "trainable": False})
        network.trainable = False
        self.network = network
        self.supports_jit = backend.supports_jit()

    def build(self, *shapes: Any) -> None:
        self.built = True

    def call(self, inputs: list[Any], needed: Any = True, training: bool | None = None) -> Any:
        if not training:
            return self._infer(*inputs)
        if isinstance(needed, bool):
            return self._infer(*inputs) if needed else ops.stop_gradient(self._infer(*inputs))
        return backend.gate_gradient(self._infer, inputs, needed)

    def _infer(self, *inputs: Any) -> Any:
        return self.network(list(inputs), training=False)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "network": keras.saving.serialize_keras_object(self.network)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Frozen:
        return cls(**{**config, "network": keras.saving.deserialize_keras_object(config["network"])})
