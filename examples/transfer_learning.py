"""A pretrained network within a model, fine-tuned, pruned within, compacted: the usual recipe of transfer learning.

    python examples/transfer_learning.py photos --epochs=10     # photos/train/CLASS/*.png, photos/test/CLASS/*.png

MobileNetV2 has hardly any 3x3 kernels; nearly all of its multiply-adds are in 1x1 convolutions, so these are pruned.
Run `pip install -e .` once before.
"""

import argparse

import keras
from keras import layers

from nhn_tf import pruning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=10, help="of each of the three trainings")
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--weights", default="imagenet", help="downloaded once; none: random ones")
    parser.add_argument("--side", type=int, default=96, help="height and width of the images in pixels")
    args = parser.parse_args()

    how = {"image_size": (args.side, args.side), "batch_size": 32}
    train, test = (
        keras.utils.image_dataset_from_directory(f"{args.folder}/{part}", **how) for part in ("train", "test")
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    weights = None if args.weights == "none" else args.weights
    shape = (args.side, args.side, 3)
    base = keras.applications.MobileNetV2(shape, alpha=0.35, include_top=False, weights=weights, name="base")
    base.trainable = False
    images = keras.Input(shape)
    x = base(layers.Rescaling(1 / 127.5, offset=-1)(images), training=False)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(images, layers.Dense(len(train.class_names), name="head")(x))

    def fit(network: keras.Model, rate: float) -> None:
        network.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        network.fit(train, epochs=args.epochs, verbose=2)
        print(f"test accuracy {network.evaluate(test, verbose=0)[1]:.2%}")

    fit(model, 1e-3)  # the head alone
    base.trainable = True  # A frozen layer could not be retrained, so it would not be pruned.
    fit(model, 1e-4)

    pointwise = {"base/*_expand": args.sparsity, "base/*_project": args.sparsity}
    print(pruning.check(model, include=list(pointwise)))
    pruned = pruning.prune(model, sparsity=pointwise)
    fit(pruned, 1e-4)
    small = pruning.compact(pruned, multiple_of=8)  # one flat model: the layers of `base` stand in it themselves
    small.save("small.keras")
    print(f"{model.count_params():,} weights before, {pruning.live_parameters(pruned):,} of them alive")


if __name__ == "__main__":
    main()
