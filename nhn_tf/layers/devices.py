"""Trainings on several devices: each takes as many images of a batch, and the gradient is that of all of them.

    with devices.scope("mirrored"):  # networks are made, trained and measured within
        devices.count()

On TensorFlow it is one `tf.distribute.MirroredStrategy` for the life of the process, since the collectives of a second
one are lost; on JAX `keras.distribution.DataParallel`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras

from nhn_tf.errors import UserError

_IS_TENSORFLOW = keras.backend.backend() == "tensorflow"
if _IS_TENSORFLOW:
    import tensorflow as tf
else:
    import jax

_count = 1


def check(kind: str) -> None:
    """Refuses a way to distribute that the running backend has not.

    Args:
      kind: off, mirrored or jax.
    """
    backend = {"mirrored": "tensorflow", "jax": "jax"}.get(kind)
    if backend not in (None, keras.backend.backend()):
        raise UserError(
            f"`distribute`={kind} needs the backend {backend}. Received: {keras.backend.backend()}.\n"
            f"Set KERAS_BACKEND={backend}, or give `distribute`={'mirrored' if _IS_TENSORFLOW else 'jax'}."
        )


@contextlib.contextmanager
def scope(kind: str) -> Iterator[None]:
    """Within, networks are made and trained on all devices; `kind` is off, mirrored or jax, see `check`."""
    global _count
    if kind == "off":
        yield
        return
    strategy = _strategy()
    with strategy.scope():
        _count = strategy.num_replicas_in_sync if _IS_TENSORFLOW else jax.device_count()
        try:
            yield
        finally:
            _count = 1


def count() -> int:
    """The devices that share a batch: those of every process within `scope`, else 1."""
    return _count


@functools.cache
def _strategy() -> Any:
    if not _IS_TENSORFLOW:
        return keras.distribution.DataParallel(auto_shard_dataset=False)
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in found])
