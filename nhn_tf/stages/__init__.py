"""The stages: each reads what it needs from the run directory, calls one algorithm, and writes its result back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from nhn_tf import training
from nhn_tf.runs import RunDirectory, Settings
from nhn_tf.stages import pruning, search, train

_STAGES: dict[str, Callable[[RunDirectory, Settings], dict[str, Any]]] = {
    "enas": search.enas,
    "base": train.base,
    "prune": pruning.prune,
    "pruned": train.pruned,
    "lds_location": search.lds_location,
    "lds_direction": search.lds_direction,
    "final": train.final,
}


def run(name: str, directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    """Runs the stage called `name`, or returns at once when it has finished with these settings.

    Returns:
      The content of the stage's done.json.

    Raises:
      UserError: the run directory, the data or a file does not admit it; nothing has been changed.
    """
    keras.utils.set_random_seed(settings.seed)
    training.set_precision(settings.compute)
    with directory.hold(preset=settings.preset, seed=settings.seed):
        return _STAGES[name](directory, settings)
