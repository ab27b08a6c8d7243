"""What a trained network answers to the test images, and a few of the images that it gets wrong.

A training stage leaves it as `predictions.npz`, so that whoever asks later which classes are confused needs neither the
network nor the data set.

Letters: N test images, K classes, M thumbnails.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Final

import numpy as np

from nhn_tf.storage import files
from nhn_tf.values.hits import Hits

NAME: Final = "predictions.npz"
SCHEMA: Final = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """A network's answers.

    Attributes:
      labels: int32 [N], what the images show.
      logits: float32 [N, K].
      class_names: the name of each class.
      train_counts: training images of each class.
      val_counts: validation images of each class.
      shown: int32 [M], the test images that there are thumbnails of.
      thumbnails: uint8 [M, h, w, C], C of 1 or 3.

    Raises:
      ValueError: the parts do not fit together.
    """

    labels: np.ndarray
    logits: np.ndarray
    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    val_counts: tuple[int, ...]
    shown: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    thumbnails: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 1, 1, 1), np.uint8))

    def __post_init__(self) -> None:
        count, classes = len(self.labels), len(self.class_names)
        wanted = {
            "labels": (self.labels, np.int32, (count,)),
            "logits": (self.logits, np.float32, (count, classes)),
            "shown": (self.shown, np.int32, (len(self.thumbnails),)),
            "thumbnails": (self.thumbnails, np.uint8, (*self.thumbnails.shape[:3], self.thumbnails.shape[-1])),
        }
        for name, (array, kind, shape) in wanted.items():
            if array.dtype != kind or array.shape != shape:
                raise ValueError(
                    f"`{name}` must be {np.dtype(kind)} of shape {list(shape)}. "
                    f"Received: {array.dtype} of shape {list(array.shape)}."
                )
        for name, numbers, end in (("labels", self.labels, classes), ("shown", self.shown, count)):
            if np.any((numbers < 0) | (numbers >= end)):
                raise ValueError(f"`{name}` must lie in [0, {end}).")
        if not len(self.train_counts) == len(self.val_counts) == classes:
            raise ValueError(f"`train_counts` and `val_counts` must have an entry for each of {classes} classes.")

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """int64 [N], the class of the largest logit."""
        return np.argmax(self.logits, axis=-1)

    @functools.cached_property
    def confidence(self) -> np.ndarray:
        """float64 [N], the softmax of the largest logit, in [0, 1]; 0 where logits are not finite."""
        logits = self.logits.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
            return np.nan_to_num(odds.max(axis=-1) / odds.sum(axis=-1))

    @property
    def hits(self) -> Hits:
        """Images of each class, and those whose class the largest logit names."""
        classes = len(self.class_names)
        known = self.labels[self.predicted == self.labels]
        return Hits(np.bincount(self.labels, minlength=classes), np.bincount(known, minlength=classes))

    @property
    def accuracy(self) -> float:
        """Share of the images whose class the largest logit names."""
        return self.hits.accuracy

    @property
    def confusion(self) -> np.ndarray:
        """int64 [K, K]: images of the class of the row that were taken for the class of the column."""
        classes = len(self.class_names)
        return np.bincount(self.labels * classes + self.predicted, minlength=classes**2).reshape(classes, classes)

    @property
    def mistakes(self) -> np.ndarray:
        """int64 [n], the images that were taken for others, the most confident first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]

    def with_thumbnails(self, images: np.ndarray, *, most: int = 48, side: int = 64) -> Predictions:
        """The same with thumbnails of the most confident mistakes.

        Args:
          images: uint8 [N, H, W, C], the test images.
          most: of how many mistakes.
          side: pixels of a thumbnail's longer side, at most; larger images are averaged over squares.
        """
        shown = self.mistakes[:most].astype(np.int32)
        chosen = images[shown]
        step = -(-max(chosen.shape[1:3]) // side)
        rows, columns = (length // step for length in chosen.shape[1:3])
        whole = chosen[:, : rows * step, : columns * step]
        squares = whole.reshape(len(chosen), rows, step, columns, step, images.shape[-1])
        thumbnails = np.rint(squares.mean(axis=(2, 4))).astype(np.uint8)
        return dataclasses.replace(self, shown=shown, thumbnails=thumbnails)

    def save(self, directory: Path) -> None:
        """Writes `predictions.npz`."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        values = {name: list(getattr(self, name)) for name in _VALUES}
        files.save_sealed_npz(directory / NAME, arrays, {"schema": SCHEMA, **values})

    @classmethod
    def load(cls, directory: Path) -> Predictions | None:
        """Reads `predictions.npz`; None where there is none, as in a run of an earlier version.

        Raises:
          DamagedFileError: it is damaged.
        """
        path = directory / NAME
        try:
            arrays, values = files.load_sealed_npz(path)
            parts: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
            parts |= {name: tuple(values[name]) for name in _VALUES}
            return cls(**parts)
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError) as error:
            raise files.DamagedFileError(f"{path} is damaged: {error}. Delete it or restore a copy.") from None


_ARRAYS: Final = ("labels", "logits", "shown", "thumbnails")
_VALUES: Final = ("class_names", "train_counts", "val_counts")
