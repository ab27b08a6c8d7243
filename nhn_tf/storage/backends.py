"""The backends that Keras may compute with. Where none is installed, importing this says so before Keras fails to load.

A room that needs Keras imports it first.
"""

from __future__ import annotations

import importlib.util
from typing import Final

from nhn_tf.errors import UserError
from nhn_tf.storage.commands import typed

BACKENDS: Final = ("tensorflow", "jax")


class MissingBackendError(UserError, ImportError):
    """Keras has nothing to compute with."""


def installed() -> tuple[str, ...]:
    """The backends that are there, of which there is one at least.

    Raises:
      MissingBackendError: there is none.
    """
    there = tuple(name for name in BACKENDS if importlib.util.find_spec(name))
    if not there:
        raise MissingBackendError(f"the Keras backend {' or '.join(BACKENDS)} is not installed. Run: {how(*BACKENDS)}.")
    return there


def how(*names: str) -> str:
    """The commands that install backends."""
    return typed(" or ".join(f"pip install 'nhn-tf[{name}]'" for name in names))


installed()
