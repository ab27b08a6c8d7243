"""Images as arrays, and batches of them: data sets, their splits, augmentation.

What needs Keras is imported when it is asked for, so that pictures can be read without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nhn_tf.data.splits import DataError, Dataset, Split

if TYPE_CHECKING:
    from nhn_tf.data.batches import Augmentation, Batches, FollowEpoch
    from nhn_tf.data.datasets import augmentation_for, load
    from nhn_tf.data.normalization import Normalization

_LATER = {
    "Augmentation": "batches",
    "Batches": "batches",
    "FollowEpoch": "batches",
    "Normalization": "normalization",
    "augmentation_for": "datasets",
    "load": "datasets",
}

__all__ = [
    "Augmentation",
    "Batches",
    "DataError",
    "Dataset",
    "FollowEpoch",
    "Normalization",
    "Split",
    "augmentation_for",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
