"""The training stages: `base`, `pruned`, `final`."""

from __future__ import annotations

from typing import Any, Final

from nhn_tf import training
from nhn_tf.errors import UserError
from nhn_tf.models import network, weights
from nhn_tf.runs import RunDirectory, Settings
from nhn_tf.settings import BaseConfig, RetrainConfig
from nhn_tf.stages.common import Feed, build, figures, inherited, open_stage, source_stage
from nhn_tf.stages.resuming import fit
from nhn_tf.storage import files
from nhn_tf.values.genotype import Genotype

MOST_BYTES: Final = 2**16
"""Of a file with an architecture: 64 layers take 5,000."""


def base(directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    """Trains the searched network from scratch (paper, section 2.1)."""
    config = settings.expect(BaseConfig)
    if config.genotype:
        genotype = _read_architecture(config.genotype)
    else:
        genotype = source_stage(directory, "enas", settings).genotype()
    stage, feed = open_stage(directory, "base", settings, genotype=genotype)
    if feed is None:
        return stage.done()
    data = feed.data
    model = network.build(
        genotype, input_shape=data.image_shape, num_classes=data.num_classes, dropout=config.dropout, form=config.form
    )
    fit(stage, model, feed, settings)
    return stage.finish(figures(model, feed, settings), genotype=genotype, weights=weights.to_arrays(model))


def _read_architecture(given: str) -> Genotype:
    """The architecture in a file, or in a text of several lines."""
    try:
        text = given if "\n" in given else files.read_bytes(given, limit=MOST_BYTES).decode("utf-8")
        return Genotype.from_enas_text(text)
    except (OSError, ValueError) as error:
        raise UserError(f"--genotype={given} is no architecture in ENAS's text form: {error}") from None


def pruned(directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    """Trains the pruned network again (paper, section 3, "network pruning")."""
    return _retrain("pruned", "prune", directory, settings)


def final(directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    """Trains base and add-ons together (paper, section 3)."""
    return _retrain("final", "lds_direction", directory, settings)


def _retrain(name: str, source_name: str, directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    config = settings.expect(RetrainConfig)
    source = source_stage(directory, source_name, settings)
    genotype = source.genotype()
    stage, feed = open_stage(directory, name, settings, source=source, genotype=genotype)
    if feed is None:
        return stage.done()
    model = inherited(directory, source, feed.data, dropout=config.dropout, init=config.init)
    fit(stage, model, feed, settings)
    arrays = weights.to_arrays(model)
    metrics = figures(model, feed, settings)
    if genotype.addons:
        metrics |= _ablation(directory, genotype, arrays, feed)
    return stage.finish(metrics, genotype=genotype, weights=arrays)


def _ablation(directory: RunDirectory, genotype: Genotype, arrays: dict[str, Any], feed: Feed) -> dict[str, float]:
    """The trained network with its add-ons taken out (paper, section 4: 1.08 points lost)."""
    bare = build(directory, genotype.without_addons(), feed.data)
    weights.transfer(arrays, bare)
    return {"test_accuracy_without_addons": training.accuracy(bare, feed.test), "addons": len(genotype.addons)}
