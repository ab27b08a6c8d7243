"""How every network here is trained: SGD with Nesterov momentum, L2, clipping and a cosine with warm restarts.

Sources: paper, section 3; the schedule is SGDR (Loshchilov & Hutter 2017); its periods are ENAS's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from nhn_tf.configs import ComputeConfig, GradientConfig, SgdConfig
from nhn_tf.layers import kernels
from nhn_tf.models import weights


@keras.saving.register_keras_serializable("nhn_tf")
class CosineRestarts(keras.optimizers.schedules.LearningRateSchedule):
    """Cosine annealing with warm restarts, updated at every step.

    Within a period of T steps the rate falls from `lr_max` to `lr_min` as
    lr_min + (lr_max - lr_min) * (1 + cos(pi * t / T)) / 2 (Loshchilov & Hutter 2017, equation 5).

    Args:
      lr_max: rate at the start of each period.
      lr_min: rate towards which each period falls.
      period_steps: length of the first period in steps, a positive number.
      period_mult: each period is so many times the one before.
      total_steps: steps that the schedule must cover; afterwards the last period's end is held.
      warmup_steps: steps of linear rise from 0 to `lr_max` before the first period.
    """

    def __init__(
        self,
        lr_max: float,
        lr_min: float,
        *,
        period_steps: float,
        period_mult: int = 1,
        total_steps: float,
        warmup_steps: float = 0.0,
    ):
        if period_steps <= 0:
            raise ValueError(f"`period_steps` must be positive. Received: {period_steps}.")
        super().__init__()
        self.lr_max = lr_max
        self.lr_min = lr_min
        self.period_steps = period_steps
        self.period_mult = period_mult
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        lengths = [float(period_steps)]
        while sum(lengths) < total_steps - warmup_steps:
            lengths.append(lengths[-1] * period_mult)
        self._lengths = np.array(lengths, np.float32)
        self._starts = np.cumsum([0.0, *lengths[:-1]]).astype(np.float32)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        since = ops.maximum(step - self.warmup_steps, 0.0)
        period = ops.sum(ops.cast(since >= self._starts, "int32")) - 1
        start = ops.take(self._starts, period)
        length = ops.take(self._lengths, period)
        progress = ops.minimum((since - start) / length, 1.0)
        rate = self.lr_min + (self.lr_max - self.lr_min) * 0.5 * (1.0 + ops.cos(math.pi * progress))
        if not self.warmup_steps:
            return rate
        return ops.where(step < self.warmup_steps, self.lr_max * (step + 1) / (self.warmup_steps + 1), rate)

    def get_config(self) -> dict:
        names = ("lr_max", "lr_min", "period_steps", "period_mult", "total_steps", "warmup_steps")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("nhn_tf")
class Nesterov(keras.optimizers.SGD):
    """SGD with Nesterov momentum whose L2 term is part of the gradient, before clipping, as in ENAS.

    The gradient of l2 * sum(w^2), 2 * l2 * w, is added here rather than to the loss: the reported loss stays
    the cross-entropy, and the graph has no extra branch for each weight.

    Args:
      learning_rate: a float or a schedule.
      l2: weight of sum(w^2) over all trainable weights.
      momentum: Nesterov momentum.
      **kwargs: as for `keras.optimizers.SGD`.
    """

    def __init__(self, learning_rate=0.05, *, l2: float = 0.0, momentum: float = 0.9, name="nesterov", **kwargs):
        kwargs.pop("nesterov", None)
        super().__init__(learning_rate, momentum=momentum, nesterov=True, name=name, **kwargs)
        self.l2 = l2

    def apply(self, grads, trainable_variables=None):
        if self.l2:
            variables = self._trainable_variables if trainable_variables is None else trainable_variables
            grads = [
                grad if grad is None else grad + ops.cast(2.0 * self.l2, grad.dtype) * ops.cast(variable, grad.dtype)
                for grad, variable in zip(grads, variables, strict=True)
            ]
        return super().apply(grads, trainable_variables)

    def get_config(self) -> dict:
        return {**super().get_config(), "l2": self.l2}


def make_schedule(config: SgdConfig, steps_per_epoch: int) -> CosineRestarts:
    """The learning rate of a stage that makes `steps_per_epoch` steps in each of `config.epochs` epochs."""
    total = config.epochs * steps_per_epoch
    warmup = min(config.warmup_epochs * steps_per_epoch, total - 1)
    period = config.lr_period_epochs * steps_per_epoch if config.lr_period_epochs else total - warmup
    return CosineRestarts(
        config.lr_max,
        config.lr_min,
        period_steps=period,
        period_mult=config.lr_period_mult,
        total_steps=total,
        warmup_steps=warmup,
    )


def make_optimizer(config: SgdConfig, steps_per_epoch: int, *, ema: float = 0.0) -> Nesterov:
    """The optimizer of a stage.

    Args:
      config: rates, momentum, L2, clipping.
      steps_per_epoch: training steps in an epoch.
      ema: decay of an exponential moving average of the weights, 0 for none. `fit` puts the average in place of the
        weights when it returns.
    """
    return nesterov(config, make_schedule(config, steps_per_epoch), ema=ema)


def nesterov(
    config: GradientConfig, schedule: keras.optimizers.schedules.LearningRateSchedule, *, ema: float = 0.0
) -> Nesterov:
    """The optimizer of `config` with a learning rate of its own; `ema` as in `make_optimizer`."""
    return Nesterov(
        schedule,
        l2=config.l2,
        momentum=config.momentum,
        global_clipnorm=config.clip_norm or None,
        use_ema=bool(ema),
        ema_momentum=ema or 0.99,
    )


def compile_classifier(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    *,
    label_smoothing: float = 0.0,
    steps_per_execution: int = 1,
) -> None:
    """Compiles a model of logits [B, classes] for integer labels [B]: cross-entropy and accuracy."""
    model.compile(
        optimizer=optimizer,
        loss=SmoothedCrossEntropy(label_smoothing),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=kernels.default_jit_compile(),
        steps_per_execution=steps_per_execution,
    )


@keras.saving.register_keras_serializable("nhn_tf")
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy of integer labels from logits, with label smoothing (which Keras's sparse loss lacks).

    Args:
      label_smoothing: share of each target spread evenly over all classes, in [0, 1).
    """

    def __init__(self, label_smoothing: float = 0.0, name: str = "cross_entropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        """Labels int [B] or [B, 1] and logits [B, classes] -> float32 [B]."""
        log_p = ops.log_softmax(ops.cast(y_pred, "float32"), axis=-1)
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        hit = -ops.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
        if not self.label_smoothing:
            return hit
        return (1.0 - self.label_smoothing) * hit - self.label_smoothing * ops.mean(log_p, axis=-1)

    def get_config(self) -> dict:
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


def accuracy(model: keras.Model, batches: Sequence) -> float:
    """Share of correct predictions over all `batches` (images [B, H, W, C], labels [B]), in [0, 1]."""
    correct = total = 0
    for index in range(len(batches)):
        images, labels = batches[index]
        predicted = np.argmax(model.predict_on_batch(images), axis=-1)
        correct += int(np.sum(predicted == np.asarray(labels)))
        total += len(labels)
    return correct / total


def state(model: keras.Model) -> dict[str, np.ndarray]:
    """Everything `fit` changes: the model's variables, seed generators included, and the optimizer's, by name."""
    return {name: keras.ops.convert_to_numpy(variable) for name, variable in _stateful(model).items()}


def restore(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Puts back what `state` returned into a model built and compiled in the same way.

    Raises:
      ValueError: the names or shapes differ.
    """
    weights.assign(_stateful(model), arrays)


def _stateful(model: keras.Model) -> dict[str, keras.Variable]:
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    found = {f"model/{path}": variable for path, variable in weights.variables_by_path(model).items()}
    slots = {f"optimizer/{variable.path}": variable for variable in optimizer.variables}
    if len(slots) != len(optimizer.variables):
        raise ValueError("the optimizer's variables must have distinct paths.")
    return {**found, **slots}


def set_precision(compute: ComputeConfig) -> None:
    """Makes new layers compute in `compute.precision`."""
    keras.config.set_dtype_policy(compute.precision)


def score(error_percent: float, params_m: float) -> float:
    """The paper's figure of merit (section 3): sqrt((e / 2)^2 + (n / 25)^2); smaller is better.

    Args:
      error_percent: test error in percent.
      params_m: live parameters in millions.
    """
    return math.hypot(error_percent / 2, params_m / 25)
