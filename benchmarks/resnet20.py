"""A pruned ResNet-20 beside what one would do else with it, on real image files, retrained for as long each.

    taskset -c 0 python benchmarks/resnet20.py photos/ --train_limit 8000 --epochs 12 --retrain_epochs 8

Of each seed a ResNet-20 is trained, and from its weights each of these goes on for `--retrain_epochs`:

- whole: the network as it is;
- kernels: `pruning.prune` takes `--sparsity` of the 3x3 kernels behind the stem;
- channels: `pruning.prune(structure="channels")` at the multiply-adds of `kernels`, or just below;
- weights: the smallest weights of the same layers go, at the live parameters of `kernels`, which is known as
  unstructured magnitude pruning.

Each way of pruning ranks over all layers, in each, or in units of each layer's initial kernels, whichever the first
seed's validation images favour right after pruning; batch norm is measured anew for all, before that choice and after
training. Live parameters and multiply-adds are those of the compacted network without its zeros, by the same count for
all; no engine here gains from zeros within a kernel.

Results go to `--out` as they come: called again, it goes on. The last line is JSON: for each method the mean accuracy
on the test images and its standard deviation over the seeds, live parameters and multiply-adds (millions, one image).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np

from nhn_tf import pruning, training
from nhn_tf.data import datasets
from nhn_tf.data.batches import Batches, FollowEpoch
from nhn_tf.data.normalization import Normalization
from nhn_tf.models import complexity, residual, weights
from nhn_tf.settings import DataConfig, RetrainConfig
from nhn_tf.storage import files
from nhn_tf.training import optimizers

METHODS: Final = ("whole", "kernels", "channels", "weights")
SCOPES: Final = ("global", "layer", "normalized")
HALVINGS: Final = 10
"""Of the interval in which the sparsity of channels is looked for."""


class Images(NamedTuple):
    """Batches of one seed."""

    train: Batches
    retrain: Batches
    val: Batches
    test: Batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder of train/ and test/ with class folders")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sparsity", type=float, default=0.85, help="share of the 3x3 kernels that go")
    parser.add_argument("--epochs", type=int, default=60, help="of the network that all begin with")
    parser.add_argument("--retrain_epochs", type=int, default=40, help="of each method from there")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--l2", type=float, default=0.002, help="of the first training: it shrinks idle weights")
    parser.add_argument("--retrain_l2", type=float, default=0.0005)
    parser.add_argument("--train_limit", type=int, default=0, help="use only that many training images")
    parser.add_argument("--eval_limit", type=int, default=0, help="use only that many validation and test images each")
    parser.add_argument("--out", type=Path, default=Path("resnet20.json"))
    options, kept = begun(parser)
    for seed in options.seeds.split(","):
        run(options, int(seed), kept["results"], lambda: files.write_json(options.out, kept))
    rows = [kept["results"][seed] for seed in options.seeds.split(",")]
    print(json.dumps({method: summary([row[method] for row in rows]) for method in METHODS}))


def begun(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, dict[str, Any]]:
    """What is asked for, and what `--out` holds of it: its "results" are to be filled up, and all of it written back.

    A file of other settings is refused; data and seeds may differ.
    """
    options = parser.parse_args()
    asked = {name: value for name, value in vars(options).items() if name not in ("data", "seeds", "out")}
    kept = files.read_json(options.out) if options.out.exists() else {"asked": asked, "results": {}}
    if kept["asked"] != asked:
        parser.error(f"{options.out} holds results of {kept['asked']}. Give another --out.")
    return options, kept


def summary(results: list[dict[str, Any]]) -> dict[str, float]:
    """A method's figures over its seeds."""
    accuracies = [result["accuracy"] for result in results]
    return {
        "accuracy": round(statistics.mean(accuracies), 4),
        "std": round(statistics.stdev(accuracies), 4) if len(accuracies) > 1 else 0.0,
        "live_params": round(statistics.mean(result["live_params"] for result in results)),
        "mflops": round(statistics.mean(result["flops"] for result in results) / 1e6, 3),
        "seeds": len(accuracies),
    }


def run(options: argparse.Namespace, seed: int, of_all: dict[str, Any], save: Callable[[], None]) -> None:
    """Whatever of a seed is not among the results yet, those of all seeds."""
    results, first = of_all.setdefault(str(seed), {}), of_all[options.seeds.split(",")[0]]
    if all(method in results for method in METHODS):
        return
    images, shape, classes = images_of(options, seed)
    keras.utils.set_random_seed(seed)
    base = residual.build(shape, classes)
    start = options.out.with_suffix(f".seed{seed}.npz")
    if start.exists():
        weights.load(base, start)
    else:
        train(base, images.train, epochs=options.epochs, lr_max=0.1, l2=options.l2)
        weights.save(base, start)
    for method in METHODS:
        if method in results:
            continue
        began = time.monotonic()
        scopes = (first[method]["scope"],) if "scope" in first.get(method, {}) else SCOPES
        model, told = pruned(base, method, images, scopes, options.sparsity, results.get("kernels", {}))
        train(model, images.retrain, epochs=options.retrain_epochs, lr_max=0.05, l2=options.retrain_l2)
        pruning.recalibrate(model, images.retrain)
        found = {"accuracy": training.accuracy(model, images.test), **cost(model), **told}
        results[method] = {**found, "seconds": round(time.monotonic() - began)}
        save()
        print(f"seed {seed} {method}: {results[method]}", flush=True)
    start.unlink()


def images_of(options: argparse.Namespace, seed: int, **settings: Any) -> tuple[Images, tuple[int, int, int], int]:
    """The batches of a seed, the shape of an image and the number of classes; `settings` are those of `DataConfig`."""
    config = DataConfig(
        dataset="folder", data_dir=options.data, train_limit=options.train_limit, eval_limit=options.eval_limit,
        **settings,
    )  # fmt: skip
    data = datasets.load(config, seed=seed)
    of_all: dict[str, Any] = {"normalization": Normalization.of(data.train)}
    drawn: dict[str, Any] = {"batch_size": options.batch_size, "shuffle": True, "drop_remainder": True}
    drawn["augmentation"] = datasets.augmentation_for(config, data, cutout=0)
    rest: dict[str, Any] = {"batch_size": 250, "shuffle": False, "seed": 0, "drop_remainder": False}
    # Retraining has an order and crops of its own.
    train, retrain = (Batches(data.train, seed=s, **drawn, **of_all) for s in (seed, seed + 1000))
    val, test = (Batches(split, **rest, **of_all) for split in (data.val, data.test))
    return Images(train, retrain, val, test), data.image_shape, data.num_classes


def train(model: keras.Model, batches: Batches, *, epochs: int, lr_max: float, l2: float) -> None:
    """One cosine to 0 behind an epoch of warm-up."""
    config = RetrainConfig(epochs=epochs, lr_max=lr_max, lr_min=0.0, l2=l2, warmup_epochs=1.0)
    training.compile_classifier(model, optimizers.make_optimizer(config, len(batches)))
    training.fit(model, batches, epochs=epochs, callbacks=[FollowEpoch(batches)])


def pruned(
    base: keras.Model,
    method: str,
    images: Images,
    scopes: Sequence[str],
    sparsity: float,
    kernels: Mapping[str, Any],
) -> tuple[keras.Model, dict[str, Any]]:
    """A copy of `base` to be trained on, by the best of some scopes, and what is told of it.

    `kernels` are the results of that method, which others are to match.
    """
    if method == "whole":
        return pruning.prune(base, sparsity=0.0, check=False), {}
    make = {
        "kernels": lambda scope: pruning.prune(base, sparsity=sparsity, scope=scope, check=False),
        "channels": lambda scope: without_channels(base, kernels["flops"], scope),
        "weights": lambda scope: without_weights(base, kernels["live_params"], scope),
    }[method]
    models, accuracies = {}, {}
    for scope in scopes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Layers that keep few channels.
            models[scope] = make(scope)
        pruning.recalibrate(models[scope], images.train, steps=10)
        accuracies[scope] = training.accuracy(models[scope], images.val)
    best = max(scopes, key=accuracies.__getitem__)
    return models[best], {"scope": best, "before_retraining": accuracies}


def without_channels(base: keras.Model, flops: float, scope: str) -> keras.Model:
    """`base` with whole channels gone, as many as leave these multiply-adds at most."""
    low, high = 0.0, 1.0
    model = None
    for _ in range(HALVINGS):
        share = (low + high) / 2
        tried = pruning.prune(base, sparsity=share, structure="channels", scope=scope, check=False)
        if sum(layer.live_flops for layer in pruning.live_costs(tried).values()) > flops:
            low = share
        else:
            high, model = share, tried
    if model is None:
        raise SystemExit(f"no network of fewer channels has {flops:,.0f} multiply-adds under the scope {scope}.")
    return model


def without_weights(base: keras.Model, live_params: int, scope: str) -> keras.Model:
    """`base` with the smallest weights of its 3x3 kernels held at 0, so that `live_params` stay."""
    model = pruning.prune(base, sparsity=0.0, check=False)
    layers = pruning.masked_layers(model)
    kernels = {name: keras.ops.convert_to_numpy(layer.kernel) for name, layer in layers.items()}
    total = sum(kernel.size for kernel in kernels.values())
    keep = (live_params - (base.count_params() - state_size(base) - total)) / total
    unit = pruning.units(layers, "l1") if scope == "normalized" else dict.fromkeys(layers, 1.0)
    scores = {name: np.abs(kernel) / unit[name] for name, kernel in kernels.items()}
    least = np.quantile(np.concatenate([score.ravel() for score in scores.values()]), 1.0 - keep)
    for name, layer in layers.items():
        kept = scores[name] >= (np.quantile(scores[name], 1.0 - keep) if scope == "layer" else least)
        layer.set_mask(kept.any((0, 1)))  # Compaction sees what has died of kernels without a weight.
        layer.kernel.assign(kernels[name] * kept)
        layer.kernel.constraint = Kept(kept)
    return model


class Kept(keras.constraints.Constraint):
    """Holds weights at 0 that are gone; `mask` is bool, of the shape of the kernel."""

    def __init__(self, mask: np.ndarray):
        self.mask = mask.astype("float32")

    def __call__(self, w: Any) -> Any:
        return w * self.mask


def state_size(model: keras.Model) -> int:
    """Numbers that are no parameters: moving statistics."""
    return sum(int(np.prod(variable.shape)) for variable in model.non_trainable_variables)


def cost(model: keras.Model) -> dict[str, int]:
    """Parameters and multiply-adds of the compacted network without those of weights that are 0."""
    small = pruning.compact(model, check=False)
    params = flops = 0.0
    for name, whole in complexity.layer_costs(small).items():
        kernel = getattr(small.get_layer(name), "kernel", None)
        array = np.ones(1) if kernel is None else keras.ops.convert_to_numpy(kernel)
        params += whole.params - np.sum(array == 0)
        flops += whole.flops * np.mean(array != 0)
    return {"live_params": round(params), "flops": round(flops)}


if __name__ == "__main__":
    main()
