"""The macro supernet: what it computes for given genes, and that Keras trains it."""

import keras
import numpy as np
import pytest
from keras import ops

from nhn_tf.models import GenedBatches, MacroSupernet, tile_genes, weights
from nhn_tf.values.space import Space

SPACE = Space(num_layers=4, num_segments=2)
TINY = Space(2, 2, ("conv3x3", "max_pool3x3"))
SHAPE = (8, 8, 3)
BATCH = 8


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def labels(count=BATCH):
    return (np.arange(count) % 3).astype("int32")


def supernet(space=SPACE, **kwargs):
    kwargs = {"input_shape": SHAPE, "num_classes": 3, "filters": 4, **kwargs}
    model = MacroSupernet(space, **kwargs)
    model.compile(
        optimizer=keras.optimizers.SGD(0.05, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
    )
    # Left to the first step, variables of optimizer and metrics would have TensorFlow trace it twice.
    model.optimizer.build(model.trainable_variables)
    return model


def inputs(genes, count=BATCH, seed=0):
    return {"images": numbers(count, *SHAPE, seed=seed), "genes": tile_genes(genes, count)}


def of_one_architecture(arrays, genes, space=SPACE):
    """A supernet's arrays restricted to what the static graph of `genes` holds, under the same paths."""
    convolutions = [i for i in range(len(space.ops)) if space.op(i).has_batch_norm]
    restricted = {}
    for path, value in arrays.items():
        layer, _, variable = path.split("/", 1)[1].partition("/")
        if layer.startswith("layer") and layer.endswith("_op"):
            chosen = int(genes[int(layer[5:-3])])
            if variable.startswith("in_"):
                value = value[chosen : chosen + 1]
            elif variable.startswith("op_bn"):
                if chosen not in convolutions:
                    continue
                value = value[convolutions.index(chosen)][None]
            elif not variable.startswith(f"{space.ops[chosen]}_"):
                continue
        restricted[path] = value
    return restricted


def pair_of_graphs(space, genes):
    """A supernet and the static graph of one architecture, with the same weights."""
    dynamic, static = supernet(space), supernet(space, static_genes=genes)
    report = weights.transfer(of_one_architecture(weights.to_arrays(dynamic), genes, space), static)
    assert not report.missing
    return dynamic, static


def test_the_supernet_under_fixed_genes_is_the_static_graph():
    genes = SPACE.sample(np.random.default_rng(0))[0]
    dynamic, static = pair_of_graphs(SPACE, genes)
    np.testing.assert_allclose(
        dynamic.predict_on_batch(inputs(genes)), static.predict_on_batch(inputs(genes)), atol=1e-5
    )


def test_the_supernet_under_fixed_genes_trains_like_the_static_graph():
    space, genes = Space(2, 2, ("conv3x3", "sep_conv5x5", "max_pool3x3")), np.array([1, 2, 1])
    dynamic, static = pair_of_graphs(space, genes)
    for step in range(3):
        losses = [model.train_on_batch(inputs(genes, seed=step), labels()) for model in (dynamic, static)]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    expected = of_one_architecture(weights.to_arrays(dynamic), genes, space)
    for path, value in weights.to_arrays(static).items():
        np.testing.assert_allclose(value, expected[path], atol=1e-4, err_msg=path)


def test_skips_are_summed_with_the_outputs_they_name():
    # Two layers, one op, no transition: out = BN(op(h1) + bit * h0); a fresh BN(x) = x / sqrt(1 + epsilon).
    space = Space(2, 1, ("max_pool3x3",))
    model = supernet(space)
    x = numbers(BATCH, *SHAPE)
    stem = model.stem_bn(model.stem_conv(x))
    first = model.mixed_ops[0](stem)
    second = model.mixed_ops[1](first)
    for bit in (0, 1):
        pooled = model.global_pool((second + bit * stem) / np.sqrt(1 + 1e-5).astype("float32"))
        expected = ops.convert_to_numpy(model.logits(pooled))
        np.testing.assert_allclose(model.predict_on_batch(inputs([0, 0, bit])), expected, atol=1e-5)


def test_every_gene_matters():
    model = supernet()
    genes = np.zeros(SPACE.gene_length, "int32")
    base = model.predict_on_batch(inputs(genes))
    for position in range(SPACE.gene_length):
        other = genes.copy()
        other[position] = 1
        assert np.abs(model.predict_on_batch(inputs(other)) - base).max() > 1e-6, position


def test_genes_of_one_row_and_genes_repeated_over_the_batch_agree():
    model = supernet(TINY)
    genes = TINY.sample(np.random.default_rng(2))[0]
    fed = inputs(genes)
    np.testing.assert_array_equal(
        model.predict_on_batch(fed), model.predict_on_batch({"images": fed["images"], "genes": genes[None]})
    )


@pytest.mark.jax_slow
def test_fit_trains_a_different_architecture_each_step():
    keras.utils.set_random_seed(0)
    space = Space(2, 1, ("conv3x3", "sep_conv3x3", "avg_pool3x3"))
    model = supernet(space, dropout=0.1)
    rng = np.random.default_rng(0)
    data = [(numbers(BATCH, *SHAPE, seed=i) + labels()[:, None, None, None], labels()) for i in range(3)]
    history = model.fit(
        GenedBatches(data, space.sample(rng, 3)),
        validation_data=GenedBatches(data[:1], space.sample(rng)[0]),
        epochs=8,
        verbose=0,
    )
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert np.isfinite(history.history["val_loss"]).all()


def test_accuracy_counts_right_answers_and_agrees_over_batches():
    model = supernet(TINY)
    genes = TINY.sample(np.random.default_rng(3), 2)
    batches = [(numbers(8, *SHAPE, seed=1), labels(8)), (numbers(4, *SHAPE, seed=2), labels(4))]
    right = np.zeros((2, 2))
    for i, row in enumerate(genes):
        for j, (images, expected) in enumerate(batches):
            logits = model.predict_on_batch({"images": images, "genes": tile_genes(row, len(images))})
            right[i, j] = (logits.argmax(-1) == expected).sum()
            assert model.accuracy(row, images, expected) == right[i, j] / len(images)
    np.testing.assert_allclose(model.accuracies(genes, batches), right.sum(axis=1) / 12)


def test_images_with_nan_logits_count_as_wrong():
    model = supernet(TINY)
    images = numbers(BATCH, *SHAPE)
    images[:] = np.nan
    assert model.accuracy(np.zeros(TINY.gene_length, int), images, np.zeros(BATCH, int)) == 0.0


def test_rewards_leave_the_model_as_it_was():
    model = supernet(TINY, dropout=0.5)
    before = weights.to_arrays(model)
    model.accuracy(np.zeros(TINY.gene_length, int), numbers(BATCH, *SHAPE), labels())
    for path, value in weights.to_arrays(model).items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)


def test_rewards_with_batch_statistics_differ_from_those_with_moving_ones():
    moving, batch = supernet(TINY), supernet(TINY, use_batch_statistics=True)
    weights.from_arrays(batch, weights.to_arrays(moving))
    genes = np.zeros(TINY.gene_length, int)
    fed = inputs(genes)
    assert np.abs(moving.predict_on_batch(fed) - batch.predict_on_batch(fed)).max() > 1e-3


@pytest.mark.parametrize("genes", [[0] * 9, [6, *[0] * 9], [0, 0, 0, 0, 2, *[0] * 5]])
def test_genes_of_another_space_are_refused(genes):
    with pytest.raises(ValueError, match="genes"):
        supernet().accuracy(np.array(genes), numbers(BATCH, *SHAPE), labels())


def test_images_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="multiples of 2"):
        supernet(input_shape=(9, 8, 3))


def test_paths_are_unique_and_independent_of_what_was_built_before():
    first = list(weights.variables_by_path(supernet(TINY, dropout=0.3)))
    keras.layers.Dropout(0.5)
    assert list(weights.variables_by_path(supernet(TINY, dropout=0.3))) == first
    assert "macro_supernet/dropout/seed_generator_state" in first


def test_a_supernet_survives_serialisation(tmp_path):
    model = supernet(TINY)
    genes = np.array([1, 0, 1])
    model.train_on_batch(inputs(genes), labels())
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict_on_batch(inputs(genes)), model.predict_on_batch(inputs(genes)))


def test_mixed_precision_gives_float32_logits_and_trains():
    with_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = supernet(TINY)
        genes = np.array([0, 1, 1])
        logits = model.predict_on_batch(inputs(genes))
        assert logits.dtype == np.float32
        assert np.isfinite(model.train_on_batch(inputs(genes), labels())).all()
    finally:
        keras.config.set_dtype_policy(with_policy)


def test_gened_batches_pair_each_batch_with_its_genes():
    data = [(numbers(n, *SHAPE), labels(n)) for n in (8, 8, 4)]
    genes = SPACE.sample(np.random.default_rng(0), 3)
    batches = GenedBatches(data, genes)
    assert len(batches) == 3
    for index, size in enumerate((8, 8, 4)):
        fed, expected = batches[index]
        np.testing.assert_array_equal(fed["genes"], np.tile(genes[index], (size, 1)))
        np.testing.assert_array_equal(fed["images"], data[index][0])
        np.testing.assert_array_equal(expected, data[index][1])
    batches.genes = genes[0]
    np.testing.assert_array_equal(batches[2][0]["genes"], np.tile(genes[0], (4, 1)))
    with pytest.raises(ValueError, match=r"\[G\] or \[3, G\]"):
        batches.genes = genes[:2]


def test_gened_batches_pass_the_end_of_an_epoch_on():
    class Counting(list):
        ends = 0

        def on_epoch_end(self):
            self.ends += 1

    data = Counting([(numbers(BATCH, *SHAPE), labels())])
    supernet(Space(1, 1, ("max_pool3x3",))).fit(GenedBatches(data, [0]), epochs=3, verbose=0)
    assert data.ends >= 3  # Keras adds one when it builds something first
