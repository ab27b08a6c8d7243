"""How every network here is trained and measured: the loss, `fit`, and a look at whether it is sound."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from nhn_tf.errors import UserError
from nhn_tf.layers import backend, devices, processes
from nhn_tf.settings import ComputeConfig
from nhn_tf.training.optimizers import Divergence
from nhn_tf.training.sharing import Evened, Share
from nhn_tf.training.within_epoch import BEGINNING, Position, finish_epoch
from nhn_tf.values.hits import Hits

CHECKED_EVERY = 100
"""Steps between two looks at whether the gradient is finite: each waits for the device."""


class DivergedError(UserError):
    """Loss or gradient is no longer finite.

    Attributes:
      divergence: where that began.
    """

    def __init__(self, divergence: Divergence):
        self.divergence = divergence
        step, rate, norm = divergence
        super().__init__(
            f"the gradient is no longer finite at step {step + 1} since the training began "
            f"(learning rate {rate:.3g}; the norm of the gradient was {norm:.3g} before that)"
        )


def compile_classifier(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    *,
    label_smoothing: float = 0.0,
    steps_per_execution: int = 1,
) -> None:
    """Compiles a built model of logits [B, classes]: cross-entropy and accuracy.

    Labels are integers [B], or shares of each class, float [B, classes].
    """
    model.compile(
        optimizer=optimizer,
        loss=SmoothedCrossEntropy(label_smoothing),
        weighted_metrics=[Accuracy()],
        jit_compile=backend.default_jit_compile(),
        steps_per_execution=steps_per_execution,
    )
    # Left to the first step, the slots would be made while TensorFlow traces it, which it then does a second time.
    model.optimizer.build(model.trainable_variables)


@keras.saving.register_keras_serializable("nhn_tf")
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy from logits of integer labels or of shares, with label smoothing (Keras's sparse loss has none).

    Args:
      label_smoothing: share of each target spread evenly over all classes, in [0, 1).
    """

    def __init__(self, label_smoothing: float = 0.0, name: str = "cross_entropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        """Labels int [B] or [B, 1], or shares float [B, classes], and logits [B, classes] -> float32 [B]."""
        log_p = ops.log_softmax(ops.cast(y_pred, "float32"), axis=-1)
        if _are_shares(y_true, y_pred):
            hit = -ops.sum(ops.cast(y_true, "float32") * log_p, axis=-1)
        else:
            labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
            hit = -ops.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
        if not self.label_smoothing:
            return hit
        return (1.0 - self.label_smoothing) * hit - self.label_smoothing * ops.mean(log_p, axis=-1)

    def get_config(self) -> dict:
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable("nhn_tf")
class Accuracy(keras.metrics.SparseCategoricalAccuracy):
    """Share of correct answers; where labels are shares of each class, the largest is the right one."""

    def __init__(self, name: str = "accuracy", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        if _are_shares(y_true, y_pred):
            y_true = ops.argmax(y_true, axis=-1)
        return super().update_state(y_true, y_pred, sample_weight)


def _are_shares(y_true: Any, y_pred: Any) -> bool:
    """Whether labels [B] or [B, 1], or [B, classes], are the latter."""
    return len(y_true.shape) == 2 and y_true.shape[-1] == y_pred.shape[-1]


def logits(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """What a model answers to images [B, H, W, C], float [B, classes]; every device computes all of it."""
    # Under a strategy Keras puts the answers of the devices one behind the other.
    return model.predict_on_batch(images)[: len(images)]


def accuracy(model: keras.Model, batches: Sequence) -> float:
    """Share of correct predictions over all `batches` (images [B, H, W, C], labels [B]), in [0, 1]."""
    return hits(model, batches).accuracy


def hits(model: keras.Model, batches: Sequence) -> Hits:
    """How many images of each class a model of logits knows among `batches` (images [B, H, W, C], labels [B])."""
    shown: list[np.ndarray] = []
    known: list[np.ndarray] = []
    classes = 0
    for index in range(len(batches)):
        images, labels = batches[index]
        answers = logits(model, images)
        classes = answers.shape[-1]
        shown.append(np.asarray(labels))
        known.append(shown[-1][np.argmax(answers, axis=-1) == shown[-1]])
    return Hits(*(np.bincount(np.concatenate(labels), minlength=classes) for labels in (shown, known)))


def fit(
    model: keras.Model,
    batches: keras.utils.PyDataset,
    *,
    epochs: int,
    begin: Position = BEGINNING,
    validation_data: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, float]:
    """Trains like `keras.Model.fit`, from any position within an epoch; the order of the batches is theirs.

    From the position where an earlier call stopped, with the model's and the optimizer's `state` put back, it ends with
    the same bits as a call that was not interrupted. In the first epoch callbacks count batches from that position.

    Args:
      model: compiled with an `nhn_tf.training.optimizers.Nesterov`.
      batches: of an epoch.
      epochs: how many there are in all.
      begin: the position to begin at.
      validation_data: as for `keras.Model.fit`; on several devices `Batches`.
      callbacks: called in their order; none is called for an epoch's end after the loss has diverged.

    Returns:
      The metrics of the last epoch; none if there is no epoch left.

    Raises:
      DivergedError: the gradient is no longer finite.
    """
    if devices.count() > 1:
        validation_data = None if validation_data is None else Evened(validation_data)
        if processes.count() > 1:
            batches = Share(batches)
            validation_data = None if validation_data is None else Share(validation_data)
    options = {"validation_data": validation_data, "shuffle": False, "verbose": 0}
    callbacks = [_StopWhenDiverged(), *callbacks]
    epoch, history = begin.epoch, None
    if begin.step:
        history = finish_epoch(model, batches, begin, callbacks, last=epoch + 1 == epochs, **options)
        epoch += 1
    if epoch < epochs or history is None:  # without an epoch left, `fit` still puts averaged weights in place
        history = model.fit(batches, initial_epoch=epoch, epochs=epochs, callbacks=callbacks, **options)
    return {name: values[-1] for name, values in history.history.items()} if history else {}


def train_briefly(model: keras.Model, batches: Sequence) -> dict[str, float]:
    """Trains on some batches, each once and in their order; the next one is made while the model trains on one.

    For a few steps at a time, thousands of times: every call of `fit` builds an input pipeline, which takes a tenth of
    a second and, on TensorFlow, some memory that never comes back (`docs/experiments.md`).

    Args:
      model: compiled with an `nhn_tf.training.optimizers.Nesterov`.
      batches: indexed (inputs, labels), at least one.

    Returns:
      The mean of each metric over the batches.

    Raises:
      DivergedError: the gradient is no longer finite.
    """
    logs = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        coming = pool.submit(batches.__getitem__, 0)
        for following in range(1, len(batches) + 1):
            batch = coming.result()
            if following < len(batches):
                coming = pool.submit(batches.__getitem__, following)
            logs.append(model.train_on_batch(*batch, return_dict=True))
    check_finite(model)
    return {name: float(np.mean([step[name] for step in logs])) for name in logs[0]}


class _StopWhenDiverged(keras.callbacks.Callback):
    """Looks at the gradient now and then, and at the end of each epoch."""

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._looked = 0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        if batch + 1 - self._looked >= CHECKED_EVERY:
            self._looked = batch + 1
            check_finite(self.model)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        check_finite(self.model)


def check_finite(model: keras.Model) -> None:
    """Looks whether a model's training is sound; also within `fit`.

    Raises:
      DivergedError: a gradient was not finite.
    """
    if divergence := _divergence(model):
        raise DivergedError(divergence)


def is_finite(model: keras.Model) -> bool:
    """Whether a model's training is sound; also within `fit`."""
    return _divergence(model) is None


def _divergence(model: keras.Model) -> Divergence | None:
    backend.sync_state(model)
    return model.optimizer.divergence()


def set_up(compute: ComputeConfig) -> None:
    """Makes new layers compute in `compute.precision`, and the backend deterministic if that is asked for.

    Raises:
      UserError: the backend cannot distribute as `compute.distribute` says.
    """
    devices.check(compute.distribute)
    if compute.deterministic:
        backend.make_deterministic()
    keras.config.set_dtype_policy(compute.precision)
