"""The training stages: `base`, `pruned`, `final`; and `baseline`, what they are compared with."""

from __future__ import annotations

from typing import Any

import keras

from nhn_tf import training
from nhn_tf.models import plain_cnn, weights
from nhn_tf.runs import Done, OpenStage, ReadyStage, Settings
from nhn_tf.settings import BaseConfig, BaselineConfig, RetrainConfig
from nhn_tf.stages import networks
from nhn_tf.stages.feed import Feed
from nhn_tf.stages.resuming import fit


def base(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """Trains the searched network from scratch (paper, section 2.1)."""
    config = settings.expect(BaseConfig)
    model = networks.build(stage.genotype, feed.data, form=config.form, dropout=config.dropout)
    begun = stage.begin(feed.data.digest, feed.data.summary())
    fit(begun, model, feed, settings)
    figures = _measured(begun, model, feed, settings)
    return begun.finish(figures, genotype=stage.genotype, weights=weights.to_arrays(model))


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
    begun = stage.begin(data.digest, data.summary())
    fit(begun, model, feed, settings)
    figures = _measured(begun, model, feed, settings)
    return begun.finish(figures, genotype=None, weights=weights.to_arrays(model))


def _retrain(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    config = settings.expect(RetrainConfig)
    model = networks.inherited(stage.predecessor, feed.data, dropout=config.dropout, init=config.init)
    begun = stage.begin(feed.data.digest, feed.data.summary())
    fit(begun, model, feed, settings)
    arrays = weights.to_arrays(model)
    figures = _measured(begun, model, feed, settings)
    if stage.genotype.addons:
        figures |= _ablation(stage, arrays, feed)
    return begun.finish(figures, genotype=stage.genotype, weights=arrays)


def _measured(stage: OpenStage, model: keras.Model, feed: Feed, settings: Settings) -> dict[str, float]:
    """The figures of the trained network; its answers to the test images are written beside them."""
    answers = networks.answers(model, feed)
    answers.save(stage.path)
    return networks.figures(model, feed, settings, answers.hits)


def _ablation(stage: ReadyStage, arrays: dict[str, Any], feed: Feed) -> dict[str, float]:
    """The trained network with its add-ons taken out (paper, section 4: 1.08 points lost)."""
    genotype = stage.genotype
    model = networks.build(genotype.without_addons(), feed.data, form=networks.form_of(stage.predecessor.run))
    weights.transfer(arrays, model)
    return {"test_accuracy_without_addons": training.accuracy(model, feed.test), "addons": len(genotype.addons)}
