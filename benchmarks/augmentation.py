"""What mirroring and shifting do to a plain CNN on an image folder, beside what was chosen by measurement; or the cost
of each kind of augmentation.

    python benchmarks/augmentation.py --data_dir=letters --epochs=8 --seeds=2
    python benchmarks/augmentation.py --speed --image_size=32

Prints mean and standard deviation over the seeds for each combination; or, with `--speed`, how many random images are
prepared in a second of one core, the best of five times. The last line is JSON.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "image folder")
flags.DEFINE_bool("speed", False, "time the augmentations on random images, and train nothing")
flags.DEFINE_integer("image_size", 0, "side of the images; 0 as the folder has them")
flags.DEFINE_integer("train_limit", 0, "use only that many training images; 0 uses all")
flags.DEFINE_integer("epochs", 20, "passes over the training images")
flags.DEFINE_integer("seeds", 3, "trainings of each combination")


def accuracy(data, *, flip: bool, pad: int, seed: int) -> float:
    """Test accuracy of a plain CNN of three stages."""
    import keras

    from nhn_tf.data import Augmentation, Batches, FollowEpoch, Normalization

    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input(data.image_shape)])
    pools = (keras.layers.MaxPooling2D, keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
    for filters, pool in zip((16, 32, 64), pools, strict=True):
        model.add(keras.layers.Conv2D(filters, 3, padding="same", use_bias=False))
        model.add(keras.layers.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
        model.add(pool(2, padding="same"))
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(data.num_classes))
    normalization = Normalization.of(data.train)
    batches = Batches(
        data.train, batch_size=64, normalization=normalization, shuffle=True, seed=seed, drop_remainder=True,
        augmentation=Augmentation(pad=pad, flip=flip, cutout=0),
    )  # fmt: skip
    test = Batches(data.test, batch_size=500, normalization=normalization, shuffle=False, seed=0, drop_remainder=False)
    rate = keras.optimizers.schedules.CosineDecay(0.05, FLAGS.epochs * len(batches))
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(batches, epochs=FLAGS.epochs, shuffle=False, verbose=0, callbacks=[FollowEpoch(batches)])
    return float(model.evaluate(test, verbose=0)[1])


def speeds(side: int) -> dict[str, dict[str, int]]:
    """Images a second by number of channels and augmentation, in batches of 128."""
    from nhn_tf.data import Augmentation, Batches, Normalization, Split
    from nhn_tf.data.mixing import Mixing

    paper = Augmentation(pad=side // 8, flip=True, cutout=side // 2)
    recipes = {
        "none": {},
        "crop, flip, cutout": {"augmentation": paper},
        "and CutMix": {"augmentation": paper, "mixing": Mixing(10, cutmix=1.0)},
        "and mixup": {"augmentation": paper, "mixing": Mixing(10, mixup=1.0)},
        "and TrivialAugment": {"augmentation": paper, "trivial": True},
    }
    rng, found = np.random.default_rng(0), {}
    for channels in (3, 1):
        labels = rng.integers(0, 10, 2048, dtype=np.int32)
        split = Split(rng.integers(0, 256, (2048, side, side, channels), dtype=np.uint8), labels)
        common = {"batch_size": 128, "shuffle": True, "seed": 0, "drop_remainder": True}
        for name, recipe in recipes.items():
            batches = Batches(split, normalization=Normalization.of(split), **common, **recipe)
            seconds = []
            for epoch in range(5):
                began = time.process_time()
                for index in range(len(batches)):
                    batches.batch(epoch, index)
                seconds.append(time.process_time() - began)
            found.setdefault(f"{channels} channels", {})[name] = round(len(split) / min(seconds))
            print(f"{channels} x {side} x {side}, {name}: {round(len(split) / min(seconds)):,} images/s", flush=True)
    return found


def main(argv: list[str]) -> None:
    del argv
    if FLAGS.speed:
        print(json.dumps(speeds(FLAGS.image_size or 32)))
        return
    if FLAGS.data_dir is None:
        raise app.UsageError("give --data_dir, or --speed.")
    from nhn_tf.data import load, symmetry
    from nhn_tf.data.datasets import proportional_pad
    from nhn_tf.settings import DataConfig

    given = {"data_dir": FLAGS.data_dir, "image_size": FLAGS.image_size, "train_limit": FLAGS.train_limit}
    data = load(DataConfig(dataset="folder", flip="off", pad=0, **given), seed=0)
    most = proportional_pad(min(data.image_shape[:2]))
    began = time.process_time()
    found = symmetry.measure(data.train, pad=most)
    chosen = {"flip": found.flip().value, "pad": found.pad(most).value, "seconds": time.process_time() - began}
    print(f"chosen in {chosen['seconds']:.1f} s of CPU: flip {chosen['flip']}, pad {chosen['pad']}; {found}")
    rows = []
    for flip, pad in itertools.product((False, True), (0, most)):
        values = [accuracy(data, flip=flip, pad=pad, seed=seed) for seed in range(FLAGS.seeds)]
        rows.append({"flip": flip, "pad": pad, "accuracy": np.mean(values), "std": np.std(values)})
        print(
            f"flip {flip!s:<5} pad {pad}: {np.mean(values):.4f} +- {np.std(values):.4f} (n={FLAGS.seeds})", flush=True
        )
    print(json.dumps({"chosen": chosen, "trained": rows}))


if __name__ == "__main__":
    app.run(main)
