"""Images as `keras.Model.fit` takes them, as batches that a search can go back to.

Arrays are read in an order of their own in each epoch, like `Batches` of a split. Data sets that can only be indexed or
passed through are taken batch by batch; as validation images they are read once and kept.

Letters: N images, B batch, H W C image.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np

from nhn_tf.data.batches import Batches
from nhn_tf.data.splits import DataError

Batch = tuple[np.ndarray, np.ndarray]
Check = Callable[[np.ndarray, np.ndarray], None]


class TrainingBatches(Protocol):
    """What a search trains on: `Batches`, or another's data in its place."""

    epoch: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Batch:
        """Batch `index` of the current epoch."""

    def batch(self, epoch: int, index: int) -> Batch: ...


@dataclass(frozen=True, eq=False)
class Arrays:
    """Labelled images as a network reads them, in the place of a `Split`.

    Attributes:
      images: numbers [N, H, W, C].
      labels: int32 [N].
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def as_given(images: np.ndarray) -> np.ndarray:
    """In the place of a normalization: float32, otherwise as they are."""
    return np.asarray(images, np.float32)


def training_batches(
    x: Any, y: Any, *, input_shape: Sequence[int], num_classes: int, batch_size: int, seed: int
) -> TrainingBatches:
    """What `keras.Model.fit` takes, as batches to train on.

    Args:
      x: images [N, H, W, C]; or, without `y`, batches (images, labels): `Batches`, a `keras.utils.PyDataset`, or what
        has a length and can be iterated again and again, such as a `tf.data.Dataset` that knows its length.
      y: labels, int [N] or [N, 1], or one-hot [N, classes].
      input_shape: (H, W, C).
      num_classes: of the labels.
      batch_size: of arrays; the remainder of an epoch is left out.
      seed: of their order.

    Raises:
      DataError: they are none of these, of another shape, or labelled otherwise; of batches the first is looked at
        here, each other one in its turn.
    """
    if y is not None:
        arrays = _arrays("x", x, y, input_shape, num_classes)
        if len(arrays) < batch_size:
            raise DataError(
                f"`x` must hold a batch of images at least, {batch_size} by the configuration's `batch_size`. "
                f"Received: {len(arrays)}."
            )
        return Batches(
            arrays, batch_size=batch_size, normalization=as_given, shuffle=True, seed=seed, drop_remainder=True
        )

    def check(images: np.ndarray, labels: np.ndarray) -> None:
        _check("x", images, labels, input_shape, num_classes, shares=True)

    batches: Any = x
    if not isinstance(x, Batches):
        kind, length = _Indexed if _is_indexed(x) else _Passed, _length("x", x)
        batches = kind(x, length, check)
    if not len(batches):
        raise DataError("`x` must hold a batch at least. Received: none.")
    check(*batches.batch(0, 0))
    return batches


def validation_batches(data: Any, *, input_shape: Sequence[int], num_classes: int, batch_size: int) -> Batches:
    """What `keras.Model.fit` takes as validation data, as batches in their order.

    Args:
      data: (images, labels), or batches of them, as for `training_batches`. Other than `Batches` are read once and
        kept.
      input_shape: (H, W, C).
      num_classes: of the labels.
      batch_size: other than of `Batches`.

    Raises:
      DataError: as `training_batches`; all of them are looked at.
    """
    if isinstance(data, Batches):
        images, labels = data.batch(0, 0)
        _check("validation_data", images, labels, input_shape, num_classes)
        return data
    if isinstance(data, (tuple, list)) and len(data) == 2 and not _is_batch(data[0]):
        arrays = _arrays("validation_data", data[0], data[1], input_shape, num_classes)
    else:
        if isinstance(data, tuple) and not _is_indexed(data):
            raise DataError(f"`validation_data` must be (images, labels). Received: a tuple of {len(data)}.")
        read = list(_pass("validation_data", data))
        if not read:
            raise DataError("`validation_data` must hold a batch at least. Received: none.")
        parts = [_arrays("validation_data", x, y, input_shape, num_classes) for x, y in read]
        arrays = Arrays(np.concatenate([part.images for part in parts]), np.concatenate([p.labels for p in parts]))
    return Batches(arrays, batch_size=batch_size, normalization=as_given, shuffle=False, seed=0, drop_remainder=False)


def digest(batches: TrainingBatches) -> str:
    """Tells images and labels from others, whatever their order; "" where they can only be passed through."""
    if not isinstance(batches, Batches):
        return ""
    split = batches.split
    one = (
        hashlib.sha256(image.tobytes() + str(label).encode())
        for image, label in zip(split.images, split.labels, strict=True)
    )
    return hashlib.sha256(b"".join(sorted(sha.digest() for sha in one))).hexdigest()[:16]


class _Another(abc.ABC):
    """Batches of another's data set.

    Args:
      data: gives (images, labels).
      length: how many batches there are in an epoch.
      check: refuses a batch.
    """

    def __init__(self, data: Any, length: int, check: Check):
        self.epoch = 0
        self._data = data
        self._length = length
        self._check = check

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        return self.batch(self.epoch, index)

    @abc.abstractmethod
    def batch(self, epoch: int, index: int) -> Batch: ...


class _Indexed(_Another):
    """Of one that is indexed, such as a `keras.utils.PyDataset`.

    It hears `on_epoch_end` once an epoch, before the next one's first batch.
    """

    def __init__(self, data: Any, length: int, check: Check):
        super().__init__(data, length, check)
        self._ended = 0  # epochs

    def batch(self, epoch: int, index: int) -> Batch:
        while self._ended < epoch:  # also of epochs before a search was taken up again
            self._ended += 1
            if hasattr(self._data, "on_epoch_end"):
                self._data.on_epoch_end()
        batch = _batch("x", self._data[index])
        self._check(*batch)
        return batch


class _Passed(_Another):
    """Of one that can only be passed through: one pass an epoch, begun anew where one goes back."""

    def __init__(self, data: Any, length: int, check: Check):
        super().__init__(data, length, check)
        self._coming = (-1, 0)  # epoch and index of what the iterator gives next
        self._iterator: Iterator[Batch] = iter(())

    def batch(self, epoch: int, index: int) -> Batch:
        current, coming = self._coming
        if epoch != current or index < coming:
            self._iterator, coming = _pass("x", self._data), 0
        for _ in range(index - coming):
            self._next()
        self._coming = (epoch, index + 1)
        return self._next()

    def _next(self) -> Batch:
        for batch in self._iterator:
            self._check(*batch)
            return batch
        raise DataError(f"`x` must give the {self._length} batches of its length. Received: fewer in a pass.")


def _is_indexed(data: Any) -> bool:
    return isinstance(data, keras.utils.PyDataset) or (
        isinstance(data, (list, tuple)) and bool(data) and all(map(_is_batch, data))
    )


def _is_batch(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and np.ndim(value[0]) == 4


def _length(name: str, data: Any) -> int:
    """How many batches a pass through a data set has.

    Raises:
      DataError: it is no data set, or does not say.
    """
    passes = hasattr(data, "__iter__") and not isinstance(data, (np.ndarray, list, tuple, dict, str))
    if not passes and not _is_indexed(data):
        raise DataError(
            f"`{name}` must be images with their labels, search(x, y, ...), or batches of both: nhn_tf's Batches, a "
            f"keras.utils.PyDataset or a tf.data.Dataset. Received: {type(data).__name__}."
        )
    try:
        return len(data)
    except (TypeError, NotImplementedError) as error:
        raise DataError(
            f"`{name}` must be a data set that knows how many batches it has (tf.data: `take`, or "
            f"`tf.data.experimental.assert_cardinality`). Received: {type(data).__name__}: {error}."
        ) from None


def _pass(name: str, data: Any) -> Iterator[Batch]:
    """One pass through a data set."""
    length = _length(name, data)
    if _is_indexed(data):
        return (_batch(name, data[index]) for index in range(length))
    return (_batch(name, batch) for _, batch in zip(range(length), data, strict=False))


def _batch(name: str, value: Any) -> Batch:
    """A data set's element as arrays."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        kind = f"{len(value)} parts" if isinstance(value, (tuple, list)) else type(value).__name__
        raise DataError(f"`{name}` must give batches (images, labels), without weights. Received: {kind}.")
    images, labels = map(keras.ops.convert_to_numpy, value)
    labels = _whole(labels)
    return as_given(images), labels.astype(np.float32) if labels.ndim == 2 else labels


def _whole(labels: np.ndarray) -> np.ndarray:
    """Labels int [N] or [N, 1] as int32 [N]; others as they are."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    whole = labels.ndim == 1 and bool((labels == np.floor(labels)).all())
    fits = whole and bool(((labels >= -(2**31)) & (labels < 2**31)).all())
    return labels.astype(np.int32) if fits else labels


def _arrays(name: str, x: Any, y: Any, input_shape: Sequence[int], num_classes: int) -> Arrays:
    """Images and labels, looked at.

    Raises:
      DataError: they do not fit each other, or the network.
    """
    if scalars := [type(value).__name__ for value in (x, y) if np.ndim(value) == 0]:
        raise DataError(
            f"`{name}` must be arrays of images and of labels; batches of both are given without `y`. "
            f"Received: {scalars[0]}."
        )
    try:
        images, labels = (np.asarray(keras.ops.convert_to_numpy(value)) for value in (x, y))
        if labels.ndim == 2 and labels.shape[1] == num_classes > 1 and np.isin(labels, (0, 1)).all():
            labels = np.where(labels.sum(axis=1) == 1, labels.argmax(axis=1), -1)  # -1 is refused below
        labels = _whole(labels)
    except (TypeError, ValueError) as error:
        raise DataError(f"`{name}` must be arrays of images and of labels ({error}).") from None
    _check(name, images, labels, input_shape, num_classes)
    return Arrays(images, labels)


def _check(
    name: str, images: np.ndarray, labels: np.ndarray, input_shape: Sequence[int], num_classes: int, *, shares=False
) -> None:
    """Refuses images and labels that a network does not take; `shares`: labels may be float [N, classes]."""
    if images.dtype.kind not in "uif" or images.shape[1:] != tuple(input_shape) or not len(images):
        raise DataError(
            f"`{name}` must be images [N, {', '.join(map(str, input_shape))}], as `input_shape` says. "
            f"Received: {images.dtype} of shape {images.shape}."
        )
    most = np.finfo(np.float32).max
    if images.dtype.kind == "f" and not (-most <= images.min() and images.max() <= most):  # NaN is neither
        raise DataError(f"`{name}` must be finite as float32. Received: images with NaN or infinity.")
    if shares and labels.dtype.kind == "f" and labels.shape == (len(images), num_classes):
        return
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "ui":
        raise DataError(
            f"`{name}` must have a label for each of {len(images)} images: int [N], or one-hot [N, {num_classes}]. "
            f"Received: {labels.dtype} of shape {labels.shape}."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(
            f"`{name}` must have labels below `num_classes`={num_classes}, one for each image. "
            f"Received: from {labels.min()} to {labels.max()}."
        )
