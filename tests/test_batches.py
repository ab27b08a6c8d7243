"""Batches are a pure function of (seed, epoch, index), and augment as the literature says."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nhn_tf.data import Augmentation, Batches, DataError, Dataset, FollowEpoch, Normalization, Split, augmentation_for
from nhn_tf.settings import DataConfig

IDENTITY = Normalization(mean=(0.0,), std=(1 / 255,))  # leaves grey levels as they are


def numbered(count: int, side: int = 4) -> Split:
    """Grey images; image i is filled with level i and labelled i."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, side, side, 1))
    return Split(images.copy(), np.arange(count, dtype=np.int32))


def noise(count: int, side: int = 8, channels: int = 3) -> Split:
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (count, side, side, channels), dtype=np.uint8)
    return Split(images, np.arange(count, dtype=np.int32) % 10)


def make(split: Split, **settings) -> Batches:
    arguments = {
        "batch_size": 4, "normalization": IDENTITY, "shuffle": True, "seed": 0, "drop_remainder": False
    }  # fmt: skip
    return Batches(split, **{**arguments, **settings})


# Normalization


def test_statistics_by_hand():
    # Channel 0: 0, 51, 204, 255 -> 0, .2, .8, 1. Channel 1: constant 51.
    images = np.array([[0, 51], [51, 51], [204, 51], [255, 51]], np.uint8).reshape(1, 2, 2, 2)
    found = Normalization.of(Split(images, np.zeros(1, np.int32)))
    assert found.mean == pytest.approx((0.5, 0.2))
    assert found.std == pytest.approx((0.17**0.5, 1.0))  # (.25 + .09 + .09 + .25) / 4


def test_normalised_images_have_mean_0_and_deviation_1():
    split = noise(200)
    normal = Normalization.of(split)(split.images)
    assert normal.dtype == np.float32
    assert normal.shape == split.images.shape
    np.testing.assert_allclose(normal.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(normal.std((0, 1, 2)), 1, atol=1e-4)


def test_statistics_agree_with_numpy():
    split = noise(50)
    scaled = split.images / 255
    found = Normalization.of(split)
    np.testing.assert_allclose(found.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, scaled.std((0, 1, 2)), rtol=1e-12)


def test_normalization_refuses_nonsense():
    with pytest.raises(ValueError, match="`std` above 0"):
        Normalization(mean=(0.0,), std=(0.0,))
    with pytest.raises(ValueError, match="of one length"):
        Normalization(mean=(0.0, 1.0), std=(1.0,))
    with pytest.raises(ValueError, match="empty split"):
        Normalization.of(noise(0))
    with pytest.raises(ValueError, match=r"must have 1 channels. Received: 3"):
        IDENTITY(noise(2).images)


# Augmentation


def augment(images: np.ndarray, seed: int = 0, **settings) -> np.ndarray:
    augmentation = Augmentation(**{"pad": 0, "flip": False, "cutout": 0, **settings})
    return augmentation(images, np.random.default_rng(seed))


def ones(count: int, side: int = 8) -> np.ndarray:
    return np.ones((count, side, side, 1), np.float32)


def crops(image: np.ndarray, pad: int) -> list[np.ndarray]:
    """Every crop of the zero-padded image, by NumPy's own padding."""
    height, width, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    offsets = range(2 * pad + 1)
    return [padded[y : y + height, x : x + width] for y in offsets for x in offsets]


def test_every_crop_occurs_and_no_other():
    image = np.arange(1, 49, dtype=np.float32).reshape(4, 4, 3)
    found = {crop.tobytes() for crop in augment(np.stack([image] * 500), pad=1)}
    assert found == {np.ascontiguousarray(crop).tobytes() for crop in crops(image, 1)}


def test_flip_mirrors_about_half_of_the_images_left_to_right():
    images = np.random.default_rng(1).random((400, 4, 8, 3), np.float32)
    flipped = augment(images, flip=True)
    mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, images, strict=True)])
    kept = np.array([np.array_equal(a, b) for a, b in zip(flipped, images, strict=True)])
    assert np.all(mirrored ^ kept)
    assert 150 < mirrored.sum() < 250


def test_cutout_squares_lie_anywhere_and_are_clipped_at_the_border():
    cut = augment(ones(3000), cutout=4)[..., 0] == 0
    areas = cut.sum((1, 2))
    # Centres 0..7, rows y-2 .. y+1: from 2 rows at the upper edge to 4 inside and 3 at the lower one.
    assert set(areas.tolist()) == {4, 6, 8, 9, 12, 16}
    for mask in cut:
        assert mask.sum() == mask.any(0).sum() * mask.any(1).sum()  # a full rectangle
    # Centre pixels are cut in 16 of 64 positions, corners in 3 * 3 (upper left) or 2 * 2 (lower right).
    share = cut.mean(0)
    assert share[4, 4] == pytest.approx(16 / 64, abs=0.04)
    assert share[0, 0] == pytest.approx(9 / 64, abs=0.04)
    assert share[7, 7] == pytest.approx(4 / 64, abs=0.03)


def test_switching_one_augmentation_off_leaves_the_others_as_they_are():
    images = noise(64).images.astype(np.float32)
    without = augment(images, pad=1, flip=True)
    with_cutout = augment(images, pad=1, flip=True, cutout=2)
    changed = with_cutout != without
    assert changed.any()
    assert np.all(with_cutout[changed] == 0)


def test_augmenting_leaves_its_input_alone():
    images = ones(8)
    for settings_ in ({"cutout": 4}, {"pad": 2}, {"flip": True}, {}):
        assert augment(images, **settings_) is not images
        assert np.all(images == 1)


def test_negative_sizes_are_refused():
    with pytest.raises(ValueError, match=r"must be at least 0. Received: pad=-1"):
        Augmentation(pad=-1, flip=False, cutout=0)


def dataset(side: int, *, flip: bool = True) -> Dataset:
    split = numbered(4, side)
    return Dataset("x", split, split, split, ("a", "b", "c", "d"), flip)


@pytest.mark.parametrize(("side", "pad", "cutout"), [(32, 4, 16), (8, 1, 4), (28, 4, 14), (64, 8, 32)])
def test_augmentation_in_proportion_to_the_image(side, pad, cutout):
    found = augmentation_for(DataConfig(), dataset(side), cutout=-1)
    assert found == Augmentation(pad=pad, flip=True, cutout=cutout)


def test_augmentation_as_the_settings_say():
    config = DataConfig(pad=2, flip="off")
    assert augmentation_for(config, dataset(8), cutout=3) == Augmentation(pad=2, flip=False, cutout=3)
    assert augmentation_for(DataConfig(flip="on"), dataset(8, flip=False), cutout=0).flip
    assert not augmentation_for(DataConfig(), dataset(8, flip=False), cutout=0).flip
    assert augmentation_for(config, dataset(8), cutout=15).cutout == 15
    with pytest.raises(DataError, match="`pad` must be smaller than the image, 8"):
        augmentation_for(DataConfig(pad=8), dataset(8), cutout=0)
    with pytest.raises(DataError, match="`cutout` must be smaller than twice the image, 16 pixels. Received: 16"):
        augmentation_for(config, dataset(8), cutout=16)


# Batches


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.booleans(), st.booleans(), st.integers(0, 3))
def test_an_epoch_holds_every_image_once(count, batch_size, shuffle, drop_remainder, epoch):
    if drop_remainder and count < batch_size:
        return
    batches = make(numbered(count), batch_size=batch_size, shuffle=shuffle, drop_remainder=drop_remainder)
    parts = [batches.batch(epoch, index) for index in range(len(batches))]
    seen = np.concatenate([labels for _, labels in parts]).tolist()
    kept = count - count % batch_size if drop_remainder else count
    assert len(seen) == len(set(seen)) == kept
    assert all(len(labels) == batch_size for _, labels in parts[:-1])
    assert shuffle or seen == list(range(kept))
    for images, labels in parts:
        assert images.dtype == np.float32
        assert labels.dtype == np.int32
        np.testing.assert_allclose(images[:, 0, 0, 0], labels, atol=1e-4)


def full(split: Split, **settings) -> Batches:
    everything = Augmentation(pad=2, flip=True, cutout=3)
    normalization = Normalization.of(split)
    return make(split, normalization=normalization, augmentation=everything, **settings)


def equal(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> bool:
    return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


def test_batches_are_a_pure_function_of_seed_epoch_and_index():
    split = noise(20)
    forwards = full(split)
    first = {(epoch, i): forwards.batch(epoch, i) for epoch in range(3) for i in range(5)}
    resumed = full(split)  # another object, asked backwards, through the attribute
    for epoch, index in reversed(first):
        resumed.epoch = epoch
        assert equal(resumed[index], first[epoch, index])
    keys = list(first)
    assert not any(equal(first[a], first[b]) for a in keys for b in keys if a < b)
    assert not equal(full(split, seed=1).batch(0, 0), first[0, 0])


def test_batch_leaves_the_epoch_alone():
    batches = full(noise(20))
    batches.batch(7, 0)
    assert batches.epoch == 0
    batches.on_epoch_end()
    assert batches.epoch == 1


def test_batches_without_augmentation_are_the_same_every_epoch():
    batches = make(noise(10), normalization=Normalization.of(noise(10)), shuffle=False)
    assert all(equal(batches.batch(0, i), batches.batch(9, i)) for i in range(3))
    assert len(batches.batch(0, 2)[1]) == 2


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_out_of_range_is_refused(index):
    with pytest.raises(IndexError, match="`index` must be at least 0 and below 3"):
        make(numbered(10)).batch(0, index)


@pytest.mark.parametrize("settings_", [{"batch_size": 0}, {"seed": -1}, {"batch_size": 11, "drop_remainder": True}])
def test_settings_without_a_batch_are_refused(settings_):
    with pytest.raises(ValueError, match="Received"):
        make(numbered(10), **settings_)


class Recorded(Batches):
    """Notes which batch of which epoch Keras asked for."""

    def __getitem__(self, index):
        self.__dict__.setdefault("asked", []).append((self.epoch, index))
        return super().__getitem__(index)


def fit(initial_epoch: int, *, built: bool) -> list[tuple[int, int]]:
    """Which batches `fit` asks for, of epochs `initial_epoch` to 2, without those it only looks at."""
    split = noise(12)
    train = full(split, drop_remainder=True)
    recorded = Recorded(
        split, batch_size=4, normalization=train.normalization, shuffle=True, seed=0, drop_remainder=True
    )
    model = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, jit_compile=False)
    if built:  # all that Keras would build from a batch of its own
        model.fit(train, epochs=1, verbose=0)
    begun = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: starts.append(len(recorded.asked)))
    starts: list[int] = []
    recorded.asked = []
    callbacks = [begun, FollowEpoch(recorded)]
    model.fit(recorded, initial_epoch=initial_epoch, epochs=3, shuffle=False, verbose=0, callbacks=callbacks)
    return recorded.asked[starts[0] :]


@pytest.mark.parametrize("initial_epoch", [0, 2])
@pytest.mark.parametrize("built", [False, True])
def test_fit_trains_on_each_batch_of_each_epoch_in_order(initial_epoch, built):
    expected = [(epoch, index) for epoch in range(initial_epoch, 3) for index in range(3)]
    assert fit(initial_epoch, built=built) == expected
