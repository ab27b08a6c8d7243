"""When kernels go: at once, or step by step while training.

A step is one update of the optimizer, counted by `optimizer.iterations`. What is pruned at a step depends on that
count and on the model's variables alone, so a run that is stopped and resumed prunes the same.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from nhn_tf.layers import backend
from nhn_tf.layers.masked_conv import Masked
from nhn_tf.pruning import blocks, criteria, initial
from nhn_tf.pruning.masked import apply_masks, kinds_of, masked_layers, masks_of
from nhn_tf.values.masks import Masks


@dataclasses.dataclass(frozen=True)
class Ramp:
    """A target that rises from `initial` to `final` along a cubic, fast at first.

    Between the steps `begin` and `end` (s and n * dt in Zhu & Gupta 2017, equation 1) the target at step t is
    final + (initial - final) * (1 - (t - begin) / (end - begin))^3. With `begin == end` it is reached at once.

    Args:
      final: target at `end` and after.
      begin: first step at which kernels go, at least 0.
      end: the step that settles the masks, at least `begin`.
      every: steps between two evaluations, at least 1; `end` is always one of them.
      initial: target at `begin`, from 0 to `final`.

    Raises:
      ValueError: a value out of range.
    """

    final: float
    begin: int = 0
    end: int = 0
    every: int = 100
    initial: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end:
            raise ValueError(f"steps must satisfy 0 <= begin <= end. Received: begin={self.begin}, end={self.end}.")
        if self.every < 1:
            raise ValueError(f"`every` must be at least 1. Received: {self.every}.")
        if not 0 <= self.initial <= self.final:
            raise ValueError(f"`initial` must be from 0 to the final target, {self.final}. Received: {self.initial}.")

    def target(self, step: int) -> float:
        """The target at a step, `begin` or later."""
        if step >= self.end:
            return self.final
        left = 1.0 - (step - self.begin) / (self.end - self.begin)
        return self.final + (self.initial - self.final) * left**3

    def is_due(self, step: int) -> bool:
        """Whether the masks are to be evaluated once `step` updates are done."""
        if not self.begin <= step <= self.end:
            return False
        return step == self.end or (step - self.begin) % self.every == 0

    def last_due(self, after: int, upto: int) -> int | None:
        """The latest step in (after, upto] that is due, if any."""
        return next((step for step in range(upto, after, -1) if self.is_due(step)), None)


class PruningSchedule(keras.callbacks.Callback):
    """Prunes a model while `fit` trains it.

    `gradual` follows a cubic ramp (Zhu & Gupta 2017): at every due step all kernels are scored anew and the lowest are
    hidden by their masks. Their weights stay, so they return if others fall below them (dynamic pruning; a kernel that
    was masked before the ramp competes too). At `end_step` the masks are settled: weights of pruned kernels, and what
    the optimizer remembers of them, become zero, and stay so. `oneshot` does this at `begin_step`, all at once.

    Steps are the optimizer's updates: gradients that are accumulated over several batches make one. Training that ends
    before `end_step`, or whose last weights are replaced by earlier ones, ends with a warning.

    Resuming needs no state of the callback: restore the model and its optimizer (`keras.callbacks.BackupAndRestore`)
    and pass a schedule of the same arguments.

    Args:
      sparsity: share of kernels gone at the end, in [0, 1). Give this or `threshold`.
      threshold: score below which kernels are gone at the end; the ramp raises it from 0.
      schedule: `gradual` or `oneshot`.
      begin_step: optimizer step at which pruning begins.
      end_step: step at which `gradual` ends.
      every: steps between two evaluations in between.
      initial_sparsity: where the ramp of `sparsity` begins.
      criterion: as for `prune`.
      scope: as for `prune`.
      block: as for `prune`.
      allow_disconnected: as for `prune`.
      seed: as for `prune`.
      layers: names of masked layers; by default all of the model.

    Raises:
      ValueError: values out of range; in `fit`, a model without such layers (`prune(model, sparsity=0.0)` makes them).

    Example:
      model = nhn_tf.pruning.prune(trained, sparsity=0.0)
      model.compile(...)
      model.fit(x, y, epochs=10, callbacks=[PruningSchedule(sparsity=0.85, end_step=2000)])
      small = nhn_tf.pruning.compact(model)
    """

    def __init__(
        self,
        *,
        sparsity: float | None = None,
        threshold: float | None = None,
        schedule: str = "gradual",
        begin_step: int = 0,
        end_step: int | None = None,
        every: int = 100,
        initial_sparsity: float = 0.0,
        criterion: str = "std",
        scope: str = "global",
        block: int = 1,
        allow_disconnected: bool = False,
        seed: int = 0,
        layers: Sequence[str] | None = None,
    ):
        super().__init__()
        blocks.check_size(block)
        criteria.check_target(threshold=threshold, sparsity=sparsity, scope=scope)
        criteria.check_criterion(criterion)
        if schedule not in ("gradual", "oneshot"):
            raise ValueError(f"`schedule` must be gradual or oneshot. Received: {schedule!r}.")
        if (schedule == "gradual") == (end_step is None):
            raise ValueError(
                f"`end_step` belongs to a gradual schedule, and only to it. Received: schedule={schedule!r}, "
                f"end_step={end_step}."
            )
        if threshold is not None and initial_sparsity:
            raise ValueError(f"`initial_sparsity` goes with `sparsity`, not `threshold`. Received: {initial_sparsity}.")
        self.unit = "sparsity" if threshold is None else "threshold"
        self.ramp = Ramp(
            final=threshold or sparsity or 0.0,  # one is None, and 0 is a target too
            begin=begin_step,
            end=begin_step if end_step is None else end_step,
            every=every,
            initial=initial_sparsity,
        )
        self.criterion = criterion
        self.scope, self.block = scope, block
        self.allow_disconnected = allow_disconnected
        self.seed = seed
        self.layer_names = None if layers is None else tuple(layers)
        self._units: dict[str, float] = {}

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        # Keras gives a callback no other way to its companions.
        caller = sys._getframe(1).f_locals.get("self")
        self._companions = caller if isinstance(caller, keras.callbacks.CallbackList) else None

    @property
    def pruned_model(self) -> keras.Model:
        """The model whose kernels go: the one that is trained, or the student within a `Distiller`."""
        return getattr(self.model, "student", self.model)

    def on_train_begin(self, logs: Any = None) -> None:
        if not masked_layers(self.pruned_model, self.layer_names):
            raise ValueError(
                f"model {self.pruned_model.name!r} has no masked layer to prune. Train the result of "
                "nhn_tf.pruning.prune(model, sparsity=0.0) instead."
            )
        self._settled: Masks | None = None
        # Later steps are evaluated as they end; the first of all, step 0, never does.
        step = self._updates()
        if step == self.ramp.begin:
            self._evaluate(step)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Here, not as training begins: another callback may have restored the optimizer meanwhile.
        self._seen = self._known = self._updates()
        self._known_at = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # A batch makes one update at most, and none while gradients are accumulated. The true count is asked for only
        # where a step may be due: it spares a transfer from the device after each batch.
        most = self._known + batch + 1 - self._known_at
        if self.ramp.last_due(self._seen, most) is None:
            return
        backend.sync_state(self.model)
        self._known, self._known_at = self._updates(), batch + 1
        due = self.ramp.last_due(self._seen, self._known)
        self._seen = self._known
        if due is not None:
            self._evaluate(due)

    def on_train_end(self, logs: Any = None) -> None:
        if self._companions is None:
            self._warn_of_a_missed_target()
        else:  # Behind those that restore weights as training ends, EarlyStopping among them.
            self._companions.callbacks.append(_AtLast(self._warn_of_a_missed_target))

    def _masks(self) -> Masks:
        """The masks in force of the layers that are pruned here; another schedule may have others."""
        return masks_of(self.pruned_model, self.layer_names)

    def _updates(self) -> int:
        """Updates that the optimizer has made."""
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def _warn_of_a_missed_target(self) -> None:
        step, masks = self._updates(), self._masks()
        target = f"the target was {self.unit} {self.ramp.final}"
        found = f"{masks.sparsity:.3f} of the kernels are masked, and {target}"
        if step < self.ramp.end:
            warnings.warn(
                f"training ended after {step} updates, before the pruning schedule did (end_step={self.ramp.end}): "
                f"{found}. Its masks are not settled. Train on, or choose an earlier `end_step`.",
                stacklevel=2,
            )
        elif self._settled is not None and masks != self._settled:
            warnings.warn(
                f"the model was set back to weights from before the pruning schedule ended: {found}. Have "
                "EarlyStopping begin after that (`start_from_epoch`), or take the last weights.",
                stacklevel=2,
            )

    def _evaluate(self, step: int) -> None:
        """Sets the masks of a due step from the weights as they are."""
        backend.sync_state(self.model)
        model = self.pruned_model
        layers = masked_layers(model, self.layer_names)
        if self.scope == "normalized" and not self._units:
            self._units = initial.units(layers, self.criterion)
        selection = blocks.select(
            initial.scores_of(layers, self.criterion, scope=self.scope, seed=self.seed, unit=self._units),
            scope=self.scope,
            block=self.block,
            kinds=kinds_of(layers),
            current=self._masks(),
            may_return=True,
            allow_disconnected=self.allow_disconnected,
            **{self.unit: self.ramp.target(step)},
        )
        if step < self.ramp.end:
            for name, layer in layers.items():
                layer.mask.assign(selection.masks[name].astype("float32"))
            return
        for name in selection.rescued:
            warnings.warn(f"every kernel of layer {name!r} was to go; its strongest was kept.", stacklevel=2)
        apply_masks(model, selection.masks)
        self._settled = self._masks()
        for layer in layers.values():
            _forget_pruned(self.model.optimizer, layer)


class _AtLast(keras.callbacks.Callback):
    """Does something when all callbacks before it have ended training."""

    def __init__(self, action: Callable[[], None]):
        super().__init__()
        self._action = action

    def on_train_end(self, logs: Any = None) -> None:
        self._action()


def _forget_pruned(optimizer: keras.optimizers.Optimizer, layer: Masked) -> None:
    """Zeroes momenta and averages of pruned kernels, which would move them away from zero again."""
    mask = keras.ops.convert_to_numpy(layer.mask)  # [Cin, Cout]
    slot = layer.kernel.path.replace("/", "_") + "_"
    for variable in optimizer.variables:
        if variable.name.startswith(slot) and variable.shape == layer.kernel.shape:
            variable.assign(np.asarray(keras.ops.convert_to_numpy(variable)) * mask)
