"""The stage `prune`: which kernels go, what that saves, and pictures of it."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final, NamedTuple

import keras
import numpy as np

from nhn_tf import pruning, training
from nhn_tf.layers import MaskedConv2D
from nhn_tf.models import complexity, weights
from nhn_tf.report import choices, figures
from nhn_tf.runs import Done, OpenStage, ReadyStage, RunError, Settings, StageRecord
from nhn_tf.runs.board import TENSORBOARD
from nhn_tf.runs.event_writer import EventWriter
from nhn_tf.settings import BaseConfig, PruneConfig
from nhn_tf.stages import networks, showing
from nhn_tf.stages.feed import Feed
from nhn_tf.stages.resuming import fit
from nhn_tf.storage import files
from nhn_tf.training import optimizers
from nhn_tf.values.masks import Masks

KXK: Final = "kxk"
POINTWISE: Final = "pointwise"
"""Kinds of layers that lose kernels, each to a share of its own."""

FAR_ABOVE_CHANCE: Final = 0.25
"""So much more than by chance of what is kept as at initialisation is warned of."""


def prune(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """Removes the kernels that learned nothing (paper, section 2.2)."""
    config = settings.expect(PruneConfig)
    model = networks.inherited(stage.predecessor, feed.data)
    kinds = _layers_to_prune(model, stage.predecessor, config)
    pruned = _maskable(model, kinds, stage.predecessor)
    begun = stage.begin(feed.data.digest, feed.data.summary())
    metrics = {"test_accuracy_before": training.accuracy(model, feed.test)}
    if config.schedule == "gradual":
        thresholds = _prune_gradually(begun, pruned, kinds, feed, settings)
    else:
        thresholds = _prune_at_once(model, pruned, kinds, settings)
    recalibrate(pruned, feed, config)
    masks, toll = pruning.masks_of(pruned), _Toll.of(pruned)
    metrics |= networks.figures(pruned, feed, settings, training.hits(pruned, feed.test))
    metrics |= _savings(toll, kinds) | _sparsities(masks, kinds)
    if config.control:
        metrics["random_test_accuracy"] = _random_control(model, masks, feed, settings)
    inheritance = _inheritance(stage.predecessor, _of(kinds[KXK], masks), feed, settings)
    metrics |= _origin(inheritance, stage.predecessor, feed, settings)
    _write_layers(begun / "layers.csv", toll, thresholds, inheritance)
    _picture(begun, _kernels(model), _kernels(pruned), config, thresholds, masks, seed=settings.seed)
    genotype = dataclasses.replace(stage.genotype, masks=masks)
    return begun.finish(metrics, genotype=genotype, weights=weights.to_arrays(pruned))


def _layers_to_prune(model: keras.Model, source: StageRecord, config: PruneConfig) -> dict[str, list[str]]:
    """The names of the layers that lose kernels, by kind: full k x k convolutions, and 1x1 ones where asked for."""
    if not any(isinstance(layer, MaskedConv2D) for layer in model.layers):
        raise RunError(
            f"the network of stage '{source.name}' in {source.run} has no full 3x3 or 5x5 convolution to prune.\n"
            f"Search with `ops` that include one, and train the base with `separable_as_dense`."
        )
    kinds = {KXK: list(_convolutions(model))}
    if config.pointwise_sparsity:
        convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        pointwise = [layer.name for layer in convolutions if layer.kernel_size == (1, 1)]
        if pointwise:
            kinds[POINTWISE] = pointwise
        else:
            print("warning: the network has no 1x1 convolution for `pointwise_sparsity` to prune")
    return kinds


def _convolutions(model: keras.Model) -> dict[str, Any]:
    """The k x k convolutions that lose kernels, by name; those within an op of several layers are left whole."""
    return {path: layer for path, layer in pruning.prunable(model).items() if "/" not in path}


def _kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """The kernels of those, [kh, kw, Cin, Cout] by name."""
    return {name: keras.ops.convert_to_numpy(layer.kernel) for name, layer in _convolutions(model).items()}


def _maskable(model: keras.Model, kinds: Mapping[str, Sequence[str]], source: StageRecord) -> keras.Model:
    """A copy of the network whose layers in `kinds` can be masked."""
    try:
        return pruning.prune(model, sparsity=0.0, layers=[name for names in kinds.values() for name in names])
    except ValueError as error:
        raise RunError(f"{source / 'weights.npz'} cannot be pruned: {error}") from None


def recalibrate(model: keras.Model, feed: Feed, config: PruneConfig) -> None:
    """Measures batch norm's statistics anew on the stage's training batches, if asked."""
    if config.recalibrate:
        pruning.recalibrate(model, feed.train(config))


def random_masks(model: keras.Model, masks: Masks, config: PruneConfig, *, seed: int) -> Masks:
    """Masks of a model's masked layers that keep as many kernels of each kind as `masks` do, but any."""
    kinds = pruning.kinds_of(pruning.masked_layers(model, list(masks)))
    return pruning.random_masks(masks, scope=config.scope, kinds=kinds, seed=seed)


def _random_control(model: keras.Model, masks: Masks, feed: Feed, settings: Settings) -> float:
    """The test accuracy of the network with as many random kernels gone as `masks` switch off."""
    control = pruning.prune(model, sparsity=0.0, layers=list(masks))
    pruning.apply_masks(control, random_masks(control, masks, settings.expect(PruneConfig), seed=settings.seed))
    recalibrate(control, feed, settings.expect(PruneConfig))
    return training.accuracy(control, feed.test)


def _inheritance(source: StageRecord, masks: Masks, feed: Feed, settings: Settings) -> pruning.Inheritance | None:
    """What of `masks`, those of k x k kernels, the same choice would have kept before the base was trained.

    None where the base's initial kernels cannot be made anew, nothing is kept, or the choice is blind to kernels.
    """
    if settings.expect(PruneConfig).criterion == "random":
        return None
    initial = networks.initial(source, feed.data)
    if initial is None or not masks.kept:
        return None
    options = {**_pruning_options(settings), "threshold": None, "sparsity": masks.sparsity}
    return pruning.Inheritance.of(masks, pruning.propose(initial, **options).masks)


def _origin(
    inheritance: pruning.Inheritance | None, source: StageRecord, feed: Feed, settings: Settings
) -> dict[str, float]:
    """Whether the base was trained for long enough to be pruned by what it learned; a warning where it was not."""
    config = BaseConfig.from_json(source.config["config"])
    e_folds = optimizers.decay_e_folds(config, len(feed.train(config)))
    found = {"decay_e_folds": e_folds}
    if inheritance is None:
        return found
    kept, chance = inheritance.kept_as_at_initialisation, inheritance.kept_by_chance
    if kept > chance + FAR_ABOVE_CHANCE:
        print(
            f"warning: {kept:.0%} of the kernels that stay would have stayed before training, too ({chance:.0%} by "
            f"chance). L2 has shrunk idle weights by {e_folds:.2g} e-folds. "
            "Train the base for more epochs or with a higher `l2`."
        )
    return {**found, "kept_as_at_initialisation": kept, "kept_by_chance": chance}


def _pruning_options(settings: Settings, kind: str = KXK) -> dict[str, Any]:
    """What the library's pruning functions are asked for, in layers of a kind."""
    config = settings.expect(PruneConfig)
    auto = kind == POINTWISE or config.threshold == "auto"
    sparsity = config.pointwise_sparsity if kind == POINTWISE else config.sparsity
    return {
        "threshold": None if auto else float(config.threshold),
        "sparsity": sparsity if auto else None,
        "criterion": config.criterion,
        "scope": config.scope,
        "allow_disconnected": config.allow_disconnected,
        "seed": settings.seed,
    }


def _prune_at_once(
    model: keras.Model, masked: keras.Model, kinds: Mapping[str, Sequence[str]], settings: Settings
) -> Mapping[str, float]:
    """Masks `masked`, a maskable copy of `model`; says which layers kept a kernel for connection's sake.

    Returns:
      For each layer the sensitivity below which kernels went.
    """
    thresholds: dict[str, float] = {}
    for kind, names in kinds.items():
        proposal = pruning.propose(model, layers=names, **_pruning_options(settings, kind))
        for name in proposal.rescued:
            print(f"warning: every kernel of {name} was to go; its strongest stays (`allow_disconnected` lets it go)")
        for name in proposal.disconnected:
            print(f"warning: {name} has no kernel left")
        pruning.apply_masks(masked, proposal.masks)
        thresholds |= proposal.thresholds
    config = settings.expect(PruneConfig)
    if config.scope != "normalized":
        return thresholds
    unit = pruning.units(pruning.masked_layers(masked), config.criterion)
    return {name: threshold * unit[name] for name, threshold in thresholds.items()}


def _prune_gradually(
    stage: OpenStage,
    masked: keras.Model,
    kinds: Mapping[str, Sequence[str]],
    feed: Feed,
    settings: Settings,
) -> Mapping[str, float]:
    """Trains `masked` while its masks follow the ramp, which ends after three quarters of the epochs.

    Returns:
      For each layer the least sensitivity that stayed.
    """
    config = settings.expect(PruneConfig)
    end = max(1, config.epochs * len(feed.train(config)) * 3 // 4)
    schedules = [
        pruning.PruningSchedule(**_pruning_options(settings, kind), layers=names, end_step=end, every=max(1, end // 50))
        for kind, names in kinds.items()
    ]
    # Masks are looked at between two calls of the backend: with several steps in one, others would come out.
    stepwise = dataclasses.replace(settings, compute=settings.compute.replaced(steps_per_execution=1))
    with warnings.catch_warnings():
        # To Keras the rest of a resumed epoch is a training of its own, which ends before the schedule does.
        warnings.filterwarnings("ignore", "training ended after")
        fit(stage, masked, feed, stepwise, callbacks=schedules)
    kernels = {name: keras.ops.convert_to_numpy(layer.kernel) for name, layer in pruning.masked_layers(masked).items()}
    masks = pruning.masks_of(masked)
    scores = pruning.score(kernels, config.criterion, seed=settings.seed)
    return {name: float(scores[name][masks[name]].min(initial=np.inf)) for name in masks}


class _Toll(NamedTuple):
    """A pruned network layer by layer, by name: what lives, what it cost before and costs now, what was masked."""

    layers: Mapping[str, pruning.LayerLiveness]
    before: Mapping[str, complexity.Cost]
    after: Mapping[str, complexity.Cost]
    masked: Set[str]

    @classmethod
    def of(cls, model: keras.Model) -> _Toll:
        masked = frozenset(pruning.masked_layers(model))
        return cls(pruning.liveness(model), complexity.layer_costs(model), pruning.live_costs(model), masked)


def _savings(toll: _Toll, kinds: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """What pruning took away: shares in [0, 1] and counts."""
    layers, before, after, _ = toll
    removed = {
        f"{kind}_params_removed": 1.0
        - sum(after[name].live_params for name in names) / sum(before[name].params for name in names)
        for kind, names in kinds.items()
    }
    return {
        **removed,
        "params_removed": 1.0 - sum(c.live_params for c in after.values()) / sum(c.params for c in before.values()),
        "dead_neurons": sum(layers[name].dead_neurons for name in layers if before[name].params),
    }


def _sparsities(masks: Masks, kinds: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Shares of the kernels of each kind that are masked, in [0, 1]."""
    figures = {KXK: "kernel_sparsity", POINTWISE: "pointwise_sparsity"}
    return {figures[kind]: _of(names, masks).sparsity for kind, names in kinds.items()}


def _of(names: Sequence[str], masks: Masks) -> Masks:
    """The masks of some layers."""
    return Masks({name: masks[name] for name in names})


def _write_layers(
    path: Path, toll: _Toll, thresholds: Mapping[str, float], inheritance: pruning.Inheritance | None
) -> None:
    """A row for each layer with parameters: kernels, parameters and multiply-adds, before and after.

    Only the kernels of `prunable` layers count towards the sparsity; others lose theirs with dead neurons. Below the
    `threshold`, in the unit of the criterion, kernels went.
    """
    layers, before, after, masked = toll
    shares = inheritance.layers if inheritance else {}
    cuts = {name: f"{cut:.6g}" for name, cut in thresholds.items() if math.isfinite(cut)}
    told = {name: [f"{share:.6f}" for share in pair] for name, pair in shares.items()}
    header = (
        "layer", "prunable", "kernels", "kernels_kept", "dead_neurons", "params", "live_params", "flops", "live_flops",
        "threshold", "kept_as_at_initialisation", "kept_by_chance",
    )  # fmt: skip
    rows = [
        (
            name, int(name in masked), layer.kernels, layer.live_kernels, layer.dead_neurons,
            before[name].params, after[name].live_params, before[name].flops, after[name].live_flops,
            cuts.get(name, ""), *told.get(name, ("", "")),
        )
        for name, layer in layers.items()
        if before[name].params
    ]  # fmt: skip
    files.write_csv(path, header, rows)


def _picture(
    begun: OpenStage,
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    config: PruneConfig,
    thresholds: Mapping[str, float],
    masks: Masks,
    *,
    seed: int,
) -> None:
    """Shows the sensitivities by which kernels were chosen, and kernels before and after, in TensorBoard."""
    events = EventWriter(begun / TENSORBOARD / "pruning")
    ranked = before if config.schedule == "oneshot" else after
    _picture_sensitivities(begun, events, ranked, config.criterion, thresholds, masks, seed=seed)
    _picture_kernels(events, before, after, masks)
    events.close()


def _picture_sensitivities(
    stage: OpenStage,
    events: EventWriter,
    kernels: Mapping[str, np.ndarray],
    criterion: str,
    thresholds: Mapping[str, float],
    masks: Masks,
    *,
    seed: int,
) -> None:
    """The histogram of k x k kernels' sensitivities with the threshold drawn in, as a file and for TensorBoard."""
    scores = pruning.score(kernels, criterion, seed=seed)
    png, (height, width) = figures.std_histogram(scores, thresholds, criterion=criterion)
    with files.atomic_write(stage / "sensitivities.png") as file:
        file.write(png)
    events.image("sensitivities", png, 0, height=height, width=width)
    for name, values in scores.items():
        events.histogram(f"kernel_{criterion}/{name}", values, 0)
        if math.isfinite(thresholds[name]):
            events.scalar(f"threshold/{name}", thresholds[name], 0)
        events.scalar(f"kept/{name}", float(masks[name].mean()), 0)
    events.scalar("kept", 1.0 - masks.sparsity, 0)


def _picture_kernels(
    events: EventWriter, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], masks: Masks
) -> None:
    """For TensorBoard, the flattest kernels and the strongest before pruning (step 0) and after it (1), in one scale.

    Args:
      events: of the run that shows them.
      before: kernels [kh, kw, Cin, Cout] by layer, as they came.
      after: as they are left.
      masks: True where they stay.
    """
    gone = {name: ~masks[name] for name in before}
    went, stay = sum(int(mask.sum()) for mask in gone.values()), sum(int(masks[name].sum()) for name in before)
    sheets = (
        {
            f"Before, the flattest of {went} that go": choices.flattest(before, gone),
            f"Before, the strongest of {stay} that stay": choices.strongest(before, masks),
        },
        {
            f"After, the flattest of {stay} that stay": choices.flattest(after, masks),
            f"After, the strongest of {stay}": choices.strongest(after, masks),
        },
    )
    shown = [square.kernel for sheet in sheets for squares in sheet.values() for square in squares]
    scale = max(float(np.abs(kernel).max()) for kernel in shown)
    for step, sheet in enumerate(sheets):
        if any(sheet.values()):
            showing.show(events, "kernels", choices.of_kernels(sheet, scale=scale), step)
