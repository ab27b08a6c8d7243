"""Searches with an op of one's own, a dilated 3x3 convolution beside ENAS's, on handwritten digits.

    python examples/own_op.py --epochs=20
    python pipeline.py --preset=demo --own_ops=examples.own_op --enas_ops=conv3x3,conv5x5,dilated3x3

Interrupted, the first command goes on where it was. It needs `pip install -e .` once; the second does not.
"""

import argparse

import keras

from nhn_tf.values.space import Space, register_op


def dilated3x3(filters: int, name: str) -> keras.layers.Layer:
    """From [B, H, W, filters] to the same: 3x3 weights that reach as far as a 5x5 kernel."""
    return keras.layers.Conv2D(
        filters, 3, dilation_rate=2, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
    )


register_op("dilated3x3", dilated3x3)


def main() -> None:
    from nhn_tf.data import datasets
    from nhn_tf.data.batches import Batches, Normalization
    from nhn_tf.search import EnasSearch
    from nhn_tf.settings import DataConfig, EnasConfig

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--filters", type=int, default=16, help="channels of the supernet")
    parser.add_argument("--directory", default="runs")
    args = parser.parse_args()

    data = datasets.load(DataConfig(dataset="digits"), seed=0)
    how = {"batch_size": 64, "normalization": Normalization.of(data.train), "seed": 0}
    train = Batches(data.train, shuffle=True, drop_remainder=True, **how)
    val = Batches(data.val, shuffle=False, drop_remainder=False, **how)

    space = Space(num_layers=3, num_segments=1, ops=("conv3x3", "conv5x5", "dilated3x3"))
    config = EnasConfig(
        num_layers=3, num_segments=1, ops=space.ops, epochs=args.epochs, supernet_filters=args.filters, batch_size=64,
        controller_steps=20, samples_per_step=5, final_samples=50,
    )  # fmt: skip
    shape = {"input_shape": data.image_shape, "num_classes": data.num_classes}
    searcher = EnasSearch(space, config, directory=args.directory, project_name="own_op", **shape)
    searcher.search(train, validation_data=val)
    searcher.results_summary(3)
    print(searcher.get_best_genotypes(1)[0].to_enas_text())
    searcher.get_best_models(1)[0].save("own_op.keras")  # ordinary Keras layers


if __name__ == "__main__":
    main()
