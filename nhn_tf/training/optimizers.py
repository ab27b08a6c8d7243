"""The optimizer of every training here: SGD with Nesterov momentum, L2, clipping and a cosine with warm restarts.

Sources: paper, section 3; the schedule is SGDR (Loshchilov & Hutter 2017); its periods are ENAS's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from nhn_tf.layers import backend
from nhn_tf.settings import GradientConfig, SgdConfig

_NEVER = -1


class Divergence(NamedTuple):
    """Where an optimizer's gradient ceased to be finite."""

    step: int  # of the optimizer, from 0
    rate: float  # the learning rate there
    norm: float  # of the whole gradient, before clipping, at the last step where it was finite; 0 if there is none


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

    It is called with a step's number, or an array of them.
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
        covered = lengths[0]
        while covered < total_steps - warmup_steps:
            lengths.append(lengths[-1] * period_mult)
            covered += lengths[-1]
        self._lengths = np.array(lengths, np.float32)
        self._starts = np.cumsum([0.0, *lengths[:-1]]).astype(np.float32)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        since = ops.maximum(step - self.warmup_steps, 0.0)
        period = ops.sum(ops.cast(ops.expand_dims(since, -1) >= self._starts, "int32"), axis=-1) - 1
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
    the cross-entropy, and the graph has no extra branch for each weight. Under a `tf.distribute` strategy, L2, clipping
    and norm are those of the whole gradient, summed over the replicas.

    It watches its gradients without a transfer from the device: see `divergence`.

    Args:
      learning_rate: a float or a schedule.
      l2: weight of sum(w^2) over all trainable weights.
      momentum: Nesterov momentum.
      **kwargs: as for `keras.optimizers.SGD`.
    """

    def __init__(
        self, learning_rate, *, l2: float = 0.0, momentum: float = GradientConfig.momentum, name="nesterov", **kwargs
    ):
        kwargs.pop("nesterov", None)
        super().__init__(learning_rate, momentum=momentum, nesterov=True, name=name, **kwargs)
        self.l2 = l2

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        alike = {"aggregation": "only_first_replica"}  # every replica sees the whole gradient
        self._gradient_norm = self.add_variable((), "zeros", name="gradient_norm", **alike)  # the last finite one
        never = keras.initializers.Constant(_NEVER)
        self._diverged_at = self.add_variable((), never, dtype="int32", name="diverged_at", **alike)

    def apply(self, grads, trainable_variables=None):
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        if not self.built:
            self.build(variables)
        grads = _summed(grads)
        if self.l2:
            grads = [
                grad if grad is None else grad + ops.cast(2.0 * self.l2, grad.dtype) * ops.cast(variable, grad.dtype)
                for grad, variable in zip(grads, variables, strict=True)
            ]
        self._watch([grad for grad in grads if grad is not None])
        return super().apply(grads, trainable_variables)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        """What Keras does on TensorFlow behind clipping: `apply` has done it."""
        return grads_and_vars

    def _watch(self, grads):
        """Keeps the norm of the whole gradient while it is finite, and the first step at which it is not."""
        if not grads:
            return
        # As Keras computes it to clip, so that compilers merge the two.
        norm = ops.sqrt(ops.sum(ops.stack([ops.sum(ops.square(grad)) for grad in grads])))
        norm = ops.cast(norm, "float32")
        since, last = (ops.convert_to_tensor(variable) for variable in (self._diverged_at, self._gradient_norm))
        healthy = ops.equal(since, _NEVER)
        finite = ops.logical_and(ops.isfinite(norm), healthy)
        step = ops.where(finite, _NEVER, ops.cast(self.iterations, "int32"))
        self.assign(self._diverged_at, ops.where(healthy, step, since))
        self.assign(self._gradient_norm, ops.where(finite, norm, last))

    @property
    def gradient_norm(self) -> float:
        """Of the whole gradient, before clipping, at the last step where it was finite; 0 before there was one."""
        return float(ops.convert_to_numpy(self._gradient_norm)) if self.built else 0.0

    def divergence(self) -> Divergence | None:
        """The first step whose gradient was not finite, or None."""
        if not self.built:
            return None
        step = int(ops.convert_to_numpy(self._diverged_at))
        if step == _NEVER:
            return None
        rate = self._learning_rate(step) if callable(self._learning_rate) else self._learning_rate
        return Divergence(step, float(ops.convert_to_numpy(rate)), self.gradient_norm)

    def get_config(self) -> dict:
        return {**super().get_config(), "l2": self.l2}


def _summed(grads):
    """Gradients summed over the replicas; None stays where it is."""
    summed = iter(backend.sum_over_replicas([grad for grad in grads if grad is not None]))
    return [None if grad is None else next(summed) for grad in grads]


def make_schedule(config: SgdConfig, steps_per_epoch: int, *, rate_scale: float = 1.0) -> CosineRestarts:
    """The learning rate of a stage that makes `steps_per_epoch` steps in each of `config.epochs` epochs.

    `rate_scale` multiplies it everywhere.
    """
    total = config.epochs * steps_per_epoch
    warmup = min(config.warmup_epochs * steps_per_epoch, total - 1)
    period = config.lr_period_epochs * steps_per_epoch if config.lr_period_epochs else total - warmup
    return CosineRestarts(
        config.lr_max * rate_scale,
        config.lr_min * rate_scale,
        period_steps=period,
        period_mult=config.lr_period_mult,
        total_steps=total,
        warmup_steps=warmup,
    )


def decay_e_folds(config: SgdConfig, steps_per_epoch: int) -> float:
    """How far L2 shrinks a weight that no other gradient moves, in a whole training: to exp(-this) of what it was.

    Each step takes lr * 2 * l2 of it, and momentum makes that 1 / (1 - momentum) times as much in the long run.
    """
    rates = make_schedule(config, steps_per_epoch)(np.arange(config.epochs * steps_per_epoch))
    total = ops.convert_to_numpy(rates).sum(dtype=np.float64)
    return float(total) * 2.0 * config.l2 / (1.0 - config.momentum)


def make_optimizer(config: SgdConfig, steps_per_epoch: int, *, rate_scale: float = 1.0, ema: float = 0.0) -> Nesterov:
    """The optimizer of a stage.

    Args:
      config: rates, momentum, L2, clipping.
      steps_per_epoch: training steps in an epoch.
      rate_scale: multiplies the learning rate.
      ema: decay of an exponential moving average of the weights, 0 for none. `fit` puts the average in place of the
        weights when it returns.
    """
    return nesterov(config, make_schedule(config, steps_per_epoch, rate_scale=rate_scale), ema=ema)


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
