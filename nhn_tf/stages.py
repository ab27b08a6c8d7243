"""The stages: each reads what it needs from the run directory, calls one algorithm, and writes its result back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from nhn_tf import complexity, files, plots, pruning, training
from nhn_tf.configs import BaseConfig, DataConfig, EnasConfig, PruneConfig, RetrainConfig, SgdConfig
from nhn_tf.data import datasets
from nhn_tf.data.batches import Batches, FollowEpoch, Normalization
from nhn_tf.errors import UserError
from nhn_tf.event_writer import EventWriter
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
    data = _load_data(stage, settings)
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
    data = _load_data(stage, settings)
    model = network.build(
        genotype, input_shape=data.image_shape, num_classes=data.num_classes, dropout=config.dropout, **config.form
    )
    metrics = _train(stage, model, Feed(data, settings), settings)
    return stage.finish(metrics, genotype=genotype, weights=weights.to_arrays(model))


def prune(directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    """Removes the kernels that learned nothing (paper, section 2.2)."""
    config = settings.config
    assert isinstance(config, PruneConfig)
    source = _source(directory, "base", settings)
    stage = directory.stage("prune")
    if done := _finished(stage, stage.begin(settings, source=source, input_genotype=source.genotype())):
        return done
    data = _load_data(stage, settings)
    feed = Feed(data, settings)
    model = _inherited(directory, source, data)
    metrics = {"test_accuracy_before": training.accuracy(model, feed.test)}
    try:
        pruned = pruning.prune(model, sparsity=0.0)
    except ValueError as error:
        raise UserError(f"{source / 'weights.npz'} cannot be pruned: {error}") from None
    if config.schedule == "gradual":
        thresholds = _prune_gradually(stage, pruned, feed, settings)
    else:
        thresholds = _prune_at_once(model, pruned, settings)
    masks = pruning.masks_of(pruned)
    metrics |= _figures(pruned, feed) | _savings(pruned) | {"kernel_sparsity": masks.sparsity}
    if config.control:
        control = pruning.prune(
            model, sparsity=masks.sparsity, criterion="random", scope=config.scope, seed=settings.seed,
            allow_disconnected=True,
        )  # fmt: skip
        metrics["random_test_accuracy"] = training.accuracy(control, feed.test)
    _write_layers(stage / "layers.csv", pruned)
    _picture_sensitivities(stage, model if config.schedule == "oneshot" else pruned, config.criterion, thresholds)
    genotype = dataclasses.replace(source.genotype(), masks=masks)
    return stage.finish(metrics, genotype=genotype, weights=weights.to_arrays(pruned))


def pruned(directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    """Trains the pruned network again (paper, section 3, "network pruning")."""
    return _retrain("pruned", "prune", directory, settings)


def _retrain(name: str, source_name: str, directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    config = settings.config
    assert isinstance(config, RetrainConfig)
    source = _source(directory, source_name, settings)
    stage = directory.stage(name)
    genotype = source.genotype()
    if done := _finished(stage, stage.begin(settings, source=source, input_genotype=genotype)):
        return done
    data = _load_data(stage, settings)
    inherit = config.init == "inherit"
    model = _inherited(directory, source, data, dropout=config.dropout, inherit=inherit)
    metrics = _train(stage, model, Feed(data, settings), settings)
    return stage.finish(metrics, genotype=genotype, weights=weights.to_arrays(model))


_STAGES: dict[str, Callable[[RunDirectory, Settings], dict[str, Any]]] = {
    "enas": enas,
    "base": base,
    "prune": prune,
    "pruned": pruned,
}


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
    """Trains a derived network to the end; returns its figures."""
    _fit(stage, model, feed, settings)
    return _figures(model, feed)


def _fit(
    stage: StageDirectory,
    model: keras.Model,
    feed: Feed,
    settings: Settings,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains as the stage's configuration says, from the newest checkpoint if there is one."""
    config = settings.config
    assert isinstance(config, SgdConfig)
    batches = feed.train(config)
    training.compile_classifier(
        model,
        training.make_optimizer(config, len(batches), ema=getattr(config, "ema", 0.0)),
        label_smoothing=getattr(config, "label_smoothing", 0.0),
        steps_per_execution=settings.compute.steps_per_execution,
    )
    checkpoint = stage.load_checkpoint()
    if checkpoint:
        training.restore(model, checkpoint.arrays)
    monitor = _monitor(stage, config.epochs, checkpoint)
    model.fit(
        batches,
        validation_data=None if getattr(config, "train_on_validation", False) else feed.validation,
        initial_epoch=checkpoint.epoch if checkpoint else 0,
        epochs=config.epochs,
        callbacks=[FollowEpoch(batches), *callbacks, FitRecorder(stage, monitor)],
        shuffle=False,  # the batches bring their own order
        verbose=0,
    )
    monitor.close()


def _figures(model: keras.Model, feed: Feed) -> dict[str, float]:
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


def _load_data(stage: StageDirectory, settings: Settings) -> datasets.Dataset:
    """Loads the data and, once that has gone well, starts the stage."""
    data = datasets.load(settings.data, seed=settings.seed)
    batch_size = getattr(settings.config, "batch_size", 1)
    if batch_size > len(data.train):
        raise UserError(f"--batch_size must not exceed the {len(data.train)} training images. Received: {batch_size}.")
    stage.start()
    return data


def _source(directory: RunDirectory, name: str, settings: Settings) -> StageDirectory:
    """The finished stage that another builds on, checked to have seen the same data."""
    source = directory.require(name)
    _check_same_data(source, settings.data)
    return source


def _inherited(
    directory: RunDirectory,
    source: StageDirectory,
    data: datasets.Dataset,
    *,
    dropout: float = 0.0,
    inherit: bool = True,
) -> keras.Model:
    """The network of a finished stage, with its weights unless `inherit` is False."""
    form = BaseConfig.from_json(directory.stage("base").record()["config"]).form
    model = network.build(
        source.genotype(), input_shape=data.image_shape, num_classes=data.num_classes, dropout=dropout, **form
    )
    if inherit:
        lost = [path for path in weights.transfer(source.weights(), model).missing if "seed_generator" not in path]
        if lost:
            raise RunError(f"{source / 'weights.npz'} lacks {', '.join(lost[:5])}. Run stage '{source.name}' again.")
    return model


def _pruning_options(settings: Settings) -> dict[str, Any]:
    """What the library's pruning functions are asked for."""
    config = settings.config
    assert isinstance(config, PruneConfig)
    auto = config.threshold == "auto"
    return {
        "threshold": None if auto else float(config.threshold),
        "sparsity": config.sparsity if auto else None,
        "criterion": config.criterion,
        "scope": config.scope,
        "allow_disconnected": config.allow_disconnected,
        "seed": settings.seed,
    }


def _prune_at_once(model: keras.Model, masked: keras.Model, settings: Settings) -> Mapping[str, float]:
    """Masks `masked`, a maskable copy of `model`; says which layers kept a kernel for connection's sake.

    Returns:
      For each layer the sensitivity below which kernels went.
    """
    proposal = pruning.propose(model, **_pruning_options(settings))
    for name in proposal.rescued:
        print(f"warning: every kernel of {name} was to go; its strongest stays (--allow_disconnected lets it go)")
    for name in proposal.disconnected:
        print(f"warning: {name} has no kernel left")
    pruning.apply_masks(masked, proposal.masks)
    return proposal.thresholds


def _prune_gradually(
    stage: StageDirectory, masked: keras.Model, feed: Feed, settings: Settings
) -> Mapping[str, float]:
    """Trains `masked` while its masks follow the ramp, which ends after three quarters of the epochs.

    Returns:
      For each layer the least sensitivity that stayed.
    """
    config = settings.config
    assert isinstance(config, PruneConfig)
    end = max(1, config.epochs * len(feed.train(config)) * 3 // 4)
    schedule = pruning.PruningSchedule(**_pruning_options(settings), end_step=end, every=max(1, end // 50))
    _fit(stage, masked, feed, settings, callbacks=[schedule])
    kernels = {name: keras.ops.convert_to_numpy(layer.kernel) for name, layer in pruning.masked_layers(masked).items()}
    masks = pruning.masks_of(masked)
    scores = pruning.score(kernels, config.criterion, seed=settings.seed)
    return {name: float(scores[name][masks[name]].min(initial=np.inf)) for name in masks}


def _savings(model: keras.Model) -> dict[str, float]:
    """What pruning took away: shares in [0, 1] and counts."""
    layers = pruning.liveness(model)
    before, after = complexity.layer_costs(model), pruning.live_costs(model)
    kernels = pruning.masked_layers(model)
    total = sum(before[name].params for name in kernels)
    live = sum(after[name].live_params for name in kernels)
    return {
        "kxk_params_removed": 1.0 - live / total,
        "params_removed": 1.0 - sum(c.live_params for c in after.values()) / sum(c.params for c in before.values()),
        "flops": sum(cost.flops for cost in before.values()),
        "live_flops": sum(cost.live_flops for cost in after.values()),
        "dead_neurons": sum(layers[name].dead_neurons for name in layers if before[name].params),
    }


def _write_layers(path: Path, model: keras.Model) -> None:
    """A row for each layer with parameters: kernels, parameters and multiply-adds, before and after."""
    layers = pruning.liveness(model)
    before, after = complexity.layer_costs(model), pruning.live_costs(model)
    header = (
        "layer", "kernels", "kernels_kept", "dead_neurons", "params", "live_params", "flops", "live_flops",
    )  # fmt: skip
    rows = [
        (
            name, layer.kernels, layer.live_kernels, layer.dead_neurons, before[name].params,
            after[name].live_params, before[name].flops, after[name].live_flops,
        )
        for name, layer in layers.items()
        if before[name].params
    ]  # fmt: skip
    files.write_csv(path, header, rows)


def _picture_sensitivities(
    stage: StageDirectory, model: keras.Model, criterion: str, thresholds: Mapping[str, float]
) -> None:
    """The histogram of sensitivities with the threshold drawn in, as a file and for TensorBoard."""
    kernels = {name: keras.ops.convert_to_numpy(layer.kernel) for name, layer in pruning.prunable(model).items()}
    scores = pruning.score(kernels, criterion)
    png, (height, width) = plots.std_histogram(scores, thresholds, criterion=criterion)
    with files.atomic_write(stage / "sensitivities.png") as file:
        file.write(png)
    events = EventWriter(stage / "tensorboard")
    events.image("prune/sensitivities", png, 0, height=height, width=width)
    for name, values in scores.items():
        events.histogram(f"prune/{criterion}/{name}", values, 0)
    events.close()


def _monitor(stage: StageDirectory, total: int, checkpoint: Checkpoint | None) -> Monitor:
    history = checkpoint.values["history"] if checkpoint else []
    if checkpoint:
        print(f"{stage.name}: going on after epoch {checkpoint.epoch} of {total}")
    return Monitor(stage.path, label=stage.name, total=total, history=history)


def _write_trials(path: Path, trials: Sequence[Trial]) -> None:
    """The ranked candidates: place, score, what proposed them, the architecture in ENAS's text form on one line."""
    rows = [(trial.source, trial.score, " ".join(trial.genotype.to_enas_text().split())) for trial in trials]
    files.write_csv(path, ("place", "source", "score", "architecture"), [(i, *row) for i, row in enumerate(rows, 1)])


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
