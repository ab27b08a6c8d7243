"""A layer made anew: from its configuration, with all that it has learned.

State is carried by the layers' own saving hooks (`save_own_variables`, `load_own_variables`, `save_assets`,
`load_assets`), which Keras uses for its files, layer by layer through all that stand within one another. So nothing
depends on names: two variables called `kernel` in one layer, an adapted Normalization and a vocabulary all arrive.
"""

from __future__ import annotations

import tempfile
import types
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from nhn_tf.models.keras_graph import kind_of


def remake(layer: Any, kind: Any = None, **changes: Any) -> Any:
    """A new layer, not built, of a layer's configuration; a bare operation, which has no state, is returned as it is.

    Args:
      layer: to be copied.
      kind: class of the new layer, of the same arguments; by default the layer's own.
      **changes: arguments that differ.

    Raises:
      ValueError: the configuration does not make the layer, as that of a class without `get_config`; the message names
        the layer.
    """
    if not isinstance(layer, keras.Layer):
        return layer
    try:
        parent: Any = kind_of(layer)
        with warnings.catch_warnings(action="ignore"):  # Of a lambda, which is taken as it is below.
            config = parent.get_config(layer) if kind else layer.get_config()
        for key, value in config.items():
            if _is_foreign_function(own := getattr(layer, key, None)) and isinstance(value, dict):
                config[key] = own  # It has no name by which Keras would find it again.
        if isinstance(layer, keras.layers.Lambda):
            config["dtype"] = keras.dtype_policies.get(config.get("dtype"))
            return type(layer)(**{**config, **changes})  # `from_config` takes no function.
        made = (kind or type(layer)).from_config({**config, **changes})
        made.name = changes.get("name", layer.name)  # Which Keras leaves out where `__init__` seems to take none.
        return made
    except Exception as error:
        if kind is None and kind_of(layer) is not type(layer):
            return remake(layer, kind_of(layer), **changes)  # What it computes; only its own arguments are lost.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"layer {layer.name!r} ({type(layer).__name__}) cannot be copied: `from_config` does not make it of what "
            f"`get_config` gives ({reason}). Give its class both, and keras.saving.register_keras_serializable."
        ) from None


def check_unshared(layers: Mapping[str, Any]) -> None:
    """Raises a ValueError where two layers share weights: their copies would have one each, and learn apart.

    Args:
      layers: path to layer, each once.
    """
    owners: dict[int, str] = {}
    for path, layer in layers.items():
        for variable in getattr(layer, "variables", ()):
            owner = owners.setdefault(id(variable), path)
            if owner != path:
                raise ValueError(
                    f"layers {owner!r} and {path!r} share the weights {variable.path!r}, and copies of them would not. "
                    "Share weights by calling one layer twice."
                )


def carry(source: Any, target: Any, **instead: np.ndarray) -> None:
    """Gives a layer the state of another of the same configuration.

    Args:
      source: a layer.
      target: a built layer with the same layers within it.
      **instead: entries of what the source saves that differ.

    Raises:
      ValueError: the two do not match; the message names the layer.
    """
    if not isinstance(source, keras.Layer):
        return
    try:
        for one, other in zip(_with_layers_within(source), _with_layers_within(target), strict=True):
            if one.built and not other.built:  # Such as a PReLU that is another layer's activation.
                other.build_from_config(one.get_build_config())
            saved: dict[str, Any] = {}
            one.save_own_variables(saved)
            saved = {key: keras.ops.convert_to_numpy(value) for key, value in saved.items()}
            other.load_own_variables({**saved, **instead} if one is source else saved)
            if hasattr(one, "save_assets"):
                with tempfile.TemporaryDirectory() as directory:
                    one.save_assets(directory)
                    other.load_assets(directory)
        # No file holds the states of random generators, and a copy is to go on as its original would.
        for state, copied in zip(_random_states(source), _random_states(target), strict=True):
            copied.assign(keras.ops.convert_to_numpy(state))  # JAX would let both hold one array, and donate it
    except Exception as error:
        raise ValueError(
            f"the state of layer {source.name!r} ({type(source).__name__}) cannot be copied: {error} Its class must "
            "build the same variables from its configuration."
        ) from None


def _is_foreign_function(value: Any) -> bool:
    """Whether a function is not Keras's own; a lambda that Keras has loaded from a file says that it is."""
    if not isinstance(value, types.FunctionType):
        return False
    return not value.__module__.startswith("keras.") or value.__name__ == "<lambda>"


def _with_layers_within(layer: Any) -> list[Any]:
    return layer._flatten_layers()


def _random_states(layer: Any) -> list[Any]:
    return [variable for variable in layer.variables if variable.name == "seed_generator_state"]
