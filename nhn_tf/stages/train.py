"""The training stages: `base`, `pruned`, `final`; and `baseline`, what they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from nhn_tf import training
from nhn_tf.models import plain_cnn, weights
from nhn_tf.runs import Done, OpenStage, ReadyStage, Settings
from nhn_tf.settings import BaseConfig, BaselineConfig, RetrainConfig
from nhn_tf.stages import networks
from nhn_tf.stages.feed import Feed
from nhn_tf.stages.resuming import fit
from nhn_tf.values.genotype import Genotype


def base(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """Trains the searched network from scratch (paper, section 2.1)."""
    config = settings.expect(BaseConfig)
    model = networks.build(stage.genotype, feed.data, form=config.form, dropout=config.dropout)
    return trained(stage, model, feed, settings, genotype=stage.genotype)


def pruned(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """Trains the pruned network again (paper, section 3, "network pruning")."""
    return _retrain(stage, feed, settings)


def final(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """Trains base and add-ons together (paper, section 3)."""
    return _retrain(stage, feed, settings)


def baseline(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """Trains the plain network that the run's is compared with."""
    config = settings.expect(BaselineConfig)
    data = feed.data
    model = plain_cnn.build(data.image_shape, data.num_classes, filters=config.filters, dropout=config.dropout)
    return trained(stage, model, feed, settings, genotype=None)


def _retrain(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """Trains the network of the stage before, from its weights or, with `init` of "scratch", from new ones."""
    config = settings.expect(RetrainConfig)
    model = networks.inherited(stage.predecessor, feed.data, dropout=config.dropout, init=config.init)
    return trained(stage, model, feed, settings, genotype=stage.genotype)


def trained(
    stage: ReadyStage,
    model: keras.Model,
    feed: Feed,
    settings: Settings,
    *,
    genotype: Genotype | None,
    figures: Mapping[str, float] = {},
) -> Done:
    """Begins the stage, trains a network as its settings say, and finishes with it.

    Args:
      stage: to be begun.
      model: the network.
      feed: the stage's batches.
      settings: the stage's.
      genotype: the network's, if it has one.
      figures: more to report beside what is reported of every network.
    """
    teacher = networks.teacher(stage.record.run, feed.data, settings.config)
    begun = stage.begin(feed.data.digest, feed.data.summary())
    fit(begun, model, feed, settings, teacher=teacher)
    arrays = weights.to_arrays(model)
    found = {**figures, **_measured(begun, model, feed, settings)}
    if genotype is not None and genotype.addons:
        found |= _ablation(stage, genotype, arrays, feed)
    return begun.finish(found, genotype=genotype, weights=arrays)


def _measured(stage: OpenStage, model: keras.Model, feed: Feed, settings: Settings) -> dict[str, float]:
    """The figures of the trained network; its answers to the test images are written beside them."""
    answers = networks.answers(model, feed)
    answers.save(stage.path)
    return networks.figures(model, feed, settings, answers.hits)


def _ablation(stage: ReadyStage, genotype: Genotype, arrays: dict[str, Any], feed: Feed) -> dict[str, float]:
    """The trained network with its add-ons taken out (paper, section 4: 1.08 points lost)."""
    model = networks.build(genotype.without_addons(), feed.data, form=networks.form_of(stage.record.run))
    weights.transfer(arrays, model)
    return {"test_accuracy_without_addons": training.accuracy(model, feed.test), "addons": len(genotype.addons)}
