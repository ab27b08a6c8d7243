"""Masks of single weights in blocks of neighbouring output channels."""

import keras
import numpy as np
import pytest
from keras import layers

from nhn_tf import pruning
from nhn_tf.pruning import blocks


def model_of(filters=16):
    """A stem, a 3x3, a 1x1 and a dense layer."""
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(images)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="three")(x)
    x = layers.Conv2D(filters, 1, name="one")(x)
    return keras.Model(images, layers.Dense(10, name="logits")(layers.GlobalAveragePooling2D()(x)))


MODEL = model_of()


def test_the_mean_score_of_a_block_decides():
    scores = {"one": np.array([[1, 9, 4, 4, 3], [2, 2, 8, 1, 5]], np.float32)}  # Blocks of 5, 4, 3 and 2, 4.5, 5.
    found = blocks.select(scores, block=2, kinds={"one": "1x1"}, sparsity=0.5)
    np.testing.assert_array_equal(found.masks["one"], [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])
    assert found.thresholds["one"] == 4.5
    alone = blocks.select(scores, block=1, kinds={"one": "1x1"}, sparsity=0.5)
    np.testing.assert_array_equal(alone.masks["one"], [[0, 1, 1, 1, 0], [0, 0, 1, 0, 1]])


@pytest.mark.parametrize("block", [2, 4])
def test_1x1_and_dense_weights_go_in_blocks_and_kxk_kernels_as_before(block):
    chosen = {"layers": "all", "sparsity": 0.75, "allow_disconnected": True}
    masks = pruning.masks_of(pruning.prune(MODEL, block=block, **chosen))
    alone = pruning.masks_of(pruning.prune(MODEL, **chosen))
    np.testing.assert_array_equal(masks["three"], alone["three"])
    assert blocks.size_of(masks["one"]) == block and blocks.size_of(alone["one"]) == 1
    assert blocks.size_of(masks["logits"]) == block  # Of ten channels, the last block has two.
    assert masks["one"].mean() == 0.25
    assert masks["logits"].mean() == pytest.approx(0.25, abs=0.05)
    assert pruning.propose(MODEL, block=block, **chosen).masks == masks


def test_pruning_again_in_blocks_revives_nothing():
    first = pruning.prune(MODEL, sparsity=0.3, include=["one"])
    second = pruning.masks_of(pruning.prune(first, sparsity=0.6, include=["one"], block=4))
    assert not (second["one"] & ~pruning.masks_of(first)["one"]).any()
    third = pruning.prune(pruning.prune(MODEL, sparsity=0.5, include=["one"], block=4), sparsity=0.5, include=["one"])
    assert blocks.size_of(pruning.masks_of(third)["one"]) == 4


@pytest.mark.jax_slow
def test_a_schedule_ends_with_blocks():
    model = pruning.prune(MODEL, sparsity=0.0, layers=["one"])
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    images = np.random.default_rng(0).standard_normal((8, 8, 8, 3)).astype(np.float32)
    schedule = pruning.PruningSchedule(sparsity=0.75, end_step=2, every=1, block=4)
    model.fit(images, np.zeros((8, 10)), batch_size=4, epochs=2, verbose=0, callbacks=[schedule])
    mask = pruning.masks_of(model)["one"]
    assert blocks.size_of(mask) == 4 and mask.mean() == 0.25


def test_check_and_summary_say_what_the_blocks_are():
    lines = str(pruning.check(MODEL, layers="all", block=4)).splitlines()
    assert ["in blocks of 4" in line for line in lines if ": pruned" in line] == [False, True, True]
    assert "blocks" not in str(pruning.check(MODEL, layers="all"))
    pruned = pruning.prune(MODEL, layers="all", sparsity=0.5, block=4)
    assert "in blocks of 4 output channels, which the sparse runtime computes together: logits, one" in (
        pruning.summary(pruned)
    )
    assert "blocks" not in pruning.summary(pruning.prune(MODEL, layers="all", sparsity=0.5))


def test_a_mask_is_in_blocks_no_wider_than_it_is():
    """Of rows [Cin, Cout]: the widest blocks."""
    assert blocks.size_of(np.array([[1], [0]], bool)) == 1
    assert blocks.size_of(np.array([[1, 1], [0, 0]], bool)) == 2
    assert blocks.size_of(np.array([[1, 1, 1], [0, 0, 0]], bool)) == 2
    assert blocks.size_of(np.array([[1, 1, 0, 0, 1], [0, 0, 0, 0, 1]], bool)) == 2
    assert blocks.size_of(np.array([[1, 1, 1, 1, 0], [0, 0, 0, 0, 1]], bool)) == 4


@pytest.mark.parametrize("block", [0, 3, 8, True, 2.0])
def test_other_sizes_are_refused(block):
    for refuse in (pruning.prune, pruning.propose):
        with pytest.raises(ValueError, match="`block` must be 1, 2 or 4"):
            refuse(MODEL, sparsity=0.5, block=block)
    with pytest.raises(ValueError, match="`block` must be 1, 2 or 4"):
        pruning.PruningSchedule(sparsity=0.5, schedule="oneshot", block=block)
    with pytest.raises(ValueError, match="`block` must be 1, 2 or 4"):
        pruning.check(MODEL, block=block)


def test_channels_are_no_blocks():
    with pytest.raises(ValueError, match="whole channels are no blocks"):
        pruning.prune(MODEL, sparsity=0.5, structure="channels", block=4)


def test_the_runtime_computes_a_block_together():
    sparse = pytest.importorskip("nhn_tf.sparse")
    pytest.importorskip("llvmlite", reason="the sparse runtime makes its kernels with llvmlite")

    def filters(block):
        model = model_of(64)
        pruned = pruning.prune(model, sparsity={"one": 0.9}, block=block)
        return sparse.compile(pruned, check=False, threads=1).plan.decisions[-1].block.filters

    assert filters(1) == 1 and filters(4) == 4
