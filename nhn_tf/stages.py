"""The stages: each reads what it needs from the run directory, calls one algorithm, and writes its result back."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from nhn_tf import files, training
from nhn_tf.configs import BaseConfig, DataConfig, EnasConfig, SgdConfig, TrainConfig
from nhn_tf.data import datasets
from nhn_tf.data.batches import Batches, FollowEpoch, Normalization
from nhn_tf.errors import UserError
from nhn_tf.genotype import Genotype
from nhn_tf.models import network, weights
from nhn_tf.monitor import FitRecorder, Monitor, SearchRecorder
from nhn_tf.runs import NOT_IN_DIGEST, Checkpoint, RunDirectory, RunError, Settings, StageDirectory
from nhn_tf.search.enas import EnasSearch
from nhn_tf.search.searcher import Trial


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


def enas(directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    """Searches an architecture (paper, section 2.1)."""
    config = settings.config
    assert isinstance(config, EnasConfig)
    stage = directory.stage("enas")
    if done := _finished(stage, stage.begin(settings)):
        return done
    data = datasets.load(settings.data, seed=settings.seed)
    feed = Feed(data, settings)
    searcher = EnasSearch(
        config.space,
        config,
        input_shape=data.image_shape,
        num_classes=data.num_classes,
        seed=settings.seed,
        steps_per_execution=settings.compute.steps_per_execution,
    )
    checkpoint = stage.load_checkpoint()
    if checkpoint:
        searcher.restore(checkpoint.arrays, checkpoint.values["search"])
    monitor = _monitor(stage, config.epochs, checkpoint)
    metrics = searcher.search(
        feed.train(config), validation_data=feed.validation, callbacks=[SearchRecorder(stage, monitor)]
    )
    monitor.close()
    _write_trials(stage / "trials.csv", searcher.trials)
    genotype = searcher.get_best_genotypes(1)[0]
    return stage.finish(metrics, genotype=genotype, weights=weights.to_arrays(searcher.supernet))


def base(directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    """Trains the searched network from scratch (paper, section 2.1)."""
    config = settings.config
    assert isinstance(config, BaseConfig)
    if config.genotype:
        genotype = _read_architecture(config.genotype)
    else:
        source = directory.require("enas")
        _check_same_data(source, settings.data)
        genotype = source.genotype()
    stage = directory.stage("base")
    if done := _finished(stage, stage.begin(settings, input_genotype=genotype)):
        return done
    data = datasets.load(settings.data, seed=settings.seed)
    model = network.build(
        genotype, input_shape=data.image_shape, num_classes=data.num_classes, dropout=config.dropout, **config.form
    )
    metrics = _train(stage, model, Feed(data, settings), settings)
    return stage.finish(metrics, genotype=genotype, weights=weights.to_arrays(model))


_STAGES: dict[str, Callable[[RunDirectory, Settings], dict[str, Any]]] = {"enas": enas, "base": base}


class Feed:
    """The batches of one stage: training with augmentation, validation and test without."""

    def __init__(self, data: datasets.Dataset, settings: Settings):
        self._data = data
        self._settings = settings
        self._normalization = Normalization.of(data.train)
        self.validation = self._plain(data.val)
        self.test = self._plain(data.test)

    def train(self, config: SgdConfig) -> Batches:
        split = self._data.train
        if getattr(config, "train_on_validation", False):
            split = split.joined(self._data.val)
        if config.batch_size > len(split):
            raise UserError(f"--batch_size must not exceed the {len(split)} training images. Received: {config.batch_size}.")
        return Batches(
            split,
            batch_size=config.batch_size,
            normalization=self._normalization,
            augmentation=datasets.augmentation_for(self._settings.data, self._data, cutout=config.cutout),
            shuffle=True,
            seed=self._settings.seed,
            drop_remainder=True,
        )

    def _plain(self, split: datasets.Split) -> Batches:
        size = min(self._settings.compute.eval_batch_size, len(split))
        return Batches(
            split, batch_size=size, normalization=self._normalization, shuffle=False, seed=0, drop_remainder=False
        )


def _train(stage: StageDirectory, model: keras.Model, feed: Feed, settings: Settings) -> dict[str, float]:
    """Trains a derived network to the end, from its newest checkpoint if there is one; returns its figures."""
    config = settings.config
    assert isinstance(config, TrainConfig)
    batches = feed.train(config)
    training.compile_classifier(
        model,
        training.make_optimizer(config, len(batches), ema=config.ema),
        label_smoothing=config.label_smoothing,
        steps_per_execution=settings.compute.steps_per_execution,
    )
    checkpoint = stage.load_checkpoint()
    if checkpoint:
        training.restore(model, checkpoint.arrays)
    monitor = _monitor(stage, config.epochs, checkpoint)
    model.fit(
        batches,
        validation_data=None if config.train_on_validation else feed.validation,
        initial_epoch=checkpoint.epoch if checkpoint else 0,
        epochs=config.epochs,
        callbacks=[FollowEpoch(batches), FitRecorder(stage, monitor)],
        shuffle=False,  # the batches bring their own order
        verbose=0,
    )
    monitor.close()
    return _figures(model, feed)


def _figures(model: keras.Model, feed: Feed) -> dict[str, float]:
    test_accuracy = training.accuracy(model, feed.test)
    params = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    error = 100.0 * (1.0 - test_accuracy)
    return {
        "test_accuracy": test_accuracy,
        "test_error": error,
        "val_accuracy": training.accuracy(model, feed.validation),
        "params": params,
        "live_params": params,
        "score": training.score(error, params / 1e6),
    }


def _monitor(stage: StageDirectory, total: int, checkpoint: Checkpoint | None) -> Monitor:
    history = checkpoint.values["history"] if checkpoint else []
    if checkpoint:
        print(f"{stage.name}: going on after epoch {checkpoint.epoch} of {total}")
    return Monitor(stage.path, label=stage.name, total=total, history=history)


def _write_trials(path: Path, trials: Sequence[Trial]) -> None:
    """The ranked candidates: place, score, what proposed them, the architecture in ENAS's text form on one line."""
    rows = [(trial.source, trial.score, " ".join(trial.genotype.to_enas_text().split())) for trial in trials]
    with files.atomic_write(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("place", "source", "score", "architecture"))
        writer.writerows((place, *row) for place, row in enumerate(rows, 1))


def _finished(stage: StageDirectory, done: dict[str, Any] | None) -> dict[str, Any] | None:
    if done:
        print(f"{stage.name}: already finished in {stage.path} ({done['wall_s']:.0f} s); nothing to do")
    return done


def _read_architecture(path: str) -> Genotype:
    try:
        return Genotype.from_enas_text(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"--genotype={path} is no architecture in ENAS's text form: {error}") from None


def _check_same_data(source: StageDirectory, data: DataConfig) -> None:
    before, now = source.record()["data"], data.to_json()
    changed = [name for name in now if name not in NOT_IN_DIGEST and before.get(name) != now[name]]
    if changed:
        told = "; ".join(f"{name} {before.get(name)} -> {now[name]}" for name in changed)
        raise RunError(
            f"stage '{source.name}' in {source.run.path} ran on other data: {told}.\n"
            f"Give the same data settings or another --model_dir."
        )
