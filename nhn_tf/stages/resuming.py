"""Trainings and searches as stages run them: from the newest checkpoint, and back to it after a divergence if asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import keras

from nhn_tf import pruning, training
from nhn_tf.data.batches import Batches, FollowEpoch
from nhn_tf.errors import UserError
from nhn_tf.layers import processes
from nhn_tf.runs import Checkpoint, OpenStage, Settings
from nhn_tf.runs.monitor import Monitor
from nhn_tf.search import Searcher
from nhn_tf.settings import LdsConfig, RetrainConfig, SgdConfig, TrainConfig
from nhn_tf.stages.feed import Feed, uses_validation
from nhn_tf.stages.recording import FitRecorder, Saver, SearchRecorder, position, position_in_words
from nhn_tf.stages.showing import NetworkView, SearchView
from nhn_tf.storage import stopping
from nhn_tf.training import optimizers

MOST_ROLLBACKS: Final = 10
"""The learning rate is then a thousandth of what it was, and the stage is given up."""

Result = TypeVar("Result")


class TrainingFailedError(UserError):
    """Training cannot go on with these settings."""


def fit(
    stage: OpenStage,
    model: keras.Model,
    feed: Feed,
    settings: Settings,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    teacher: keras.Model | None = None,
) -> None:
    """Trains as the stage's configuration says, from the newest checkpoint if there is one.

    Args:
      stage: to be trained in.
      model: the network.
      feed: the stage's batches.
      settings: the stage's.
      callbacks: of Keras, before the stage's own.
      teacher: whose answers the network learns from too, if the settings are those of a `RetrainConfig`.

    Raises:
      TrainingFailedError: the training has diverged, for good.
      stopping.Stopped: a signal has asked for it.
    """
    config = settings.expect(SgdConfig)
    ema, smoothing = (config.ema, config.label_smoothing) if isinstance(config, TrainConfig) else (0.0, 0.0)
    everything = uses_validation(config)
    batches = feed.train(config, with_validation=everything)
    learner = model
    if teacher is not None:
        taught = settings.expect(RetrainConfig)
        learner = pruning.Distiller(model, teacher, weight=taught.distill, temperature=taught.distill_temperature)

    def compile(rate_scale: float) -> None:
        training.compile_classifier(
            learner,
            optimizers.make_optimizer(config, len(batches), rate_scale=rate_scale, ema=ema),
            label_smoothing=smoothing,
            steps_per_execution=settings.compute.steps_per_execution,
        )

    def beginning() -> Checkpoint:
        return Checkpoint(0, training.state(learner), {"history": [], "rate_scale": 1.0})

    def train(checkpoint: Checkpoint | None) -> None:
        stage.rate_scale = checkpoint.values["rate_scale"] if checkpoint else 1.0
        compile(stage.rate_scale)
        begin, state = position(checkpoint)
        place = {"epoch": begin.epoch, "step": begin.step, "rate_scale": stage.rate_scale}
        processes.meet({"what it builds on": stage.digest, "images": feed.data.digest, **place})
        if state:
            training.restore(learner, state)
        watch = _monitor(stage, settings, config.epochs, checkpoint, images=len(batches) * config.batch_size)
        saver = Saver(stage, watch, settings.compute)
        view = NetworkView(watch.board, model, config.epochs)
        recorder = FitRecorder(watch, steps=len(batches), saver=saver, rate_scale=stage.rate_scale, view=view)
        training.fit(
            learner,
            batches,
            epochs=config.epochs,
            begin=begin,
            validation_data=None if everything else feed.validation,
            callbacks=[FollowEpoch(batches), *callbacks, recorder],
        )
        watch.close()

    compile(1.0)
    _resumed(stage, settings, beginning, train)


def search(
    stage: OpenStage,
    searcher: Searcher,
    settings: Settings,
    batches: tuple[Batches, Batches],
) -> dict[str, Any]:
    """Runs a search on (training, evaluation) batches to its end, from its newest checkpoint if there is one.

    Returns:
      Its figures.

    Raises:
      TrainingFailedError: the shared weights have diverged, for good.
      stopping.Stopped: a signal has asked for it.
    """
    data, evaluation = batches

    def beginning() -> Checkpoint:
        searcher.prepare(data, evaluation, searcher.length)
        values = {"history": [], "search": searcher.state_values()}
        return Checkpoint(0, searcher.state_arrays(), values)

    def train(checkpoint: Checkpoint | None) -> dict[str, Any]:
        if checkpoint:
            searcher.restore(checkpoint.arrays, checkpoint.values["search"])
        stage.rate_scale = searcher.rate_scale
        images = _steps(searcher, data) * searcher.config.batch_size
        watch = _monitor(stage, settings, searcher.length, checkpoint, unit=searcher.unit, images=images)
        saver = Saver(stage, watch, settings.compute)
        view = SearchView(watch.board, searcher, checkpoint.values.get("view") if checkpoint else None)
        recorder = SearchRecorder(watch, saver, view)
        metrics = searcher.search(data, validation_data=evaluation, callbacks=[recorder])
        view.found(stage.path)
        watch.close()
        return metrics

    return _resumed(stage, settings, beginning, train, unit=searcher.unit)


def _steps(searcher: Searcher, batches: Batches) -> int:
    """Training steps of an epoch of a search, or of a cycle."""
    config = searcher.config
    return config.population * config.iterations if isinstance(config, LdsConfig) else len(batches)


def _resumed(
    stage: OpenStage,
    settings: Settings,
    beginning: Callable[[], Checkpoint],
    train: Callable[[Checkpoint | None], Result],
    *,
    unit: str = "epoch",
) -> Result:
    """What `train` returns for the newest checkpoint; after a divergence, on request, at half the learning rate."""
    checkpoint = stage.resume()
    rollback = settings.compute.on_nan == "rollback"
    if rollback and checkpoint is None:
        checkpoint = beginning()
        stage.save_checkpoint(checkpoint)
    with stopping.deferred():
        while True:
            try:
                return train(checkpoint)
            except training.DivergedError as error:
                # Checkpoints within an epoch are written when the clock or a signal says so; where a training goes back
                # to, and so what comes out, must not depend on that.
                checkpoint = stage.load_checkpoint(whole_epochs=rollback)
                if not rollback or checkpoint is None:
                    raise _failure(stage, error, position_in_words(checkpoint, unit) if checkpoint else None) from None
                if stage.rate_scale <= 0.5**MOST_ROLLBACKS:
                    raise TrainingFailedError(
                        f"stage '{stage.name}' has diverged {MOST_ROLLBACKS + 1} times, each time at half the learning "
                        "rate.\nLook at its data and settings, and begin again with `overwrite`."
                    ) from None
                checkpoint = _slower(checkpoint)
                print(
                    f"warning: stage '{stage.name}': {error}.\n"
                    f"Going back to {position_in_words(checkpoint, unit)}, at half the learning rate.",
                    flush=True,
                )
                stage.save_checkpoint(checkpoint)


def _slower(checkpoint: Checkpoint) -> Checkpoint:
    """The same place, from where the learning rate is half as high."""
    values = dict(checkpoint.values)
    if "search" in values:
        values["search"] = {**values["search"], "rate_scale": values["search"]["rate_scale"] / 2}
    else:
        values["rate_scale"] /= 2
    return dataclasses.replace(checkpoint, values=values)


def _failure(stage: OpenStage, error: Exception, position: str | None) -> TrainingFailedError:
    last = f"The last good checkpoint, {position}, stays.\n" if position else ""
    return TrainingFailedError(
        f"stage '{stage.name}': {error}.\n{last}"
        "Give the same command with `on_nan`=rollback to go on at half the learning rate, or begin again with "
        "`overwrite` and a lower `lr_max` or `clip_norm`."
    )


def _monitor(
    stage: OpenStage,
    settings: Settings,
    total: int,
    checkpoint: Checkpoint | None,
    *,
    unit: str = "epoch",
    images: int = 0,
) -> Monitor:
    """The stage's monitor; it takes up the history of an interrupted process."""
    history = checkpoint.values["history"] if checkpoint else []
    if checkpoint and (checkpoint.epoch or checkpoint.step):
        print(f"{stage.name}: going on after {position_in_words(checkpoint, unit, total)}")
    return Monitor(
        stage.path,
        label=stage.name,
        total=total,
        unit=unit,
        history=history,
        behind=settings.behind,
        images=images,
        tracking=stage.tracking,
    )
