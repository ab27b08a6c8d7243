"""Data sets as arrays: where they come from, and how they are split.

`load` reads one of six sources (TFDS, the official CIFAR archives, image folders, tables of pictures, digits, arrays at
hand), holds out the validation images, and checks that the networks can use what it found.

The whole data set stands in memory as uint8: 184 MB for CIFAR-10.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from nhn_tf.storage import backends as backends  # isort: skip
from nhn_tf.data import (
    arrays,
    balance,
    cifar_archives,
    digits,
    folder_listing,
    listed_pictures,
    messages,
    pictures,
    symmetry,
    table_listing,
    tfds_source,
)
from nhn_tf.data.batches import Augmentation
from nhn_tf.data.paths import cache_directory, expanded
from nhn_tf.data.splits import Choice, DataError, Dataset, Source, Split, hold_out, limit
from nhn_tf.settings import MAX_IMAGE_SIZE, DataConfig
from nhn_tf.values.randomness import Stream, generator

__all__ = ["DataError", "Dataset", "Split", "augmentation_for", "from_arrays", "is_balanced", "load"]

# Where the files name no test images, this share becomes the test split.
TEST_FRACTION = 0.2
# Fewer images say nothing of what may be done to them.
FEWEST_MEASURED = 20
# Chooses test images, whatever the seed of a run: figures of different seeds are of the same images.
_TEST_SEED = 0
_OWN_NAMES = ("cifar10", "cifar100", "digits", "folder", "csv", "arrays")


def load(config: DataConfig, *, seed: int) -> Dataset:
    """Loads, splits and checks a data set; says what a folder or a table holds.

    The test split depends on the files and `eval_limit` alone; the validation split on `seed` as well (ENAS: 5,000 of
    CIFAR-10's 50,000, every class in proportion), unless the files name one.

    Args:
      config: which data set, where it lies, how much of it.
      seed: chooses the validation images and the subsets of the training and validation limits; at least 0.

    Raises:
      DataError: the data set is unknown, missing, damaged or unfit for these networks.
    """
    dataset = _divided(_read(config), config, seed=seed)
    if config.dataset in ("folder", "csv"):
        messages.tell(dataset, where=expanded(config.data_dir), cache_dir=cache_directory(config.cache_dir))
    return dataset


def from_arrays(
    x: np.ndarray,
    y: Sequence,
    config: DataConfig,
    *,
    seed: int,
    val: tuple[np.ndarray, Sequence] | None = None,
    test: tuple[np.ndarray, Sequence] | None = None,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """A data set of images at hand, split and checked as `load` does.

    Args:
      x: training images [N, H, W] or [N, H, W, C], C of 1 or 3: uint8, or floating-point numbers in [0, 1].
      y: what they show: whole numbers from 0 or names, [N].
      config: how much of it, and at what size. `dataset` is the name it gets.
      seed: as for `load`.
      val: validation images and what they show; None holds some of the training images out.
      test: test images, likewise.
      class_names: the name of each number in `y`; None takes the names in it, or the numbers.

    Raises:
      DataError: the arrays are of other shapes, types or ranges, or unfit for these networks.
    """
    return _divided(_resized(arrays.read(x, y, val, test, class_names), config.image_size), config, seed=seed)


def _divided(source: Source, config: DataConfig, *, seed: int) -> Dataset:
    train, val, test, names = source.train, source.val, source.test, source.class_names
    if test is None:
        train, test = hold_out(train, TEST_FRACTION, generator(_TEST_SEED, Stream.TEST_SPLIT), names)
    _check_shapes(config.dataset, train, *filter(None, (val, test)))
    if val is None:
        train, val = hold_out(train, config.val_fraction, generator(seed, Stream.VALIDATION_SPLIT), names)
    train = limit(train, config.train_limit, generator(seed, Stream.TRAIN_LIMIT), setting="train_limit")
    measured = _measured(train, config) if source.flip is None else {}
    return Dataset(
        name=config.dataset,
        train=train,
        val=limit(val, config.eval_limit, generator(seed, Stream.VAL_LIMIT), setting="eval_limit"),
        test=limit(test, config.eval_limit, generator(_TEST_SEED, Stream.TEST_LIMIT), setting="eval_limit"),
        class_names=names,
        flip=measured["flip"].value == "on" if "flip" in measured else source.flip is not False,
        left_out=source.left_out,
        choices={**source.choices, **measured, **_weighted(train, config)},
    )


def _weighted(train: Split, config: DataConfig) -> dict[str, Choice]:
    """Whether classes are balanced where that is left to the program and is not as usual."""
    times = balance.imbalance(train.labels)
    if config.class_weights != "auto" or times <= balance.UNBALANCED:
        return {}
    return {"class_weights": Choice("balanced", f"the largest class has {times:.1f} times the images of the smallest")}


def is_balanced(config: DataConfig, dataset: Dataset) -> bool:
    """Whether every class is to count the same, whatever the number of its images."""
    return config.class_weights == "balanced" or "class_weights" in dataset.choices


def _measured(train: Split, config: DataConfig) -> dict[str, Choice]:
    """What images that nobody has spoken for say of the augmentation that is left to the program."""
    if config.flip != "auto" and config.pad >= 0:
        return {}
    if len(train) < FEWEST_MEASURED:
        return {"flip": Choice("off", f"{len(train)} pictures are too few to tell")} if config.flip == "auto" else {}
    pad = proportional_pad(min(train.images.shape[1:3]))
    found = symmetry.measure(train, pad=pad)
    choices = {"flip": found.flip()} if config.flip == "auto" else {}
    return {**choices, "pad": found.pad(pad)} if config.pad < 0 else choices


def augmentation_for(config: DataConfig, dataset: Dataset, *, cutout: int) -> Augmentation:
    """The augmentation that a configuration asks for, at the size of a data set's images.

    Args:
      config: padding and flipping; -1 and "auto" follow the data set, or what its images say (`symmetry`).
      dataset: size of the images, and whether they may be mirrored.
      cutout: side of the square of the stage at hand: -1 is half the image, 16 at 32; 0 is none.

    Raises:
      DataError: the padding is as large as the image, or the square covers it wherever its centre is.
    """
    side = min(dataset.image_shape[:2])
    pad = config.pad
    if pad < 0:
        pad = int(dataset.choices["pad"].value) if "pad" in dataset.choices else proportional_pad(side)
    if pad >= side:
        raise DataError(f"`pad` must be smaller than the image, {side} pixels. Received: {pad}.")
    if cutout >= 2 * side:
        raise DataError(f"`cutout` must be smaller than twice the image, {2 * side} pixels. Received: {cutout}.")
    return Augmentation(
        pad=pad,
        flip=dataset.flip if config.flip == "auto" else config.flip == "on",
        cutout=side // 2 if cutout < 0 else cutout,
    )


def proportional_pad(side: int) -> int:
    """Pixels to shift images of that side by: 4 at 32."""
    return round(side / 8)


def _read(config: DataConfig) -> Source:
    """The data set as its files give it, its images resized where that was asked for."""
    if config.dataset in ("folder", "csv"):
        if not config.data_dir:
            given = "DIR, DIR holding train/<class>/ or <class>/" if config.dataset == "folder" else "labels.csv"
            raise DataError(f"`dataset`={config.dataset} needs `data_dir`={given}.")
        lists = folder_listing.read if config.dataset == "folder" else table_listing.read
        listing = lists(expanded(config.data_dir))
        return listed_pictures.read(listing, image_size=config.image_size, cache_dir=cache_directory(config.cache_dir))
    if config.dataset == "arrays":
        if not config.data_dir:
            raise DataError("`dataset`=arrays needs `data_dir`=FILE, the images.npz of a run that was given arrays.")
        return _resized(arrays.load(expanded(config.data_dir)), config.image_size)
    if config.dataset == "digits":
        return _resized(digits.read(), config.image_size)
    if config.data_dir:
        found = cifar_archives.find(config.dataset, expanded(config.data_dir))
        if found is not None:
            return _resized(cifar_archives.read(*found), config.image_size)
    return tfds_source.read(config.dataset, data_dir=config.data_dir, image_size=config.image_size, others=_OWN_NAMES)


def _resized(source: Source, image_size: int) -> Source:
    def resized(split: Split) -> Split:
        return Split(pictures.resize(split.images, image_size), split.labels)

    val, test = (split and resized(split) for split in (source.val, source.test))
    return dataclasses.replace(source, train=resized(source.train), val=val, test=test)


def _check_shapes(name: str, train: Split, *others: Split) -> None:
    shape = train.images.shape[1:]
    for other in others:
        if other.images.shape[1:] != shape:
            raise DataError(
                f"The images of '{name}' differ from split to split: {shape} and {other.images.shape[1:]} [H, W, C]."
            )
    height, width, _ = shape
    if max(height, width) > MAX_IMAGE_SIZE:
        raise DataError(
            f"Images must have at most {MAX_IMAGE_SIZE} pixels a side. The images of '{name}' are {width} x {height}.\n"
            "Pass `image_size`=N to scale and crop all of them to N x N pixels."
        )
    if height % 4 or width % 4:
        side = max(4, round(min(height, width) / 4) * 4)
        raise DataError(
            f"Height and width of images must be divisible by 4: networks of three segments halve them twice. "
            f"The images of '{name}' are {width} x {height}.\nPass `image_size`={side}."
        )
