"""A plain Keras ResNet-20 on folders of images: trained, pruned, retrained, compacted, exported, timed.

    python examples/prune_your_model.py photos --epochs=60      # photos/train/CLASS/*.png, photos/test/CLASS/*.png

Writes `small.keras`, which needs Keras alone, and `small.nhn`, which needs `nhn_tf.sparse` alone. Run
`pip install -e ".[sparse]"` once before.
"""

import argparse
import time

import keras
import numpy as np
from keras import layers

from nhn_tf import pruning, sparse


def resnet20(side: int, classes: int) -> keras.Model:
    """He et al. 2015, section 4.2, with projections where the size changes."""

    def conv(x, filters, size=3, strides=1):
        x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    inputs = keras.Input((side, side, 3))
    x = layers.ReLU()(conv(layers.Rescaling(1 / 127.5, offset=-1)(inputs), 16))
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if filters > 16 and block == 0 else 1
            y = conv(layers.ReLU()(conv(x, filters, strides=strides)), filters)
            x = layers.ReLU()(layers.Add()([y, conv(x, filters, 1, strides) if strides == 2 else x]))
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=60, help="of the training, and again of the retraining")
    parser.add_argument("--sparsity", type=float, default=0.85)
    parser.add_argument("--side", type=int, default=32, help="height and width of the images in pixels")
    parser.add_argument("--batch_size", type=int, default=128)
    args = parser.parse_args()

    how = {"image_size": (args.side, args.side), "batch_size": args.batch_size}
    train, test = (
        keras.utils.image_dataset_from_directory(f"{args.folder}/{part}", **how) for part in ("train", "test")
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    model = resnet20(args.side, len(train.class_names))
    print(pruning.check(model))  # before it costs anything
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    model.fit(train, epochs=args.epochs, verbose=2)

    pruned = pruning.prune(model, sparsity=0.0)  # a copy whose kernels can be masked
    distiller = pruning.Distiller(pruned, model)
    distiller.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    end = max(1, args.epochs * len(train) // 2)
    schedule = pruning.PruningSchedule(sparsity=args.sparsity, end_step=end, every=max(1, end // 50))
    distiller.fit(train, epochs=args.epochs, verbose=2, callbacks=[schedule])
    pruning.recalibrate(pruned, train)
    print(pruning.summary(pruned))

    small = pruning.compact(pruned)
    small.save("small.keras")
    runtime = sparse.compile(small)
    runtime.save("small.nhn")

    for network in (model, small):
        network.compile(loss=loss, metrics=["accuracy"])
        print(f"test accuracy {network.evaluate(test, verbose=0)[1]:.2%}, {network.count_params():,} weights")
    images = np.concatenate([np.asarray(x) for x, _ in test.take(1)])
    for name, answer in (("Keras", lambda: model.predict(images, verbose=0)), ("sparse", lambda: runtime(images))):
        answer()
        start = time.perf_counter()
        answer()
        print(f"{name}: {1e3 * (time.perf_counter() - start) / len(images):.2f} ms an image")


if __name__ == "__main__":
    main()
