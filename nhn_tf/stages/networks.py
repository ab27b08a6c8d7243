"""The networks of a run: of what form they are, with whose weights they begin, and how good they are."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from nhn_tf import pruning, training
from nhn_tf.data import datasets
from nhn_tf.models import complexity, network, weights
from nhn_tf.runs import RunDirectory, RunError, Settings, StageRecord
from nhn_tf.settings import BaseConfig, Config
from nhn_tf.stages.feed import Feed, is_taught, uses_validation
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.hits import Hits
from nhn_tf.values.predictions import Predictions
from nhn_tf.values.space import OpError


def form_of(run: Path) -> Form:
    """What a run's networks look like beyond their genotype: its base network's settings say it for all of them."""
    return BaseConfig.from_json(RunDirectory(run).stage("base").config["config"]).form


def inherited(
    source: StageRecord,
    data: datasets.Dataset,
    *,
    dropout: float = 0.0,
    init: str = "inherit",
) -> keras.Model:
    """The network of a finished stage, with its weights unless `init` is "scratch"."""
    try:
        model = build(source.genotype(), data, form=form_of(source.run), dropout=dropout)
    except OpError:
        raise
    except ValueError as error:
        raise RunError(
            f"the network of stage '{source.name}' in {source.run} is not of the base's form ({error}).\n"
            f"The base has been run again since: run the stages after it again with `overwrite`."
        ) from None
    if init == "inherit":
        lost = [path for path in weights.transfer(source.weights(), model).missing if "seed_generator" not in path]
        if lost:
            raise RunError(f"{source / 'weights.npz'} lacks {', '.join(lost[:5])}. Run stage '{source.name}' again.")
    return model


def teacher(run: Path, data: datasets.Dataset, config: Config) -> keras.Model | None:
    """The run's base network, dense and as trained, where a stage's settings let it teach; else None."""
    return inherited(RunDirectory(run).stage("base"), data) if is_taught(config) else None


def initial(source: StageRecord, data: datasets.Dataset) -> keras.Model | None:
    """The base network as its stage began to train it, made anew from the stage's seed.

    None where another backend trained it, which draws other numbers.
    """
    if source.done.backend != keras.backend.backend():
        return None
    keras.utils.set_random_seed(source.config["seed"])
    return build(source.genotype(), data, form=form_of(source.run))


def build(genotype: Genotype, data: datasets.Dataset, *, form: Form, dropout: float = 0.0) -> keras.Model:
    """A network for the data, with new weights."""
    return network.build(
        genotype, input_shape=data.image_shape, num_classes=data.num_classes, dropout=dropout, form=form
    )


def answers(model: keras.Model, feed: Feed) -> Predictions:
    """What a network answers to the test images, with thumbnails of its mistakes."""
    data = feed.data
    logits = [training.logits(model, feed.test[index][0]) for index in range(len(feed.test))]
    train, val = (np.bincount(split.labels, minlength=data.num_classes).tolist() for split in (data.train, data.val))
    found = Predictions(data.test.labels, np.concatenate(logits, dtype=np.float32), data.class_names, train, val)
    return found.with_thumbnails(data.test.images)


def figures(model: keras.Model, feed: Feed, settings: Settings, hits: Hits) -> dict[str, float]:
    """What is reported of every trained network; validation images that were trained on measure nothing.

    Args:
      model: the network.
      feed: the stage's batches.
      settings: the stage's.
      hits: among the test images.
    """
    test_accuracy = hits.accuracy
    cost, live = complexity.model_cost(model), pruning.live_costs(model).values()
    live_params = sum(layer.live_params for layer in live)
    error = 100.0 * (1.0 - test_accuracy)
    found = {
        "test_accuracy": test_accuracy,
        "test_error": error,
        "test_balanced_accuracy": hits.balanced_accuracy,
        "test_majority_accuracy": hits.majority_accuracy,
        "params": cost.params,
        "live_params": live_params,
        "flops": cost.flops,
        "live_flops": sum(layer.live_flops for layer in live),
        "score": complexity.score(error, live_params / 1e6),
    }
    if not uses_validation(settings.config):
        found["val_accuracy"] = training.accuracy(model, feed.validation)
    return found
