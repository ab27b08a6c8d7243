"""What several stages share: the batches, the network of the stage before, training with checkpoints, the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from nhn_tf import complexity, pruning, training
from nhn_tf.configs import BaseConfig, GradientConfig, SgdConfig
from nhn_tf.data import datasets
from nhn_tf.data.batches import Batches, FollowEpoch, Normalization
from nhn_tf.errors import UserError
from nhn_tf.genotype import Genotype
from nhn_tf.models import network, weights
from nhn_tf.monitor import FitRecorder, Monitor
from nhn_tf.runs import NOT_IN_DIGEST, Checkpoint, RunDirectory, RunError, Settings, StageDirectory


class Feed:
    """The batches of one stage: training with augmentation, validation and test without."""

    def __init__(self, data: datasets.Dataset, settings: Settings):
        self.data = data
        self._settings = settings
        self._normalization = Normalization.of(data.train)
        self.validation = self._plain(data.val)
        self.test = self._plain(data.test)

    def train(self, config: GradientConfig, *, with_validation: bool = False) -> Batches:
        """Shuffled, augmented batches of the training images, on request with the validation images among them."""
        split = self.data.train.joined(self.data.val) if with_validation else self.data.train
        return Batches(
            split,
            batch_size=config.batch_size,
            normalization=self._normalization,
            augmentation=datasets.augmentation_for(self._settings.data, self.data, cutout=config.cutout),
            shuffle=True,
            seed=self._settings.seed,
            drop_remainder=True,
        )

    def _plain(self, split: datasets.Split) -> Batches:
        size = min(self._settings.compute.eval_batch_size, len(split))
        return Batches(
            split, batch_size=size, normalization=self._normalization, shuffle=False, seed=0, drop_remainder=False
        )


def finished(stage: StageDirectory, done: dict[str, Any] | None) -> dict[str, Any] | None:
    """Passes on the result of a finished stage, saying that there is nothing to do."""
    if done:
        print(f"{stage.name}: already finished in {stage.path} ({done['wall_s']:.0f} s); nothing to do")
    return done


def load_data(stage: StageDirectory, settings: Settings) -> Feed:
    """Loads the data and, once that has gone well, starts the stage."""
    data = datasets.load(settings.data, seed=settings.seed)
    batch_size = getattr(settings.config, "batch_size", 1)
    if batch_size > len(data.train):
        raise UserError(f"--batch_size must not exceed the {len(data.train)} training images. Received: {batch_size}.")
    feed = Feed(data, settings)
    stage.start()
    return feed


def source_stage(directory: RunDirectory, name: str, settings: Settings) -> StageDirectory:
    """The finished stage that another builds on, checked to have seen the same data."""
    source = directory.require(name)
    before, now = source.record()["data"], settings.data.to_json()
    if changed := [name for name in now if name not in NOT_IN_DIGEST and before.get(name) != now[name]]:
        told = "; ".join(f"{name} {before.get(name)} -> {now[name]}" for name in changed)
        raise RunError(
            f"stage '{source.name}' in {source.run.path} ran on other data: {told}.\n"
            f"Give the same data settings or another --model_dir."
        )
    return source


def form_of(directory: RunDirectory) -> dict[str, Any]:
    """What the run's networks look like beyond their genotype: keyword arguments of `network.build`."""
    return BaseConfig.from_json(directory.stage("base").record()["config"]).form


def inherited(
    directory: RunDirectory,
    source: StageDirectory,
    data: datasets.Dataset,
    *,
    dropout: float = 0.0,
    init: str = "inherit",
) -> keras.Model:
    """The network of a finished stage, with its weights unless `init` is "scratch"."""
    model = build(directory, source.genotype(), data, dropout=dropout)
    if init == "inherit":
        lost = [path for path in weights.transfer(source.weights(), model).missing if "seed_generator" not in path]
        if lost:
            raise RunError(f"{source / 'weights.npz'} lacks {', '.join(lost[:5])}. Run stage '{source.name}' again.")
    return model


def build(directory: RunDirectory, genotype: Genotype, data: datasets.Dataset, *, dropout: float = 0.0) -> keras.Model:
    """A network of the run's form with new weights."""
    return network.build(
        genotype, input_shape=data.image_shape, num_classes=data.num_classes, dropout=dropout, **form_of(directory)
    )


def fit(
    stage: StageDirectory,
    model: keras.Model,
    feed: Feed,
    settings: Settings,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains as the stage's configuration says, from the newest checkpoint if there is one."""
    config = settings.config
    assert isinstance(config, SgdConfig)
    everything = getattr(config, "train_on_validation", False)
    batches = feed.train(config, with_validation=everything)
    training.compile_classifier(
        model,
        training.make_optimizer(config, len(batches), ema=getattr(config, "ema", 0.0)),
        label_smoothing=getattr(config, "label_smoothing", 0.0),
        steps_per_execution=settings.compute.steps_per_execution,
    )
    checkpoint = stage.load_checkpoint()
    if checkpoint:
        training.restore(model, checkpoint.arrays)
    watch = monitor(stage, config.epochs, checkpoint)
    model.fit(
        batches,
        validation_data=None if everything else feed.validation,
        initial_epoch=checkpoint.epoch if checkpoint else 0,
        epochs=config.epochs,
        callbacks=[FollowEpoch(batches), *callbacks, FitRecorder(stage, watch)],
        shuffle=False,  # the batches bring their own order
        verbose=0,
    )
    watch.close()


def monitor(stage: StageDirectory, total: int, checkpoint: Checkpoint | None, *, unit: str = "epoch") -> Monitor:
    """The stage's monitor; it takes up the history of an interrupted process."""
    history = checkpoint.values["history"] if checkpoint else []
    if checkpoint:
        print(f"{stage.name}: going on after {unit} {checkpoint.epoch} of {total}")
    return Monitor(stage.path, label=stage.name, total=total, unit=unit, history=history)


def figures(model: keras.Model, feed: Feed) -> dict[str, float]:
    """What is reported of every trained network."""
    test_accuracy = training.accuracy(model, feed.test)
    params, live = complexity.model_cost(model).params, pruning.live_parameters(model)
    error = 100.0 * (1.0 - test_accuracy)
    return {
        "test_accuracy": test_accuracy,
        "test_error": error,
        "val_accuracy": training.accuracy(model, feed.validation),
        "params": params,
        "live_params": live,
        "score": training.score(error, live / 1e6),
    }
