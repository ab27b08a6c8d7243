"""What `fit` costs beside the model: images a second of augmented batches alone, and of fits that hardly compute.

    taskset -c 0 python benchmarks/empty_fit.py

Random images as large as CIFAR-10's, with its augmentation; the model pools them and has one dense layer. The second
fit has a callback for which Keras waits for the device at each step, as trainings here have. The sides take turns;
medians over all rounds, and `ratio` is the median of waiting / not waiting in time. Half a minute. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import json

import turns

# isort: split
import keras
import numpy as np

from nhn_tf import training
from nhn_tf.data.batches import Augmentation, Batches, FollowEpoch, Normalization
from nhn_tf.data.splits import Split
from nhn_tf.training import optimizers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu_time", action="store_true", help="count this process's CPU time, not the wall clock")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    split = Split(
        rng.integers(0, 256, (args.images, 32, 32, 3)).astype(np.uint8),
        rng.integers(10, size=args.images).astype(np.int32),
    )
    batches = Batches(
        split,
        batch_size=args.batch,
        normalization=Normalization.of(split),
        augmentation=Augmentation(pad=4, flip=True, cutout=16),
        shuffle=True,
        seed=0,
        drop_remainder=True,
    )
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)])
    training.compile_classifier(model, optimizers.Nesterov(1e-3))

    def alone() -> None:
        for index in range(len(batches)):
            batches[index]

    def fit(*callbacks: keras.callbacks.Callback) -> None:
        model.fit(batches, verbose=0, shuffle=False, callbacks=[FollowEpoch(batches), *callbacks])

    sides = {"batches": alone, "fit": fit, "waiting": lambda: fit(Waiting())}
    times = turns.take(list(sides.items()), args.rounds, cpu_time=args.cpu_time)
    images = len(batches) * args.batch
    result: dict[str, object] = {"backend": keras.backend.backend()}
    for name, ms in times.items():
        rate = 1000 * images / float(np.median(ms))
        print(f"{name:8s} {rate:9,.0f} images/s")
        result[f"{name}_images_per_s"] = round(rate)
    result["ratio"] = round(float(np.median(times["waiting"] / times["fit"])), 3)
    print(json.dumps(result))


class Waiting(keras.callbacks.Callback):
    """Does nothing, after each step."""

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        pass


if __name__ == "__main__":
    main()
