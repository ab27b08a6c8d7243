"""Data sets as arrays: where they come from, and how they are split.

`load` reads one of four sources (TFDS, the official CIFAR archives, image folders, scikit-learn's digits),
holds out the validation images, and checks that the networks can use what it found.

The whole data set stands in memory as uint8: 184 MB for CIFAR-10.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from nhn_tf.data import cifar_archives, image_folder, pictures, tfds_source
from nhn_tf.data.batches import Augmentation
from nhn_tf.data.splits import DataError, Dataset, Source, Split, hold_out, limit
from nhn_tf.settings import MAX_IMAGE_SIZE, DataConfig
from nhn_tf.values.randomness import Stream, generator

__all__ = ["DataError", "Dataset", "Split", "augmentation_for", "load"]

# Where the files name no test images, this share becomes the test split.
TEST_FRACTION = 0.2
# Chooses test images, whatever the seed of a run: figures of different seeds are of the same images.
_TEST_SEED = 0
_OWN_NAMES = ("cifar10", "cifar100", "digits", "folder")


def load(config: DataConfig, *, seed: int) -> Dataset:
    """Loads, splits and checks a data set.

    The test split depends on the files and `eval_limit` alone; the validation split on `seed` as well (ENAS: 5,000 of
    CIFAR-10's 50,000, every class in proportion).

    Args:
      config: which data set, where it lies, how much of it.
      seed: chooses the validation images and the subsets of the training and validation limits; at least 0.

    Raises:
      DataError: the data set is unknown, missing, damaged or unfit for these networks.
    """
    source = _read(config)
    train, test, names = source.train, source.test, source.class_names
    if test is None:
        train, test = hold_out(train, TEST_FRACTION, generator(_TEST_SEED, Stream.TEST_SPLIT), names)
    _check_shapes(config.dataset, train, test)
    train, val = hold_out(train, config.val_fraction, generator(seed, Stream.VALIDATION_SPLIT), names)
    return Dataset(
        name=config.dataset,
        train=limit(train, config.train_limit, generator(seed, Stream.TRAIN_LIMIT), setting="train_limit"),
        val=limit(val, config.eval_limit, generator(seed, Stream.VAL_LIMIT), setting="eval_limit"),
        test=limit(test, config.eval_limit, generator(_TEST_SEED, Stream.TEST_LIMIT), setting="eval_limit"),
        class_names=names,
        flip=source.flip,
    )


def augmentation_for(config: DataConfig, dataset: Dataset, *, cutout: int) -> Augmentation:
    """The augmentation that a configuration asks for, at the size of a data set's images.

    Args:
      config: padding and flipping; -1 and "auto" follow the data set.
      dataset: size of the images, and whether they may be mirrored.
      cutout: side of the square of the stage at hand: -1 is half the image, 16 at 32; 0 is none.

    Raises:
      DataError: the padding is as large as the image, or the square covers it wherever its centre is.
    """
    side = min(dataset.image_shape[:2])
    pad = round(side / 8) if config.pad < 0 else config.pad
    if pad >= side:
        raise DataError(f"--pad must be smaller than the image, {side} pixels. Received: {pad}.")
    if cutout >= 2 * side:
        raise DataError(f"--cutout must be smaller than twice the image, {2 * side} pixels. Received: {cutout}.")
    return Augmentation(
        pad=pad,
        flip=dataset.flip if config.flip == "auto" else config.flip == "on",
        cutout=side // 2 if cutout < 0 else cutout,
    )


def _read(config: DataConfig) -> Source:
    """The data set as its files give it, its images resized where that was asked for."""
    if config.dataset == "folder":
        if not config.data_dir:
            raise DataError("--dataset=folder needs --data_dir=DIR, DIR holding train/<class>/*.png (or .jpg).")
        root = _path(config.data_dir)
        return image_folder.read(root, image_size=config.image_size, cache_dir=_cache_dir(config))
    if config.dataset == "digits":
        return _resized(_read_digits(), config.image_size)
    if config.data_dir:
        found = cifar_archives.find(config.dataset, _path(config.data_dir))
        if found is not None:
            return _resized(cifar_archives.read(*found), config.image_size)
    return tfds_source.read(config.dataset, data_dir=config.data_dir, image_size=config.image_size, others=_OWN_NAMES)


def _cache_dir(config: DataConfig) -> Path:
    if config.cache_dir:
        return _path(config.cache_dir)
    return _path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "nhn_tf"


def _path(text: str) -> Path:
    """A path with the user's home directory put in; `~nobody` stays as it is (and will not be found)."""
    return Path(os.path.expanduser(text))


def _resized(source: Source, image_size: int) -> Source:
    def resized(split: Split) -> Split:
        return Split(pictures.resize(split.images, image_size), split.labels)

    test = None if source.test is None else resized(source.test)
    return Source(resized(source.train), test, source.class_names, source.flip)


def _read_digits() -> Source:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, grey levels 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    split = Split(images, digits.target.astype(np.int32))
    return Source(split, None, tuple(str(name) for name in digits.target_names), flip=False)


def _check_shapes(name: str, train: Split, test: Split) -> None:
    shape, test_shape = train.images.shape[1:], test.images.shape[1:]
    if shape != test_shape:
        raise DataError(f"Training and test images of '{name}' differ: {shape} and {test_shape} [H, W, C].")
    height, width, _ = shape
    if max(height, width) > MAX_IMAGE_SIZE:
        raise DataError(
            f"Images must have at most {MAX_IMAGE_SIZE} pixels a side. The images of '{name}' are {width} x {height}.\n"
            "Pass --image_size=N to scale and crop all of them to N x N pixels."
        )
    if height % 4 or width % 4:
        side = max(4, round(min(height, width) / 4) * 4)
        raise DataError(
            f"Height and width of images must be divisible by 4: networks of three segments halve them twice. "
            f"The images of '{name}' are {width} x {height}.\nPass --image_size={side}."
        )
