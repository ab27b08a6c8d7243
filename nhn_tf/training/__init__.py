"""How every network here is trained and measured, and resumed from anywhere within an epoch."""

from nhn_tf.storage import backends as backends  # isort: skip
from nhn_tf.training.fit import (
    CHECKED_EVERY,
    DivergedError,
    Hits,
    SmoothedCrossEntropy,
    accuracy,
    check_finite,
    compile_classifier,
    fit,
    hits,
    is_finite,
    logits,
    set_up,
    train_briefly,
)
from nhn_tf.training.sharing import check_batch_size
from nhn_tf.training.within_epoch import BEGINNING, Position, metric_state, restore, state

__all__ = [
    "BEGINNING",
    "CHECKED_EVERY",
    "DivergedError",
    "Hits",
    "Position",
    "SmoothedCrossEntropy",
    "accuracy",
    "check_batch_size",
    "check_finite",
    "compile_classifier",
    "fit",
    "hits",
    "is_finite",
    "logits",
    "metric_state",
    "restore",
    "set_up",
    "state",
    "train_briefly",
]
