"""CutMix and mixup, and training on shares of classes."""

import keras
import numpy as np
import pytest

from nhn_tf import training
from nhn_tf.data.batches import Batches
from nhn_tf.data.mixing import Mixing
from nhn_tf.data.normalization import Normalization
from nhn_tf.data.splits import Split
from nhn_tf.stages.feed import load_feed
from tests.conftest import smoke_settings


def numbered(count, side=8):
    """Images of one level each, image i of level i; the classes in turn."""
    images = np.repeat(np.arange(count, dtype=np.float32), side * side).reshape(count, side, side, 1)
    return images, np.arange(count) % 3


def test_labels_are_shared_by_what_is_seen_of_either_image():
    images, labels = numbered(30)
    mixed, targets = Mixing(3, cutmix=1.0)(images, labels, np.random.default_rng(0))
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
    mixed, targets = Mixing(3, cutmix=0.25)(images, labels, np.random.default_rng(1))
    changed = (mixed != images).any(axis=(1, 2, 3))
    assert 0.22 < changed.mean() < 0.28
    assert (targets[~changed].max(axis=1) == 1).all()


def test_a_blend_shares_images_and_labels_alike():
    images, labels = numbered(30)
    mixed, targets = Mixing(3, mixup=1.0)(images, labels, np.random.default_rng(0))
    weights = mixed[:29, 0, 0, 0] - np.arange(29)  # image b is blended with b + 1, a level higher
    assert (mixed == mixed[:, :1, :1]).all()
    assert 0 <= weights.min() < 0.1 and 0.9 < weights.max() <= 1
    np.testing.assert_allclose(targets[np.arange(29), (np.arange(29) + 1) % 3], weights, atol=1e-5)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert mixed[29, 0, 0, 0] == pytest.approx(29 * targets[29, 29 % 3])  # the last with the first


def test_no_image_is_both_cut_and_blended():
    images, labels = numbered(4000)
    cut, both = (Mixing(3, cutmix=0.5, mixup=mixup)(images, labels, np.random.default_rng(3))[0] for mixup in (0, 0.3))
    is_cut, is_changed = (cut != images).any(axis=(1, 2, 3)), (both != images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(both[is_cut], cut[is_cut])  # CutMix does not depend on mixup
    blended = both[is_changed & ~is_cut]
    assert (blended == blended[:, :1, :1]).all()
    assert 0.27 < len(blended) / 4000 < 0.33


def test_batches_mix_the_same_way_whenever_they_are_asked():
    split = Split(np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8), np.arange(12, dtype=np.int32) % 3)
    options = {"batch_size": 4, "shuffle": True, "seed": 5, "drop_remainder": True}
    batches = Batches(split, normalization=Normalization.of(split), mixing=Mixing(3, cutmix=1.0), **options)
    images, targets = batches.batch(2, 1)
    again = batches.batch(2, 1)
    assert targets.shape == (4, 3) and targets.dtype == np.float32
    assert (again[0] == images).all() and (again[1] == targets).all()
    assert (batches.batch(3, 1)[1] != targets).any()


def test_a_stage_that_trains_a_network_mixes_and_changes_as_its_settings_say():
    asked = smoke_settings("base", mixup=0.5, trivial_augment=True)
    batches = load_feed(asked).train(asked.config)
    assert batches.mixing == Mixing(10, mixup=0.5) and batches.trivial
    search = smoke_settings("enas").config
    for config in (smoke_settings("base").config, search):
        batches = load_feed(asked).train(config)
        assert batches.mixing is None and not batches.trivial


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
