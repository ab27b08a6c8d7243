"""Batches as several devices share them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from nhn_tf.data.batches import Batches
from nhn_tf.errors import UserError
from nhn_tf.layers import devices, processes


def check_batch_size(size: int) -> None:
    """Refuses training batches of which the devices cannot have as many images each.

    Raises:
      UserError: it names the nearest sizes.
    """
    count = devices.count()
    if size % count:
        fewer, more = size - size % count, size - size % count + count
        choices = f"{fewer} or {more}" if fewer else str(more)
        raise UserError(
            f"`batch_size` must be divisible by {count}, the number of devices. Received: {size}. Give {choices}."
        )


class Share(keras.utils.PyDataset):
    """This process's rows of batches whose rows several processes share.

    Args:
      batches: indexed tuples of arrays of as many rows, a number that is divisible by the number of devices.
    """

    def __init__(self, batches: keras.utils.PyDataset):
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        arrays = self._batches[index]
        rows = len(arrays[0]) // processes.count()
        return tuple(array[processes.rank() * rows : (processes.rank() + 1) * rows] for array in arrays)

    def on_epoch_end(self) -> None:
        self._batches.on_epoch_end()


class Evened(keras.utils.PyDataset):
    """Batches to evaluate on, each made divisible by the number of devices; the figures stay those of the images.

    Rows that are added weigh 0. Keras divides the losses' weighted sum by the number of rows, so all others weigh as
    much more than 1 as there are more rows than images.

    Args:
      batches: (images, labels).
    """

    def __init__(self, batches: Batches):
        super().__init__()
        self._batches = batches
        images = len(batches.split)
        full, rest = divmod(images, batches.batch_size)
        self._weight = (full * _evened(batches.batch_size) + _evened(rest)) / images

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        images, labels = self._batches[index]
        rows = np.arange(_evened(len(images)))
        weights = np.where(rows < len(images), self._weight, 0.0).astype("float32")
        rows = np.minimum(rows, len(images) - 1)
        return images[rows], labels[rows], weights


def _evened(rows: int) -> int:
    """The next number that is divisible by the number of devices."""
    return -(-rows // devices.count()) * devices.count()
