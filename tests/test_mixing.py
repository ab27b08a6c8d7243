"""CutMix, and training on shares of classes."""

import keras
import numpy as np
import pytest

from nhn_tf import training
from nhn_tf.data.batches import Batches
from nhn_tf.data.mixing import CutMix
from nhn_tf.data.normalization import Normalization
from nhn_tf.data.splits import Split


def numbered(count, side=8):
    """Images of one level each, image i of level i; the classes in turn."""
    images = np.repeat(np.arange(count, dtype=np.float32), side * side).reshape(count, side, side, 1)
    return images, np.arange(count) % 3


def test_labels_are_shared_by_what_is_seen_of_either_image():
    images, labels = numbered(30)
    mixed, targets = CutMix(1.0, 3)(images, labels, np.random.default_rng(0))
    own = (mixed == images).mean(axis=(1, 2, 3))
    expected = np.zeros((30, 3))
    for b in range(30):
        assert set(np.unique(mixed[b])) <= {float(b), float((b + 1) % 30)}
        expected[b, b % 3] += own[b]
        expected[b, (b + 1) % 30 % 3] += 1 - own[b]
    np.testing.assert_allclose(targets, expected, atol=1e-6)
    assert own.min() < 0.5 < own.max() <= 1  # some rectangles are large
    assert images[5].max() == 5  # the batch itself is left alone


def test_so_many_images_are_mixed_as_was_asked_for():
    images, labels = numbered(4000, side=16)
    mixed, targets = CutMix(0.25, 3)(images, labels, np.random.default_rng(1))
    changed = (mixed != images).any(axis=(1, 2, 3))
    assert 0.22 < changed.mean() < 0.28
    assert (targets[~changed].max(axis=1) == 1).all()


def test_batches_mix_the_same_way_whenever_they_are_asked():
    split = Split(np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8), np.arange(12, dtype=np.int32) % 3)
    options = {"batch_size": 4, "shuffle": True, "seed": 5, "drop_remainder": True}
    batches = Batches(split, normalization=Normalization.of(split), mixing=CutMix(1.0, 3), **options)
    images, targets = batches.batch(2, 1)
    again = batches.batch(2, 1)
    assert targets.shape == (4, 3) and targets.dtype == np.float32
    assert (again[0] == images).all() and (again[1] == targets).all()
    assert (batches.batch(3, 1)[1] != targets).any()


@pytest.mark.jax
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_whole_shares_are_labels(smoothing):
    rng = np.random.default_rng(2)
    logits, labels = rng.standard_normal((6, 4)).astype("float32"), np.array([0, 3, 1, 1, 2, 0])
    loss = training.SmoothedCrossEntropy(smoothing)
    by_label, by_share = (float(loss(y, logits)) for y in (labels, np.eye(4, dtype="float32")[labels]))
    assert by_share == pytest.approx(by_label, rel=1e-6)
    half = np.full((6, 4), 0.25, "float32")
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert float(loss(half, logits)) == pytest.approx(-log_p.mean(), rel=1e-5)


@pytest.mark.jax
def test_a_model_trains_on_shares_and_is_measured_on_labels():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    training.compile_classifier(model, keras.optimizers.SGD(0.1))
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((8, 5)).astype("float32"), rng.integers(0, 3, 8)
    shares = np.eye(3, dtype="float32")[y] * 0.7 + 0.1
    history = model.fit(x, shares, validation_data=(x, y), verbose=0).history
    right = np.mean(np.argmax(model.predict_on_batch(x), axis=1) == y)
    assert history["val_accuracy"][-1] == pytest.approx(right)
    assert model.evaluate(x, shares, verbose=0)[1] == pytest.approx(right)
