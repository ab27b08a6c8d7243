"""The values of the data floor, and stratified choices among labelled images.

Letters: N images, H W height and width, C channels (1 grey, 3 RGB).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nhn_tf.data.skipped_files import LeftOut, tally
from nhn_tf.errors import UserError
from nhn_tf.storage import files


class DataError(UserError):
    """Images that cannot be used as they are; one to three lines that say what to do about it."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images.

    Attributes:
      images: uint8 [N, H, W, C], 0 to 255.
      labels: int32 [N], indices into the data set's class names.

    Raises:
      ValueError: a type or a shape differs.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError(
                "`images` must be uint8 of shape [N, H, W, C]. "
                f"Received: {self.images.dtype} of shape {self.images.shape}."
            )
        if self.labels.dtype != np.int32 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"`labels` must be int32 of shape [{len(self.images)}]. "
                f"Received: {self.labels.dtype} of shape {self.labels.shape}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Split:
        """The images at `indices` (int [n]), in that order."""
        return Split(self.images[indices], self.labels[indices])

    def joined(self, other: Split) -> Split:
        """These images, then those of `other`."""
        return Split(np.concatenate([self.images, other.images]), np.concatenate([self.labels, other.labels]))


@dataclass(frozen=True)
class Choice:
    """What a setting came to that was left to the program.

    Attributes:
      value: as the setting would have it.
      why: half a sentence.
    """

    value: int | str
    why: str

    def to_json(self) -> dict[str, int | str]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as its files give it, before any image is held out.

    Attributes:
      train: training images.
      test: test images, or None where the files name none.
      class_names: the name of each label.
      flip: whether a mirrored image is still one of its class; None where nobody has said so.
      val: validation images, or None where the files name none.
      left_out: the files that are not read.
      choices: settings that the files decided, by name.
    """

    train: Split
    test: Split | None
    class_names: tuple[str, ...]
    flip: bool | None
    val: Split | None = None
    left_out: tuple[LeftOut, ...] = ()
    choices: Mapping[str, Choice] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set ready for training.

    Attributes:
      name: what `--dataset` called it.
      train: images to learn from.
      val: images for rewards and for choices between networks, held out of the training images where the files name
        none.
      test: images that no choice may depend on.
      class_names: the name of each label.
      flip: whether a mirrored image is still one of its class.
      left_out: the files that are not read.
      choices: settings that the images decided, by name.
    """

    name: str
    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    flip: bool
    left_out: tuple[LeftOut, ...] = ()
    choices: Mapping[str, Choice] = field(default_factory=dict)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @functools.cached_property
    def digest(self) -> str:
        """Hex digest of every image and label in its order, and of the class names."""
        arrays = {"class_names": np.array(self.class_names)}
        for part, split in (("train", self.train), ("val", self.val), ("test", self.test)):
            arrays |= {f"{part}/images": split.images, f"{part}/labels": split.labels}
        return files.digest_arrays(arrays)

    def summary(self) -> dict[str, Any]:
        """What a run's record says of the images: counts, classes, what was chosen by them, what was left out."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {
            **{name: len(split) for name, split in parts.items()},
            "classes": self.num_classes,
            "choices": {name: choice.to_json() for name, choice in self.choices.items()},
            "left_out": tally(self.left_out),
        }


def apportion(counts: np.ndarray, total: int, *, leave: int = 0) -> np.ndarray:
    """How many images of each class make up `total`, as near to proportion as whole numbers go.

    Args:
      counts: int [K], images of each class; classes without images stay without.
      total: how many to choose in all.
      leave: how many of each class must not be chosen.

    Returns:
      int64 [K], summing to `total`: at least 1 and at most `counts - leave` of each class with
      images.

    Raises:
      ValueError: no such choice exists.
    """
    low = np.minimum(counts, 1)
    high = np.where(counts > 0, counts - leave, 0)
    if np.any(high < low) or not low.sum() <= total <= high.sum():
        raise ValueError(
            f"`total` must lie between {low.sum()} and {high.sum()} to take at least 1 and leave "
            f"{leave} of each class. Received: {total}."
        )
    quota = counts * (total / counts.sum())
    chosen = np.clip(np.floor(quota).astype(np.int64), low, high)
    while chosen.sum() < total:
        chosen[np.argmax(np.where(chosen < high, quota - chosen, -np.inf))] += 1
    while chosen.sum() > total:
        chosen[np.argmax(np.where(chosen > low, chosen - quota, -np.inf))] -= 1
    return chosen


def choose(labels: np.ndarray, per_class: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws `per_class[c]` images of each class c, without replacement.

    Args:
      labels: int [N].
      per_class: int [K].
      rng: the generator to draw from.

    Returns:
      bool [N], True where an image was drawn.
    """
    drawn = np.zeros(len(labels), bool)
    for label, count in enumerate(per_class):
        drawn[rng.permutation(np.flatnonzero(labels == label))[:count]] = True
    return drawn


def hold_out(
    split: Split, fraction: float, rng: np.random.Generator, class_names: tuple[str, ...]
) -> tuple[Split, Split]:
    """Divides a split in two, every class in proportion.

    Args:
      split: the images to divide.
      fraction: the share to hold out, above 0 and below 1.
      rng: the generator to draw from.
      class_names: the name of each label, for the error.

    Returns:
      (the rest, the held-out images), both in their former order.

    Raises:
      DataError: a class has a single image, so that one side would be left without.
    """
    counts = np.bincount(split.labels, minlength=len(class_names))
    for name, count in zip(class_names, counts, strict=True):
        if count == 1:
            raise DataError(
                f"Class '{name}' has too few images: training, validation and test each need one of their own.\n"
                "Add images to the class or remove it."
            )
    present = np.count_nonzero(counts)
    total = int(np.clip(round(fraction * len(split)), present, len(split) - present))
    held = choose(split.labels, apportion(counts, total, leave=1), rng)
    return split.take(np.flatnonzero(~held)), split.take(np.flatnonzero(held))


def limit(split: Split, count: int, rng: np.random.Generator, *, setting: str) -> Split:
    """At most `count` images of a split, every class in proportion, in their former order.

    Args:
      split: the images to choose from.
      count: how many; 0 keeps all.
      rng: the generator to draw from.
      setting: the name of the setting that asked for it, for the error.

    Raises:
      DataError: `count` is smaller than the number of classes.
    """
    if count == 0 or count >= len(split):
        return split
    counts = np.bincount(split.labels)
    if count < (present := np.count_nonzero(counts)):
        raise DataError(f"--{setting} must be 0 or at least the number of classes, {present}. Received: {count}.")
    return split.take(np.flatnonzero(choose(split.labels, apportion(counts, count), rng)))
