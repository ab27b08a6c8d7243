"""Whether pictures may be mirrored and shifted: what is known by construction must be found by measurement."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images

from nhn_tf.data import augmentation_for, load, symmetry
from nhn_tf.data.datasets import from_arrays
from nhn_tf.data.splits import Split
from nhn_tf.data.symmetry import Recognition
from nhn_tf.settings import DataConfig
from tests.test_datasets import folder_config, save

FONTS = [
    str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVuSans{kind}.ttf")) for kind in ("", "-Bold", "Mono")
]


def letters(text: str, count: int, *, side: int = 24, seed: int = 0) -> Split:
    """`count` images of each letter of `text`, in several fonts, sizes and places, with noise."""
    rng = np.random.default_rng(seed)
    images = []
    for letter in text:
        for _ in range(count):
            image = Image.new("L", (side, side), 220)
            font = ImageFont.truetype(FONTS[rng.integers(len(FONTS))], int(rng.integers(side // 2, side)))
            place = tuple(side / 2 + rng.normal(size=2))
            ImageDraw.Draw(image).text(place, letter, fill=30, font=font, anchor="mm")
            images.append(np.asarray(image) + rng.normal(scale=15, size=(side, side)))
    labels = np.repeat(np.arange(len(text)), count).astype(np.int32)
    return Split(np.clip(images, 0, 255).astype(np.uint8)[..., None], labels)


def photos(count: int, *, side: int = 24, seed: int = 0) -> Split:
    """`count` square pieces, of any size, of each of scikit-learn's two sample photos: a temple and a flower."""
    rng = np.random.default_rng(seed)
    pieces = []
    for photo in load_sample_images().images:
        for _ in range(count):
            size = rng.integers(2 * side, 8 * side)
            top, left = (rng.integers(length - size) for length in photo.shape[:2])
            piece = Image.fromarray(photo[top : top + size, left : left + size])
            pieces.append(np.asarray(piece.resize((side, side))))
    return Split(np.stack(pieces), np.repeat([0, 1], count).astype(np.int32))


SEEDS = pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])


@SEEDS
@pytest.mark.parametrize("text", ["bdpq", "bd", "ABCDEFGHIJ", "ceksz"])
def test_letters_are_not_mirrored(text, seed):
    found = symmetry.measure(letters(text, 40, seed=seed), pad=3).flip()
    assert found.value == "off", found.why


@SEEDS
def test_photos_are_mirrored(seed):
    found = symmetry.measure(photos(40, seed=seed), pad=3).flip()
    assert found.value == "on", found.why


def test_images_and_their_mirror_images_together_are_mirrored_whatever_they_show():
    split = letters("AbGk", 30)
    both = split.joined(Split(np.ascontiguousarray(split.images[:, :, ::-1]), split.labels))
    assert symmetry.measure(both, pad=3).flip().value == "on"


def test_what_cannot_be_learnt_tells_nothing():
    noise = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    found = symmetry.measure(Split(noise, np.repeat([0, 1], 30).astype(np.int32)), pad=2).flip()
    assert found.value == "off"
    assert "too few to tell" in found.why


def test_pictures_of_one_level_tell_nothing():
    flat = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 8, 8, 1))
    assert symmetry.measure(Split(flat, np.repeat([0, 1], 20).astype(np.int32)), pad=1).flip().value == "off"


def test_where_the_place_is_the_class_nothing_is_shifted_or_mirrored():
    """A bright column that stands further left or right by one pixel."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (200, 12, 12, 1), dtype=np.uint8)
    labels = np.repeat([0, 1], 100).astype(np.int32)
    images[:100, :, 3:5] += 150
    images[100:, :, 4:6] += 150
    found = symmetry.measure(Split(images, labels), pad=2)
    assert found.flip().value == "off"
    assert found.pad(2).value == 0


def test_rare_classes_count_as_much_as_frequent_ones():
    split = letters("bd", 100)
    found = symmetry.measure(split.take(np.r_[0:100, 100:120]), pad=3)
    assert found.chance == 0.5  # not 100 / 120
    assert found.flip().value == "off"


def test_equal_images_give_equal_figures():
    split = letters("bd", 20)
    assert symmetry.measure(split, pad=3) == symmetry.measure(split, pad=3)


@pytest.mark.parametrize(
    ("plain", "mirrored", "with_mirrored", "expected"),
    [
        (0.90, 0.88, 0.85, "on"),  # 0.02 of 0.40 known above chance are lost: 5%
        (0.90, 0.60, 0.95, "off"),  # 75%
        (0.90, 0.80, 0.91, "on"),  # 25%, and mirror images help
        (0.90, 0.80, 0.89, "off"),  # 25%, and they do not
        (0.59, 0.59, 0.99, "off"),  # less than two standard errors above guessing
        (0.90, 0.95, 0.85, "on"),
    ],
)
def test_mirroring_decided_by_hand(plain, mirrored, with_mirrored, expected):
    found = Recognition(100, 0.5, 0.05, plain, mirrored, with_mirrored, plain, 0.0)
    assert found.flip().value == expected


@pytest.mark.parametrize(("with_shifted", "expected"), [(0.95, 4), (0.87, 4), (0.85, 0)])
def test_shifting_decided_by_hand(with_shifted, expected):
    choice = Recognition(100, 0.5, 0.05, 0.9, 0.9, 0.9, with_shifted, 0.02).pad(4)
    assert choice.value == expected
    assert choice.why.endswith("4 pixels: no harm beyond chance" if expected else "4 pixels: less, beyond chance")


def test_the_choice_is_followed_said_and_recorded(tmp_path, capsys):
    split = letters("bd", 40)
    for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        save(tmp_path / "d" / "bd"[label] / f"{number}.png", image[..., 0])
    config = folder_config(tmp_path / "d")
    data = load(config, seed=0)
    augmentation = augmentation_for(config, data, cutout=0)
    assert (augmentation.flip, augmentation.pad) == (False, 3)
    choices = data.summary()["choices"]
    assert choices["flip"]["value"] == "off"
    assert "of their mirror images" in choices["flip"]["why"]
    assert f"`flip`=off: {choices['flip']['why']}" in capsys.readouterr().err
    asked = dataclasses.replace(config, flip="on", pad=1)
    data = load(asked, seed=0)
    assert "flip" not in data.choices and "pad" not in data.choices
    assert augmentation_for(asked, data, cutout=0).flip is True


def test_arrays_are_measured_too_and_known_data_sets_are_not():
    split = photos(40)
    data = from_arrays(split.images, split.labels, DataConfig(), seed=0)
    assert data.flip is True
    assert data.choices["pad"].value == 3
    assert load(DataConfig(dataset="digits"), seed=0).choices == {}
