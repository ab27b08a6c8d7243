"""Ops of one's own (`values.space.register_op`): their layers, checked.

Letters: B batch, H W spatial, C channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import keras
from keras.src.backend.common import global_state  # Neither has a public name.
from keras.src.models import Functional

from nhn_tf.layers.masked_conv import MaskedConv2D
from nhn_tf.storage import files
from nhn_tf.values.space import Op, OpError, op_named

_PROBED: Final = (8, 8)
"""Height and width on which a layer is tried."""
_PLACES: Final = ("module", "registered_name", "code")
"""Where a class comes from, which may be a module that is run, and a lambda's bytes, which name their file and line."""
_DESCRIBED: Final = 8
"""Channels of the layer that tells one op from another."""


def make(op: Op, filters: int, name: str, *, dtype: Any = None) -> keras.layers.Layer:
    """A new layer of an op, not built yet.

    Args:
      op: of kind "own".
      filters: C.
      name: of the layer.
      dtype: its policy; by default Keras's present one.

    Raises:
      OpError: the op's factory fails, or returns something else.
    """
    if op.factory is None:
        raise OpError(f"{op.name!r} is no op of one's own.")
    with _policy(dtype):
        try:
            layer = op.factory(filters, name)
        except Exception as error:
            raise OpError(f"what makes op {op.name!r} fails for {filters} filters: {error!r}.") from error
    if not isinstance(layer, keras.layers.Layer) or layer.name != name:
        got = f"one called {layer.name!r}" if isinstance(layer, keras.layers.Layer) else repr(layer)
        raise OpError(f"what makes op {op.name!r} must return a new Keras layer called {name!r}. Received: {got}.")
    return layer


def apply(op: Op, layer: keras.layers.Layer, x: Any) -> Any:
    """The layer's output for symbolic x [B, H, W, C].

    Raises:
      OpError: it has another shape, or the layer is not as `register_op` says.
    """
    y = _call(op, layer, x)
    if tuple(getattr(y, "shape", ())) != tuple(x.shape):
        raise OpError(f"op {op.name!r} must keep the shape {tuple(x.shape)}. Received: {getattr(y, 'shape', y)}.")
    trained = {id(variable) for variable in layer.trainable_variables}
    fixed = [variable.path for variable in layer.variables if id(variable) not in trained]
    if fixed and not isinstance(layer, MaskedConv2D):
        raise OpError(
            f"op {op.name!r} must have no state but trained weights: batch norm and dropout cannot stand in it. "
            f"Received: {', '.join(fixed)}."
        )
    parts = layer._flatten_layers()
    if any(getattr(part, "activity_regularizer", None) for part in parts):
        raise OpError(f"op {op.name!r} must add no loss: leave its activity_regularizer out.")
    for part in parts:
        if isinstance(part, (keras.Sequential, Functional)) and has_own_call(part):
            raise OpError(
                f"a model within op {op.name!r} must compute what its graph of layers says. Received: type "
                f"{type(part).__name__}, which has a `call` of its own. Make a keras.Layer of it."
            )
    return y


def check(op: Op, filters: int) -> keras.layers.Layer:
    """A layer of the op, tried on small maps of so many channels; for the sake of its errors.

    Raises:
      OpError: as `make` and `apply`; and if the layer's weights have other names each time it is made.
    """
    layers = [make(op, filters, op.name) for _ in range(2)]
    for layer in layers:
        apply(op, layer, keras.Input((*_PROBED, filters)))
    first, second = ([variable.path for variable in layer.variables] for layer in layers)
    if first != second or len(set(first)) != len(first):
        path = next((path for path, other in zip(first, second, strict=False) if path != other), first[-1])
        raise OpError(
            f"the weights of op {op.name!r} must have the same names each time it is made: give each layer within it a "
            f"name. Received: {path}."
        )
    return layers[0]


def digests(ops: Iterable[str]) -> dict[str, str]:
    """Of those ops that are one's own, what tells their layers from others, by name: as far as Keras describes them.

    Raises:
      OpError: an op is not registered, or what makes it fails.
    """
    own = [op for op in map(op_named, ops) if op.kind == "own"]
    return {op.name: files.digest_json({"batch_norm": op.has_batch_norm, "layer": _description(op)}) for op in own}


def check_same(before: Mapping[str, str], now: Mapping[str, str], where: str) -> None:
    """Refuses ops whose layers are others than those that something was begun with.

    Args:
      before: their digests then; without those of versions that noted none.
      now: as `digests` has them.
      where: what was begun with them.

    Raises:
      OpError: it names the first.
    """
    for name in now:
        if before.get(name, now[name]) != now[name]:
            raise OpError(
                f"op {name!r} makes another layer than when {where} was begun. Register that one again, or give this "
                "one another name."
            )


def _description(op: Op) -> Any:
    """What Keras says of an op's layer, as a JSON value, the same in every process."""
    with _names_counted_anew():
        layer = make(op, _DESCRIBED, op.name, dtype="float32")
    try:
        return _without_places(keras.saving.serialize_keras_object(layer))
    except NotImplementedError:  # a layer without a `get_config`
        return type(layer).__name__


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_places(item) for name, item in value.items() if name not in _PLACES}
    return [_without_places(item) for item in value] if isinstance(value, (list, tuple)) else value


@contextlib.contextmanager
def _names_counted_anew() -> Iterator[None]:
    """Within, layers that are given no name get those of a new process: `re_lu`, however many there were before."""
    before = global_state.get_global_attribute("object_name_uids")
    global_state.set_global_attribute("object_name_uids", None)
    try:
        yield
    finally:
        global_state.set_global_attribute("object_name_uids", before)


def maskable(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer, not built yet; a full 3x3 or 5x5 convolution as one that can be masked."""
    if not is_full_convolution(layer):
        return layer
    return MaskedConv2D.from_config(layer.get_config())


def has_own_call(model: keras.Model) -> bool:
    """Whether a model of which the graph is known may compute otherwise than its graph."""
    return type(model).call not in (Functional.call, keras.Sequential.call)


def is_full_convolution(layer: keras.layers.Layer) -> bool:
    """Whether a layer is one that is masked and pruned as the built-in convolutions are."""
    return type(layer) is keras.layers.Conv2D and layer.groups == 1 and layer.kernel_size in ((3, 3), (5, 5))


def _call(op: Op, layer: keras.layers.Layer, x: Any) -> Any:
    try:
        return layer(x)
    except Exception as error:
        raise OpError(f"the layer of op {op.name!r} fails on maps {tuple(x.shape)}: {error!r}.") from error


@contextlib.contextmanager
def _policy(dtype: Any) -> Iterator[None]:
    """Within, layers are made of that policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(before if dtype is None else dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
