"""What several stages share: the batches, the network of the stage before, the figures."""

from __future__ import annotations

import functools
from typing import Any

import keras

from nhn_tf import pruning, training
from nhn_tf.data import datasets
from nhn_tf.data.batches import Batches, Normalization
from nhn_tf.errors import UserError
from nhn_tf.models import complexity, network, weights
from nhn_tf.runs import NOT_IN_DIGEST, STAGES, RunDirectory, RunError, Settings, StageDirectory
from nhn_tf.settings import BaseConfig, Config, DataConfig, FinalConfig, GradientConfig
from nhn_tf.values.genotype import Genotype


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


def open_stage(
    directory: RunDirectory,
    name: str,
    settings: Settings,
    *,
    source: StageDirectory | None = None,
    genotype: Genotype | None = None,
) -> tuple[StageDirectory, Feed | None]:
    """Looks at a stage before it runs: its settings, its data, the stage it builds on. Nothing is written.

    Args:
      directory: the run.
      name: the stage.
      settings: what is asked.
      source: the finished stage whose weights it starts from, if any.
      genotype: what it starts from, if anything.

    Returns:
      The stage, and the batches it is to be run on; None instead when it has finished with these settings on these
      images.

    Raises:
      UserError: settings, data or predecessor do not admit it.
    """
    stage = directory.stage(name)
    done = stage.begin(settings, source=source, input_genotype=genotype)
    if done is None or stage.record()["data"]["data_dir"] != settings.data.data_dir:
        feed = load_feed(settings)
        stage.check_data(feed.data.digest)
        if source is not None:
            source.check_data(feed.data.digest)
        if done is None:
            return stage, feed
    print(f"{name}: already finished in {stage.path} ({done['wall_s']:.0f} s); nothing to do")
    return stage, None


def start(stage: StageDirectory, feed: Feed) -> None:
    """Starts a stage that nothing stands in the way of, noting the images it sees."""
    stage.start(feed.data.digest, feed.data.summary())


def load_feed(settings: Settings) -> Feed:
    """The batches that the settings name."""
    feed = Feed(_load(settings.data, settings.seed), settings)
    size = getattr(settings.config, "batch_size", 1)
    images = len(feed.data.train) + (len(feed.data.val) if uses_validation(settings.config) else 0)
    if size > images:
        raise UserError(f"--batch_size must not exceed the {images} training images. Received: {size}.")
    return feed


@functools.lru_cache(maxsize=1)
def _load(config: DataConfig, seed: int) -> datasets.Dataset:
    """The data set; kept for the next stage of the same process."""
    return datasets.load(config, seed=seed)


def uses_validation(config: Config) -> bool:
    return isinstance(config, FinalConfig) and config.train_on_validation


def source_stage(directory: RunDirectory, name: str, settings: Settings) -> StageDirectory:
    """The finished stage that another builds on, checked to be of the same data and seed and of the present base."""
    source = directory.require(name, settings)
    record, now = source.record(), settings.data.to_json()
    before = {**record["data"], "seed": record["seed"]}
    now["seed"] = settings.seed  # it draws the validation images
    if changed := [name for name in now if name not in NOT_IN_DIGEST and before.get(name) != now[name]]:
        told = "; ".join(f"{name} {before.get(name)} -> {now[name]}" for name in changed)
        raise RunError(
            f"stage '{source.name}' in {source.run.path} ran on other data: {told}.\n"
            f"Give the same data settings and seed, or another --model_dir."
        )
    _check_lineage(directory, source)
    return source


def _check_lineage(directory: RunDirectory, stage: StageDirectory) -> None:
    """Refuses a stage that was begun on what a stage before it no longer holds.

    Raises:
      RunError: it names the first stage to run again.
    """
    holders: dict[str, StageDirectory] = {}
    for name in STAGES:
        if directory.stage(name).is_done:
            holders.setdefault(directory.stage(name).done()["weights"], directory.stage(name))
    while (origin := stage.record()["input_weights"]) is not None:
        if origin not in holders:
            raise RunError(
                f"stage '{stage.name}' in {directory.path} was begun on weights that no stage holds any more: a stage "
                f"before it has been run again since.\n"
                f"Run '{stage.name}' and the stages behind it again with --overwrite."
            )
        stage = holders[origin]


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
    try:
        model = build(directory, source.genotype(), data, dropout=dropout)
    except ValueError as error:
        raise RunError(
            f"the network of stage '{source.name}' in {directory.path} is not of the base's form ({error}).\n"
            f"The base has been run again since: run the stages after it again with --overwrite."
        ) from None
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


def figures(model: keras.Model, feed: Feed, settings: Settings) -> dict[str, float]:
    """What is reported of every trained network; validation images that were trained on measure nothing."""
    test_accuracy = training.accuracy(model, feed.test)
    cost, live = complexity.model_cost(model), pruning.live_costs(model).values()
    live_params = sum(layer.live_params for layer in live)
    error = 100.0 * (1.0 - test_accuracy)
    found = {
        "test_accuracy": test_accuracy,
        "test_error": error,
        "params": cost.params,
        "live_params": live_params,
        "flops": cost.flops,
        "live_flops": sum(layer.live_flops for layer in live),
        "score": complexity.score(error, live_params / 1e6),
    }
    if not uses_validation(settings.config):
        found["val_accuracy"] = training.accuracy(model, feed.validation)
    return found
