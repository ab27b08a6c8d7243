"""Batches of images: normalised, augmented, in an order that a restart reproduces.

Every random choice is a pure function of (seed, epoch, batch index): no generator state is kept, so a
run resumed at epoch e sees the batches of a run that was never interrupted, if `fit` is called as
`fit(batches, shuffle=False, callbacks=[FollowEpoch(batches), ...])`:

- by default Keras draws the order of the batches anew from Python's global generator;
- Keras ends an epoch more than it trains whenever it has to build something first (Keras 3.15), so that
  counting ends of epochs would be off by one, but not always.

Letters: B batch, H W height and width, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import keras
import numpy as np

from nhn_tf.data.balance import balanced_rows
from nhn_tf.data.mixing import Mixing
from nhn_tf.data.normalization import Normalization
from nhn_tf.data.trivial_augment import trivial_augment
from nhn_tf.values.randomness import Stream, generator


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images, each with its own random numbers.

    Attributes:
      pad: pixels of zeros on each side, then a random crop of the former size; 0 is none.
      flip: whether to mirror an image left to right with probability 1/2.
      cutout: side of the square set to zero, its centre anywhere in the image, clipped at the border
        (DeVries & Taylor 2017, section 3.2); 0 is none.

    Zeros are the mean of the training images: both happen after normalisation.
    """

    pad: int
    flip: bool
    cutout: int

    def __post_init__(self) -> None:
        if self.pad < 0 or self.cutout < 0:
            raise ValueError(f"`pad` and `cutout` must be at least 0. Received: pad={self.pad}, cutout={self.cutout}.")

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augments a batch.

        Args:
          images: float32 [B, H, W, C], normalised.
          rng: the generator of all random choices. Each kind of choice is drawn whatever is switched
            on, so that switching one off leaves the others as they are.

        Returns:
          float32 [B, H, W, C], an array of its own.
        """
        batch, height, width, _ = images.shape
        shifts = rng.integers(-self.pad, self.pad + 1, size=(batch, 2))
        flips = rng.random(batch) < 0.5
        centres = rng.integers(0, (height, width), size=(batch, 2))
        images = images.copy()
        if self.flip:
            images[flips] = images[flips].take(np.arange(width)[::-1], axis=2)
        if self.pad:
            images = _shift(images, shifts)
        if self.cutout:
            _cut_out(images, centres, self.cutout)
        return images


def _shift(images: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Crops of the zero-padded images: image b moved by `shifts[b]` (down, right), zeros moved in."""
    height, width = images.shape[1:3]
    shifted = np.zeros_like(images)
    for image, target, (down, right) in zip(images, shifted, shifts.tolist(), strict=True):
        target[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
            max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
        ]
    return shifted


def _cut_out(images: np.ndarray, centres: np.ndarray, side: int) -> None:
    """Zeroes a square of each image in place; int [B, 2] centres (y, x) lie inside the image."""
    for image, (y, x) in zip(images, (centres - side // 2).tolist(), strict=True):
        image[max(y, 0) : y + side, max(x, 0) : x + side] = 0


class LabelledImages(Protocol):
    """A `Split`, or what holds images and labels in its place."""

    @property
    def images(self) -> np.ndarray:
        """[N, H, W, C], as the normalization takes them."""

    @property
    def labels(self) -> np.ndarray:
        """int32 [N]."""

    def __len__(self) -> int: ...


class Batches(keras.utils.PyDataset):
    """Batches of a split, for `fit`, `evaluate` and loops of one's own.

    `batches[i]` is batch i of the current `epoch`; in `fit`, `FollowEpoch` sets it. Batches are prepared by one thread:
    with more, Keras hands batches left over from one epoch to the next (3.15).

    Args:
      split: the images.
      batch_size: images in a batch, B.
      normalization: makes images float32, a `Normalization` by the statistics of the training images.
      augmentation: what is done to each image; None leaves them as they are.
      shuffle: whether each epoch has an order of its own; else that of the split.
      seed: of order and augmentation, at least 0.
      drop_remainder: whether to leave out the last batch where it would be short.
      balanced: whether each epoch shows every class equally often, see `balanced_rows`; as many images in all. Without
        `shuffle` all epochs show the same ones.
      mixing: how images are mixed with each other; None leaves them alone.
      trivial: whether TrivialAugment changes the images, before they are normalised; they must be uint8, grey or RGB.

    Attributes:
      epoch: the current epoch, settable.
    """

    def __init__(
        self,
        split: LabelledImages,
        *,
        batch_size: int,
        normalization: Normalization | Callable[[np.ndarray], np.ndarray],
        augmentation: Augmentation | None = None,
        shuffle: bool,
        seed: int,
        drop_remainder: bool,
        balanced: bool = False,
        mixing: Mixing | None = None,
        trivial: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1 or seed < 0:
            raise ValueError(
                "`batch_size` must be at least 1 and `seed` at least 0. "
                f"Received: batch_size={batch_size}, seed={seed}."
            )
        if len(split) < (batch_size if drop_remainder else 1):
            raise ValueError(
                f"A split of {len(split)} images has no batch. "
                f"Received: batch_size={batch_size}, drop_remainder={drop_remainder}."
            )
        if trivial and (split.images.dtype != np.uint8 or split.images.shape[-1] not in (1, 3)):
            raise ValueError(
                "TrivialAugment takes uint8 images of 1 or 3 channels. "
                f"Received: {split.images.dtype} of shape {split.images.shape}."
            )
        self.split = split
        self.batch_size = batch_size
        self.normalization = normalization
        self.augmentation = augmentation
        self.shuffle = shuffle
        self.seed = seed
        self.drop_remainder = drop_remainder
        self.balanced = balanced
        self.mixing = mixing
        self.trivial = trivial
        self.epoch = 0
        # (epoch, order), replaced as one object: several threads may ask at once.
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.split), self.batch_size)
        return full + bool(rest and not self.drop_remainder)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `index` of the current epoch, see `batch`."""
        return self.batch(self.epoch, index)

    def on_epoch_end(self) -> None:
        """Called by Keras after each epoch."""
        self.epoch += 1

    def batch(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """One batch, whatever the current epoch.

        Args:
          epoch: at least 0.
          index: from 0 to `len(self) - 1`.

        Returns:
          images float32 [B, H, W, C], labels int32 [B], or float32 [B, classes] where images are mixed; the last batch
          may be shorter than B.

        Raises:
          IndexError: there is no such batch.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be at least 0 and below {len(self)}. Received: {index}.")
        rows = self._order_of(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        images = self.split.images[rows]
        if self.trivial:
            images = trivial_augment(images, generator(self.seed, Stream.TRIVIAL, epoch, index))
        images = self.normalization(images)
        if self.augmentation is not None:
            rng = generator(self.seed, Stream.AUGMENTATION, epoch, index)
            images = self.augmentation(images, rng)
        labels = self.split.labels[rows]
        if self.mixing is None:
            return images, labels
        return self.mixing(images, labels, generator(self.seed, Stream.MIXING, epoch, index))

    def _order_of(self, epoch: int) -> np.ndarray:
        """int [N], the images of an epoch in their order; kept until another epoch is asked for."""
        order = self._order
        if order is None or order[0] != epoch:
            indices = np.arange(len(self.split))
            if self.balanced:
                drawn = generator(self.seed, Stream.BALANCE, epoch if self.shuffle else 0)
                indices = balanced_rows(self.split.labels, drawn)
            if self.shuffle:
                generator(self.seed, Stream.ORDER, epoch).shuffle(indices)
            self._order = order = (epoch, indices)
        return order[1]


class HasEpoch(Protocol):
    """Batches of a current epoch."""

    epoch: int


class FollowEpoch(keras.callbacks.Callback):
    """Gives `batches` the number of the epoch that `fit` is about to train, also after `initial_epoch`.

    Args:
      batches: the training batches passed to `fit`; only their `epoch` matters.
    """

    def __init__(self, batches: HasEpoch) -> None:
        super().__init__()
        self._batches = batches

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._batches.epoch = epoch
