"""What a run is compared with: the same images, epochs, recipe and seed, and one thing that is not as in the run.

Letters: C channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from nhn_tf import pruning, training
from nhn_tf.layers import GroupedGlobalPool
from nhn_tf.models import complexity, residual, weights
from nhn_tf.runs import Done, ReadyStage, RunDirectory, RunError, Settings
from nhn_tf.search.enas import RANDOM
from nhn_tf.settings import BaseConfig, FinalConfig, PruneConfig, RetrainConfig
from nhn_tf.stages import networks
from nhn_tf.stages.feed import Feed
from nhn_tf.stages.prune import random_masks, recalibrate
from nhn_tf.stages.train import trained
from nhn_tf.values import names
from nhn_tf.values.genotype import Addon, Genotype
from nhn_tf.values.masks import Masks
from nhn_tf.values.randomness import Stream, generator

Arrays = dict[str, np.ndarray]


def random_addons(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """The final training with random add-ons, as many and as large as those found."""
    config = settings.expect(RetrainConfig)
    base = stage.predecessor.genotype()
    genotype = draw_addons(base, stage.genotype, generator(settings.seed, Stream.CONTROL_ADDONS))
    model = networks.build(genotype, feed.data, form=networks.form_of(stage.record.run), dropout=config.dropout)
    if config.init == "inherit":
        weights.transfer(stage.predecessor.weights(), model)
    return trained(stage, model, feed, settings, genotype=genotype)


def draw_addons(base: Genotype, found: Genotype, rng: np.random.Generator) -> Genotype:
    """`base` with random add-ons in place of those of `found`.

    Each stands in the segment of a found one, with its kernel size and as many connections, so that both networks have
    the same number of parameters; layer, source and connections are drawn uniformly.

    Raises:
      ValueError: an add-on of `found` has no mask.
    """
    per = found.space.layers_per_segment
    free = {(target, size) for target in range(found.space.num_layers) for size in (3, 5)}
    drawn: list[tuple[Addon, np.ndarray]] = []
    for number, addon in enumerate(found.addons):
        name = names.addon(number, "conv")
        if found.masks is None or name not in found.masks:
            raise ValueError(f"add-on {number} has no mask.")
        mask = found.masks[name]
        first = addon.target - addon.target % per
        target = int(rng.choice([t for t in range(first, first + per) if (t, addon.kernel_size) in free]))
        free.remove((target, addon.kernel_size))
        source = int(rng.integers(target % per + 1))
        drawn.append((Addon(target, addon.kernel_size, source), rng.permutation(mask.ravel()).reshape(mask.shape)))
    drawn.sort(key=lambda pair: pair[0])
    masks = {names.addon(number, "conv"): mask for number, (_, mask) in enumerate(drawn)}
    return dataclasses.replace(
        base, addons=tuple(addon for addon, _ in drawn), masks=(base.masks or Masks({})).merge(masks)
    )


def random_pruning(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """As many kernels pruned as `prune` did, but any; trained as `pruned` is."""
    config = settings.expect(RetrainConfig)
    pruned = PruneConfig.from_json(RunDirectory(stage.record.run).stage("prune").config["config"])
    base = networks.inherited(stage.predecessor, feed.data, dropout=config.dropout, init=config.init)
    model = pruning.prune(base, sparsity=0.0, layers=list(stage.genotype.masks or ()))
    masks = random_masks(model, stage.genotype.masks or Masks({}), pruned, seed=settings.seed)
    pruning.apply_masks(model, masks)
    recalibrate(model, feed, pruned)
    figures = {"test_accuracy_before": training.accuracy(model, feed.test)}
    genotype = dataclasses.replace(stage.genotype, masks=masks)
    return trained(stage, model, feed, settings, genotype=genotype, figures=figures)


def small_dense(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """The searched architecture, dense and of as few channels as give it the parameters of the final network."""
    config = settings.expect(FinalConfig)
    genotype = dataclasses.replace(stage.genotype.without_addons(), masks=None)
    form = networks.form_of(stage.record.run)

    def build(filters: int) -> keras.Model:
        narrow = dataclasses.replace(form, filters=filters)
        return networks.build(genotype, feed.data, form=narrow, dropout=config.dropout)

    model, filters = _of_size(build, _live_params(stage), least=2)
    return trained(stage, model, feed, settings, genotype=genotype, figures={"filters": filters})


def resnet(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """ResNet-20, as wide as gives it the parameters of the final network."""
    config, data = settings.expect(FinalConfig), feed.data

    def build(filters: int) -> keras.Model:
        return residual.build(data.image_shape, data.num_classes, filters=filters, dropout=config.dropout)

    model, filters = _of_size(build, _live_params(stage), least=1)
    return trained(stage, model, feed, settings, genotype=None, figures={"filters": filters})


def _live_params(stage: ReadyStage) -> int:
    """What the network has to learn that the stage is compared with."""
    return RunDirectory(stage.record.run).stage(stage.record.stage.controls).metrics["live_params"]


def _of_size(build: Callable[[int], keras.Model], wanted: int, *, least: int) -> tuple[keras.Model, int]:
    """The model whose number of parameters, which grows with `filters`, is nearest to a number; and its `filters`."""

    def params(filters: int) -> int:
        return complexity.model_cost(build(filters)).params

    below, above = least, 2 * least
    while params(above) < wanted:
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if params(middle) < wanted else (below, middle)
    filters = min((below, above), key=lambda number: abs(params(number) - wanted))
    return build(filters), filters


def perturbed_addons(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """The final network with one gene of its add-ons changed, each in turn, without training (paper, section 4).

    A gene is the source that an add-on reads; every other value of it is measured, that of no add-on included.
    """
    genotype, arrays = stage.genotype, stage.predecessor.weights()
    if not genotype.addons:
        raise RunError(f"the network of stage 'final' in {stage.record.run} has no add-ons to perturb.")
    form = networks.form_of(stage.record.run)
    begun = stage.begin(feed.data.digest, feed.data.summary())
    found = []
    for changed, values in perturbations(genotype, arrays):
        model = networks.build(changed, feed.data, form=form)
        weights.transfer(values, model)
        found.append(training.accuracy(model, feed.test))
        print(f"{stage.name}: {len(found)} measured, test accuracy {found[-1]:.4f}", flush=True)
    before = RunDirectory(stage.record.run).stage("final").metrics["test_accuracy"]
    figures = {
        "perturbations": len(found),
        "perturbed_test_accuracy": float(np.mean(found)),
        "best_perturbed_test_accuracy": max(found),
        "share_that_hurts": float(np.mean([accuracy < before for accuracy in found])),
    }
    return begun.finish(figures, genotype=genotype, weights={})


def perturbations(genotype: Genotype, arrays: Arrays) -> Iterator[tuple[Genotype, Arrays]]:
    """Every network of one changed add-on gene, and its weights by path."""
    for number, addon in enumerate(genotype.addons):
        for source in range(addon.target % genotype.space.layers_per_segment + 1):
            if source != addon.source:
                others = (*genotype.addons[:number], dataclasses.replace(addon, source=source))
                yield dataclasses.replace(genotype, addons=(*others, *genotype.addons[number + 1 :])), arrays
        yield _without(genotype, number, arrays)


def _without(genotype: Genotype, gone: int, arrays: Arrays) -> tuple[Genotype, Arrays]:
    """The network without one of its add-ons; those behind it move up by one."""
    prefixes = {f"addon{number}_": f"addon{number - (number > gone)}_" for number in range(len(genotype.addons))}

    def renamed(named: Any) -> Arrays:
        kept = {}
        for name, array in named.items():
            prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
            if prefix != f"addon{gone}_":
                kept[prefixes.get(prefix, "") + name.removeprefix(prefix)] = array
        return kept

    addons = (*genotype.addons[:gone], *genotype.addons[gone + 1 :])
    masks = None if genotype.masks is None else Masks(renamed(genotype.masks))
    return dataclasses.replace(genotype, addons=addons, masks=masks), renamed(arrays)


def random_search(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """The best of the search's random architectures, trained as the base is."""
    enas = RunDirectory(stage.record.run).stage("enas")
    texts = [row["architecture"] for row in enas.trials if row["source"] == RANDOM]
    if not texts:
        raise RunError(f"the search in {enas.path} has ranked no random architectures: run it with `random_control`.")
    return _as_base(stage, Genotype.from_enas_text(texts[0], stage.genotype.space), feed, settings)


def random_architecture(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """An architecture drawn uniformly, trained as the base is."""
    space = stage.genotype.space
    genes = space.sample(generator(settings.seed, Stream.CONTROL_ARCHITECTURE))[0]
    return _as_base(stage, Genotype.from_genes(space, genes), feed, settings)


def no_smoothing(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """The base from kernels that are not smoothed."""
    return _as_base(stage, stage.genotype, feed, settings, smooth_init=False)


def average_pooling(stage: ReadyStage, feed: Feed, settings: Settings) -> Done:
    """The base with global average pooling in place of the learnt one."""
    config = settings.expect(BaseConfig)
    model = networks.build(stage.genotype, feed.data, form=config.form, dropout=config.dropout)

    def averaged(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, GroupedGlobalPool):
            return keras.layers.GlobalAveragePooling2D(name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    plain = keras.models.clone_model(model, clone_function=averaged)
    weights.transfer(weights.to_arrays(model), plain)
    return trained(stage, plain, feed, settings, genotype=stage.genotype)


def _as_base(stage: ReadyStage, genotype: Genotype, feed: Feed, settings: Settings, **form: Any) -> Done:
    """Trains a network as the base is trained."""
    config = settings.expect(BaseConfig)
    model = networks.build(genotype, feed.data, form=dataclasses.replace(config.form, **form), dropout=config.dropout)
    return trained(stage, model, feed, settings, genotype=genotype)
