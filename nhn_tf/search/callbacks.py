"""The callbacks of a search: its own kind, and Keras's, which hear what `keras.Model.fit` would tell them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import keras

if TYPE_CHECKING:
    from nhn_tf.search.searcher import Searcher

Logs = Mapping[str, float]

REFUSED: Final[Mapping[str, str]] = {
    "BackupAndRestore": "`directory` saves a search and goes on with it",
    "LearningRateScheduler": "the search follows the schedule of its configuration",
    "ReduceLROnPlateau": "the search follows the schedule of its configuration",
    "SwapEMAWeights": "a search keeps no averaged weights",
}
"""Callbacks of Keras that would change what the search itself decides, and why not."""


class SearchCallback(Protocol):
    """What `search` calls, beside Keras's callbacks.

    A callback may also have `on_step_end(searcher, step, steps)`, called within an epoch, and while the final
    candidates are measured: then `searcher.concluding` is true and the steps are theirs. The searcher's state can be
    taken there, too; an exception ends the search.
    """

    def on_epoch_end(self, searcher: Searcher, epoch: int, metrics: dict[str, float]) -> None:
        """After all that epoch `epoch` (from 0) does; the searcher's state already counts it as finished."""


class Listeners:
    """All callbacks of one call of `search`.

    Args:
      callbacks: `keras.callbacks.Callback`s and `SearchCallback`s.
      better: of each metric that a Keras callback can watch, "max" or "min", whichever is better; "" where neither
        is.

    Raises:
      TypeError: one is neither.
      ValueError: one of Keras's cannot do its work in a search.
    """

    def __init__(self, callbacks: Iterable[Any] = (), better: Mapping[str, str] | None = None):
        if not isinstance(callbacks, Iterable):
            callbacks = () if callbacks is None else (callbacks,)
        self._keras: list[keras.callbacks.Callback] = []
        self.own: list[SearchCallback] = []
        for callback in callbacks:
            if isinstance(callback, keras.callbacks.Callback):
                _check_keras(callback, better or {})
                self._keras.append(callback)
            else:
                _check_own(callback)
                self.own.append(callback)
        self._told: keras.callbacks.CallbackList | None = None
        self._model: keras.Model | None = None

    def begin(self, model: keras.Model, history: Sequence[Logs], *, epochs: int, steps: int) -> None:
        """Training begins, or goes on behind epochs whose logs are `history`.

        An EarlyStopping hears of those again: what it counts is no part of a search's state.
        """
        if not self._keras:
            return
        self._model = model
        model.stop_training = False
        self._told = keras.callbacks.CallbackList(self._keras, model=model, epochs=epochs, steps=steps, verbose=0)
        self._told.on_train_begin()
        for callback in self._keras:
            if isinstance(callback, keras.callbacks.EarlyStopping):
                for epoch, logs in enumerate(history):
                    callback.on_epoch_end(epoch, dict(logs))

    @property
    def want_to_stop(self) -> bool:
        """Whether a callback has set the model's `stop_training`."""
        return self._model is not None and bool(self._model.stop_training)

    @property
    def has_keras(self) -> bool:
        """Whether callbacks of Keras listen."""
        return bool(self._keras)

    def begin_epoch(self, epoch: int) -> None:
        if self._told:
            self._told.on_epoch_begin(epoch)

    def begin_batch(self, batch: int) -> None:
        if self._told:
            self._told.on_train_batch_begin(batch)

    def end_batch(self, batch: int, logs: Logs | None) -> None:
        if self._told:
            self._told.on_train_batch_end(batch, dict(logs or {}))

    def end_epoch(self, epoch: int, logs: Logs) -> None:
        if self._told:
            self._told.on_epoch_end(epoch, dict(logs))

    def end(self, logs: Logs) -> None:
        if self._told:
            self._told.on_train_end(dict(logs))
            self._told = None

    def end_step(self, searcher: Searcher, step: int, steps: int) -> None:
        for callback in self.own:
            if hasattr(callback, "on_step_end"):
                callback.on_step_end(searcher, step, steps)


def takes(function: Any, *arguments: Any) -> bool:
    """Whether something can be called with these arguments, as far as its signature says."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not say
        return callable(function)
    return True


def _check_own(callback: Any) -> None:
    if isinstance(callback, type) or not takes(getattr(callback, "on_epoch_end", None), None, 0, {}):
        received = f"the class {callback.__name__}" if isinstance(callback, type) else type(callback).__name__
        raise TypeError(
            "`callbacks` must be instances of keras.callbacks.Callback, or have "
            f"on_epoch_end(searcher, epoch, metrics). Received: {received}."
        )


def _check_keras(callback: keras.callbacks.Callback, better: Mapping[str, str]) -> None:
    name = type(callback).__name__
    for kind, reason in REFUSED.items():
        if isinstance(callback, getattr(keras.callbacks, kind)):
            raise ValueError(f"`callbacks` cannot hold a {name}: {reason}.")
    if isinstance(callback, keras.callbacks.EarlyStopping) and callback.restore_best_weights:
        raise ValueError(
            "`callbacks` cannot hold an EarlyStopping with restore_best_weights: the shared weights would no longer be "
            "those that the rest of the search has learned from. Leave it out."
        )
    if isinstance(callback, keras.callbacks.ModelCheckpoint):
        try:
            str(callback.filepath).format(epoch=1, batch=1, **dict.fromkeys(better, 0.0))
        except (KeyError, IndexError) as error:
            raise ValueError(
                f"`filepath` of a ModelCheckpoint must name metrics of the search ({', '.join(better)}). "
                f"Received: {callback.filepath!r}, of which {error} is none."
            ) from None
        if not callback.save_best_only:
            return
    if (monitor := getattr(callback, "monitor", None)) is None:
        return
    if monitor not in better:
        raise ValueError(
            f"`monitor` of a {name} must be a metric of the search: {', '.join(better)}. Received: {monitor!r}."
        )
    if getattr(callback, "mode", None) == "auto":  # Keras would look for the direction among the model's metrics
        if not better[monitor]:
            raise ValueError(f"`mode` of a {name} that monitors {monitor!r} must be 'max' or 'min'. Received: 'auto'.")
        callback.mode = better[monitor]
