"""Exports of a run's network: Keras, SavedModel, ONNX, LiteRT and the kernel-sparse runtime's own file.

    written = write_exports("runs/demo", ["keras", "onnx"])

And what they answer to new pictures:

    predictor = load_predictor("runs/demo")
    print(predictor("new.jpg").top(3))

What needs Keras is imported when it is asked for: predicting with the kernel-sparse runtime does without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nhn_tf.export.predicting import Prediction, Predictor, load_predictor
from nhn_tf.export.preprocessing import Preprocessing
from nhn_tf.export.source import ExportError

if TYPE_CHECKING:
    from nhn_tf.export.formats import FORMATS
    from nhn_tf.export.write import write_exports

_LATER = {"FORMATS": "formats", "write_exports": "write"}

__all__ = [
    "FORMATS",
    "ExportError",
    "Prediction",
    "Predictor",
    "Preprocessing",
    "load_predictor",
    "write_exports",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nhn_tf.storage import backends as backends

    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
