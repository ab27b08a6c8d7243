"""The searching stages: architecture (`enas`), add-on locations and directions (`lds_location`, `lds_direction`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nhn_tf.data.batches import Batches
from nhn_tf.models import weights
from nhn_tf.runs import RunDirectory, Settings
from nhn_tf.search import DirectionSearch, EnasSearch, LocationSearch, Trial
from nhn_tf.settings import DirectionConfig, EnasConfig, LdsConfig, LocationConfig
from nhn_tf.stages import resuming
from nhn_tf.stages.common import Feed, form_of, open_stage, source_stage
from nhn_tf.storage import files


def enas(directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    """Searches an architecture (paper, section 2.1)."""
    config = settings.expect(EnasConfig)
    stage, feed = open_stage(directory, "enas", settings)
    if feed is None:
        return stage.done()
    searcher = EnasSearch(
        config.space,
        config,
        input_shape=feed.data.image_shape,
        num_classes=feed.data.num_classes,
        seed=settings.seed,
        steps_per_execution=settings.compute.steps_per_execution,
    )
    metrics = resuming.search(stage, searcher, feed, settings, (feed.train(config), feed.validation))
    _write_trials(stage / "trials.csv", searcher.trials)
    genotype = searcher.get_best_genotypes(1)[0]
    return stage.finish(metrics, genotype=genotype, weights=weights.to_arrays(searcher.supernet))


def lds_location(directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    """Searches the layers that add-on neurons join (paper, section 2.3)."""
    settings.expect(LocationConfig)
    return _grow("lds_location", "pruned", LocationSearch, directory, settings)


def lds_direction(directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    """Searches the connections of the add-on neurons (paper, section 2.3)."""
    settings.expect(DirectionConfig)
    return _grow("lds_direction", "lds_location", DirectionSearch, directory, settings)


def _grow(
    name: str,
    source_name: str,
    search: type[LocationSearch] | type[DirectionSearch],
    directory: RunDirectory,
    settings: Settings,
) -> dict[str, Any]:
    config = settings.expect(LdsConfig)
    source = source_stage(directory, source_name, settings)
    genotype = source.genotype()
    stage, feed = open_stage(directory, name, settings, source=source, genotype=genotype)
    if feed is None:
        return stage.done()
    searcher = search(
        genotype,
        source.weights(),
        config,  # type: ignore[arg-type]  # the caller pairs search and configuration
        input_shape=feed.data.image_shape,
        num_classes=feed.data.num_classes,
        form=form_of(directory),
        seed=settings.seed,
    )
    searcher.search_space_summary()
    metrics = resuming.search(stage, searcher, feed, settings, _evaluation(feed, config))
    _write_addons(stage / "trials.csv", searcher)
    found = searcher.get_best_genotypes(1)[0]
    return stage.finish(metrics, genotype=found, weights=searcher.network_arrays(found))


def _evaluation(feed: Feed, config: LdsConfig) -> tuple[Batches, Batches]:
    """The batches that train add-ons and those that measure them; test images leak, as the paper's way does."""
    if config.eval_split == "val":
        return feed.train(config), feed.validation
    print("warning: --eval_split=test selects on test images; the test accuracy of what is found is too good")
    return feed.train(config, with_validation=True), feed.test


def _write_trials(path: Path, trials: Sequence[Trial]) -> None:
    """The ranked candidates: place, what proposed them, score, architecture in ENAS's text form on one line."""
    rows = [(trial.source, trial.score, " ".join(trial.genotype.to_enas_text().split())) for trial in trials]
    files.write_csv(path, ("place", "source", "score", "architecture"), [(i, *row) for i, row in enumerate(rows, 1)])


def _write_addons(path: Path, searcher: LocationSearch | DirectionSearch) -> None:
    """The ranked candidates: place, what proposed them, score, their add-ons in words."""
    rows = [(trial.source, trial.score, "; ".join(searcher.describe(trial.genotype))) for trial in searcher.trials]
    files.write_csv(path, ("place", "source", "score", "addons"), [(i, *row) for i, row in enumerate(rows, 1)])
