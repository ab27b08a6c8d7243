"""What it costs in accuracy to prune 1x1 weights in blocks that share their inputs, on real image files.

    taskset -c 0 python benchmarks/block_accuracy.py photos/ --train_limit 4000 --eval_limit 2000

Of each seed a network of depthwise and 1x1 convolutions is trained, and from its weights each of these goes on for
`--retrain_epochs`: the network as it is, and without `--sparsity` of the weights of its 1x1 convolutions, which go one
by one or in blocks of 2 or 4 output channels (`pruning.prune(block=4)`), as many in each layer.

Results go to `--out` as they come: called again, it goes on. The last line is JSON: for each the mean accuracy on the
test images and its standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
from keras import layers

from benchmarks.resnet20 import begun, images_of, train
from nhn_tf import pruning, training
from nhn_tf.storage import files

BLOCKS: Final = {"whole": 0, "single": 1, "blocks of 2": 2, "blocks of 4": 4}
"""Output channels that lose weights together; 0 where none is lost."""
STAGES: Final = ((64, 1), (96, 2), (96, 1), (192, 2), (192, 1))
"""Filters of a 1x1 convolution, strides of the depthwise one before it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder of train/ and test/ with class folders")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sparsity", type=float, default=0.8, help="share of the 1x1 weights that go")
    parser.add_argument("--epochs", type=int, default=10, help="of the network that all begin with")
    parser.add_argument("--retrain_epochs", type=int, default=6, help="of each from there")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--train_limit", type=int, default=0, help="use only that many training images")
    parser.add_argument("--eval_limit", type=int, default=0, help="use only that many validation and test images each")
    parser.add_argument("--out", type=Path, default=Path("block_accuracy.json"))
    options, kept = begun(parser)
    seeds = options.seeds.split(",")
    for seed in seeds:
        if seed not in kept["results"]:
            kept["results"][seed] = run(options, int(seed))
            files.write_json(options.out, kept)
            print(f"seed {seed}: {kept['results'][seed]}", flush=True)
    found = {name: [kept["results"][seed][name] for seed in seeds] for name in BLOCKS}
    print(json.dumps({
        name: {"accuracy": round(statistics.mean(values), 4),
               "std": round(statistics.stdev(values), 4) if len(values) > 1 else 0.0}
        for name, values in found.items()
    }))  # fmt: skip


def run(options: argparse.Namespace, seed: int) -> dict[str, float]:
    """The accuracy of each on the test images."""
    images, shape, classes = images_of(options, seed, flip="on", pad=4)
    keras.utils.set_random_seed(seed)
    base = network(shape, classes)
    train(base, images.train, epochs=options.epochs, lr_max=0.1, l2=0.0005)
    pointwise = [layer.name for layer in base.layers if getattr(layer, "kernel_size", None) == (1, 1)]
    found = {}
    for name, block in BLOCKS.items():
        target = {"sparsity": options.sparsity, "block": block} if block else {"sparsity": 0.0}
        model = pruning.prune(base, layers=pointwise, scope="layer", check=False, **target)
        train(model, images.retrain, epochs=options.retrain_epochs, lr_max=0.05, l2=0.0005)
        pruning.recalibrate(model, images.retrain)
        found[name] = training.accuracy(model, images.test)
    return found


def network(shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A stem that halves the image, then depthwise 3x3 and 1x1 convolutions in turn."""

    def settled(x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.ReLU()(layers.BatchNormalization()(x))

    images = keras.Input(shape)
    x = settled(layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False)(images))
    for filters, strides in STAGES:
        x = settled(layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(x))
        x = settled(layers.Conv2D(filters, 1, use_bias=False)(x))
    return keras.Model(images, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


if __name__ == "__main__":
    main()
