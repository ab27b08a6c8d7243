"""Training resumed from anywhere within an epoch, to the same bits: the state of model, optimizer and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from nhn_tf.layers import backend
from nhn_tf.models import weights


class Position(NamedTuple):
    """How far a training has come."""

    epoch: int = 0  # whole epochs
    step: int = 0  # steps of the epoch under way
    metrics: Sequence[np.ndarray] = ()  # within an epoch: what `metric_state` returned


BEGINNING = Position()


def finish_epoch(
    model: keras.Model,
    batches: keras.utils.PyDataset,
    begin: Position,
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    last: bool,
    **options: Any,
) -> keras.callbacks.History:
    """Trains the rest of an epoch; `last`: no other follows."""
    model.test_on_batch(*batches[0])  # Keras makes some metrics' variables only when it needs them
    before_averaging = _KeepState()
    own = [_RestoreMetrics(begin.metrics), *callbacks]
    if model.optimizer.use_ema and not last:
        own.append(before_averaging)
    rest = _Rest(batches, begin.step)
    history = model.fit(rest, initial_epoch=begin.epoch, epochs=begin.epoch + 1, callbacks=own, **options)
    if before_averaging.state:
        restore(model, before_averaging.state)
    return history


class _Rest(keras.utils.PyDataset):
    """The batches of an epoch from `first` on."""

    def __init__(self, batches: keras.utils.PyDataset, first: int):
        super().__init__()
        self._batches = batches
        self._first = first

    def __len__(self) -> int:
        return len(self._batches) - self._first

    def __getitem__(self, index: int) -> Any:
        return self._batches[self._first + index]


class _RestoreMetrics(keras.callbacks.Callback):
    """Puts an epoch's metrics back after `fit` has reset them."""

    def __init__(self, arrays: Sequence[np.ndarray]):
        super().__init__()
        self._arrays = arrays

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        for part, array in zip(_metric_parts(self.model), self._arrays, strict=True):
            part.assign(array)


class _KeepState(keras.callbacks.Callback):
    """Keeps the state at the end of an epoch: `fit` then puts the averaged weights in the place of the trained ones."""

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, np.ndarray] = {}

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self.state = state(self.model)


def metric_state(model: keras.Model) -> tuple[np.ndarray, ...]:
    """The running means of the epoch under way, for `Position`; to be called within `fit`."""
    backend.sync_state(model)
    return tuple(np.array(keras.ops.convert_to_numpy(part)) for part in _metric_parts(model))


def _metric_parts(model: keras.Model) -> list[Any]:
    return [part for variable in model.metrics_variables for part in backend.parts(variable)]


def state(model: keras.Model) -> dict[str, np.ndarray]:
    """Everything `fit` changes but its metrics: the variables of model, seed generators and optimizer, by name.

    Of a `pruning.Distiller` it is the student's: its teacher does not change.
    """
    backend.sync_state(model)
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
    network = getattr(model, "student", model)
    found = {f"model/{path}": variable for path, variable in weights.variables_by_path(network).items()}
    slots = {f"optimizer/{variable.path}": variable for variable in optimizer.variables}
    if len(slots) != len(optimizer.variables):
        raise ValueError("the optimizer's variables must have distinct paths.")
    return {**found, **slots}
