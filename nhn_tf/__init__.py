"""Neuron Hierarchical Networks in Keras 3: search an architecture, prune it, grow it sparsely, train it.

    nhn_tf.run       the whole pipeline on images at hand or in files: run.pipeline(x, y, model_dir="runs/mine")
    nhn_tf.search    the searches, in Keras Tuner's vocabulary: search.EnasSearch(space, config, ...)
    nhn_tf.pruning   kernels and channels of any Keras model: pruning.prune(model, sparsity=0.85)
    nhn_tf.sparse    fast inference of pruned networks on CPUs: sparse.compile(model)
    nhn_tf.export    a run's network for other programs: export.load_predictor("runs/mine")("new.jpg")

Each is loaded when it is first used; `nhn_tf.sparse.load` needs neither Keras nor TensorFlow.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_FACE = {
    "export": "nhn_tf.export",
    "pruning": "nhn_tf.pruning",
    "run": "nhn_tf.stages.pipeline",
    "search": "nhn_tf.search",
    "sparse": "nhn_tf.sparse",
}

__all__ = ["__version__", *_FACE]


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(_FACE[name])


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACE})
