"""The searching stages: architecture (`enas`), add-on locations and directions (`lds_location`, `lds_direction`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nhn_tf.data.batches import Batches
from nhn_tf.models import weights
from nhn_tf.runs import Done, ReadyStage, Settings
from nhn_tf.search import DirectionSearch, EnasSearch, LocationSearch
from nhn_tf.settings import DirectionConfig, EnasConfig, LdsConfig, LocationConfig
from nhn_tf.stages import resuming
from nhn_tf.stages.feed import Feed
from nhn_tf.stages.networks import form_of
from nhn_tf.storage import files
from nhn_tf.values.genotype import Genotype


def enas(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """Searches an architecture (paper, section 2.1)."""
    config = settings.expect(EnasConfig)
    searcher = EnasSearch(
        config.space,
        config,
        input_shape=feed.data.image_shape,
        num_classes=feed.data.num_classes,
        seed=settings.seed,
        steps_per_execution=settings.compute.steps_per_execution,
    )
    searcher.weighing.check()
    begun = stage.begin(feed.data.digest, feed.data.summary())
    metrics = resuming.search(begun, searcher, settings, (feed.train(config), feed.objective(feed.data.val)))
    _write_trials(begun / "trials.csv", searcher)
    searcher.save_history(begun.path)
    searcher.save_controller(begun.path)
    genotype = searcher.get_best_genotypes(1)[0]
    return begun.finish(metrics, genotype=genotype, weights=weights.to_arrays(searcher.supernet))


def locations(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """Searches the layers that add-on neurons join (paper, section 2.3)."""
    searcher = LocationSearch(*_grown(stage), settings.expect(LocationConfig), **_where(stage, feed, settings))
    return _grow(stage, searcher, feed, settings)


def directions(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """Searches the connections of the add-on neurons (paper, section 2.3)."""
    searcher = DirectionSearch(*_grown(stage), settings.expect(DirectionConfig), **_where(stage, feed, settings))
    return _grow(stage, searcher, feed, settings)


def _grown(stage: ReadyStage) -> tuple[Genotype, dict[str, np.ndarray]]:
    """The network that add-ons grow on, and its weights by path."""
    return stage.genotype, stage.predecessor.weights()


def _where(stage: ReadyStage, feed: Feed, settings: Settings) -> dict[str, Any]:
    """What both searches of add-ons are told besides."""
    return {
        "input_shape": feed.data.image_shape,
        "num_classes": feed.data.num_classes,
        "form": form_of(stage.predecessor.run),
        "seed": settings.seed,
    }


def _grow(stage: ReadyStage, searcher: LocationSearch | DirectionSearch, feed: Feed, settings: Settings) -> Done:
    searcher.search_space_summary()
    begun = stage.begin(feed.data.digest, feed.data.summary())
    metrics = resuming.search(begun, searcher, settings, _evaluation(feed, searcher.config))
    _write_addons(begun / "trials.csv", searcher)
    searcher.save_history(begun.path)
    found = searcher.get_best_genotypes(1)[0]
    return begun.finish(metrics, genotype=found, weights=searcher.network_arrays(found))


def _evaluation(feed: Feed, config: LdsConfig) -> tuple[Batches, Batches]:
    """The batches that train add-ons and those that measure them; test images leak, as the paper's way does."""
    if config.eval_split == "val":
        return feed.train(config), feed.objective(feed.data.val)
    print("warning: `eval_split`=test selects on test images; the test accuracy of what is found is too good")
    return feed.train(config, with_validation=True), feed.objective(feed.data.test)


def _write_trials(path: Path, searcher: EnasSearch) -> None:
    """The ranked candidates: place, what proposed them, score, accuracy, cost, architecture in ENAS's text form."""
    rows, latencies = [], searcher.weighing.latencies
    for place, trial in enumerate(searcher.get_ranked_trials(), 1):
        cost = searcher.weighing.network_cost(trial.genotype)
        took = () if latencies is None else (round(latencies(trial.genotype), 6),)
        text = " ".join(trial.genotype.to_enas_text().split())
        rows.append((place, trial.source, trial.score, trial.accuracy, cost.live_params, cost.live_flops, *took, text))
    timed = () if latencies is None else ("latency_ms",)
    head = ("place", "source", "score", "accuracy", "live_params", "multiply_adds", *timed, "architecture")
    files.write_csv(path, head, rows)


def _write_addons(path: Path, searcher: LocationSearch | DirectionSearch) -> None:
    """The ranked candidates: place, what proposed them, score, their add-ons in words."""
    rows = [(trial.source, trial.score, "; ".join(searcher.describe(trial.genotype))) for trial in searcher.trials]
    files.write_csv(path, ("place", "source", "score", "addons"), [(i, *row) for i, row in enumerate(rows, 1)])
