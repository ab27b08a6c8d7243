"""The stages: each reads what it needs from the run directory, calls one algorithm, and writes its result back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from nhn_tf import training
from nhn_tf.errors import UserError
from nhn_tf.runs import RunDirectory, Settings
from nhn_tf.settings import BaseConfig, EnasConfig, GradientConfig
from nhn_tf.stages import pruning, search, train
from nhn_tf.stages.common import load_feed
from nhn_tf.values.space import op_named

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
    set_up(settings)
    keras.utils.set_random_seed(settings.seed)
    with directory.hold(preset=settings.preset, seed=settings.seed):
        return _STAGES[name](directory, settings)


def set_up(settings: Settings) -> None:
    """Makes the backend ready for a stage; before it computes anything, if it is to be deterministic."""
    training.set_up(settings.compute)


def check(settings: Mapping[str, Settings]) -> None:
    """Looks at the settings of a pipeline, or of some of its stages, with their data, before the first stage runs.

    Raises:
      UserError: a stage would refuse later what can be seen now; the message names the stage.
    """
    for name, asked in settings.items():
        try:
            feed = load_feed(asked)
            if isinstance(asked.config, GradientConfig):
                feed.train(asked.config)
        except UserError as error:
            raise UserError(f"stage '{name}': {error}") from None
    if not {"enas", "base"} <= set(settings):
        return
    enas, base = settings["enas"].expect(EnasConfig), settings["base"].expect(BaseConfig)
    kinds = {op_named(name).kind for name in enas.ops}
    if not base.genotype and not kinds & ({"conv", "separable_conv"} if base.separable_as_dense else {"conv"}):
        raise UserError(
            "the search can find no full convolution, and nothing else can be pruned.\n"
            "Give --enas_ops that include one, or leave --base_separable_as_dense on."
        )
