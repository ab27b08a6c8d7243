"""TrivialAugment: what each change does, and that a batch is changed the same way whenever it is asked for."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from nhn_tf.data import Batches, Normalization, Split
from nhn_tf.data.trivial_augment import COLOURED, GREY, change, trivial_augment

# Rows 0 to 3, each column its own level.
GRADIENT = np.add.outer(np.arange(0, 40, 10), np.arange(4)).astype(np.uint8)[..., None]
RANDOM = np.random.default_rng(0).integers(20, 200, (16, 16, 3), np.uint8)


def test_a_move_brings_black_in():
    moved = change(GRADIENT, "translate_x", 0.25)[..., 0]  # by a quarter of 4 pixels
    np.testing.assert_array_equal(moved, [[1, 2, 3, 0], [11, 12, 13, 0], [21, 22, 23, 0], [31, 32, 33, 0]])
    assert (change(GRADIENT, "translate_y", -0.5)[:2] == 0).all()
    assert not change(GRADIENT, "translate_x", 1.0).any()  # all of it is gone
    large = np.full((80, 80, 1), 7, np.uint8)
    assert (change(large, "translate_x", -1.0)[0, :, 0] == [0] * 32 + [7] * 48).all()


def test_a_shear_moves_each_row_by_its_height():
    # 0.99 y to the left, rounded down from the middle of a pixel: rows 0 to 3 move by 0, 1, 2, 3 or one less.
    sheared = change(np.ones((4, 4, 1), np.uint8), "shear_x", 1.0)[..., 0]
    assert sheared.sum(axis=1).tolist() == sorted(sheared.sum(axis=1).tolist(), reverse=True)
    assert sheared[0].all() and sheared[3].sum() == 1
    np.testing.assert_array_equal(change(np.ones((4, 4, 1), np.uint8), "shear_y", 1.0)[..., 0], sheared.T)


def test_colours_by_hand():
    image = np.array([[[0, 100, 255], [200, 100, 50]]], np.uint8)
    assert change(image, "solarize", 0.5).tolist() == [[[0, 100, 0], [55, 100, 50]]]  # from 128 on inverted
    assert change(image, "solarize", -1.0).tolist() == (255 - image).tolist()
    assert change(image, "posterize", 1.0).tolist() == [[[0, 64, 192], [192, 64, 0]]]  # two bits are left
    assert change(image, "brightness", -0.5).tolist() == [[[0, 50, 128], [101, 50, 25]]]  # 0.505 times
    dull = np.array([[[0, 100, 255], [51, 100, 204]]], np.uint8)
    assert change(dull, "auto_contrast", 0.3).tolist() == [[[0, 100, 255], [255, 100, 0]]]  # each channel by itself


@pytest.mark.parametrize("image", [RANDOM, RANDOM[..., :1], RANDOM // 20 * 20, np.full((4, 4, 3), 9, np.uint8)])
def test_arrays_are_changed_as_pillow_would(image):
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    for s in (0.0, 0.1, -0.7, 1.0):
        for name, expected in (
            ("posterize", ImageOps.posterize(picture, 8 - round(6 * abs(s)))),
            ("solarize", ImageOps.solarize(picture, 256 - round(256 * abs(s)))),
            ("auto_contrast", ImageOps.autocontrast(picture)),
        ):
            np.testing.assert_array_equal(change(image, name, s), np.asarray(expected).reshape(image.shape), name)


@pytest.mark.parametrize("name", COLOURED)
def test_strength_0_changes_nothing_and_strength_1_something(name):
    still = np.array_equal(change(RANDOM, name, 0.0), RANDOM)
    assert still != (name in ("auto_contrast", "equalize"))
    assert np.array_equal(change(RANDOM, name, 1.0), RANDOM) == (name == "identity")
    assert change(RANDOM, name, -0.4).dtype == np.uint8
    if name in GREY:
        assert change(RANDOM[..., :1], name, -0.4).shape == (16, 16, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_way_is_taken_about_as_often(channels, monkeypatch):
    seen = []
    monkeypatch.setattr("nhn_tf.data.trivial_augment.change", lambda image, *way: seen.append(way) or image)
    names = GREY if channels == 1 else COLOURED
    trivial_augment(np.zeros((6000, 4, 4, channels), np.uint8), np.random.default_rng(0))
    counts = [sum(name == one for name, _ in seen) for one in names]
    assert sum(counts) == 6000 and min(counts) > 0.8 * 6000 / len(names)
    strengths = np.array([s for _, s in seen])
    np.testing.assert_allclose(np.unique(np.abs(strengths)), np.arange(31) / 30)
    assert abs((strengths > 0).mean() - 30 / 62) < 0.03


def test_batches_change_images_the_same_way_whenever_they_are_asked():
    split = Split(np.stack([RANDOM] * 8), np.arange(8, dtype=np.int32))
    options = {"batch_size": 4, "shuffle": True, "seed": 5, "drop_remainder": True}
    batches = Batches(split, normalization=Normalization.of(split), trivial=True, **options)
    first, again, other = batches.batch(2, 1)[0], batches.batch(2, 1)[0], batches.batch(3, 1)[0]
    assert (first == again).all() and (first != other).any()
    assert len(np.unique(first, axis=0)) > 1
    assert (split.images == RANDOM).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [(np.zeros((8, 4, 4, 3), np.float32), "Received: float32"), (np.zeros((8, 4, 4, 2), np.uint8), r"\(8, 4, 4, 2\)")],
)
def test_images_without_levels_or_colours_are_refused(images, message):
    class Given(list):
        labels = np.zeros(8, np.int32)

    given = Given(images)
    given.images = images
    options = {"batch_size": 4, "shuffle": False, "seed": 0, "drop_remainder": True}
    with pytest.raises(ValueError, match=message):
        Batches(given, normalization=lambda x: x, trivial=True, **options)
