"""Images that a program has at hand, as a data set's source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nhn_tf.data.splits import DataError, Source, Split
from nhn_tf.storage import files

Labelled = tuple[np.ndarray, Sequence]


def read(
    x: np.ndarray,
    y: Sequence,
    val: Labelled | None = None,
    test: Labelled | None = None,
    class_names: Sequence[str] | None = None,
) -> Source:
    """The source of arrays; arguments as for `datasets.from_arrays`.

    Raises:
      DataError: a shape, a type or a range is another, or a label has no name.
    """
    names = _names(np.asarray(y), class_names)
    return Source(
        train=_split("x", x, y, names),
        test=None if test is None else _split("test", *test, names),
        class_names=names,
        flip=None,
        val=None if val is None else _split("val", *val, names),
    )


def save(path: Path, source: Source) -> None:
    """Keeps a source in a file, whole or absent.

    Raises:
      files.WriteError: it cannot be written.
    """
    files.save_sealed_npz(path, _members(source), {"class_names": list(source.class_names)})


def digest(source: Source) -> str:
    """Of everything in a source."""
    return files.digest_json({"class_names": list(source.class_names), "arrays": files.digest_arrays(_members(source))})


def _members(source: Source) -> dict[str, np.ndarray]:
    members: dict[str, np.ndarray] = {}
    for part, split in (("train", source.train), ("val", source.val), ("test", source.test)):
        if split is not None:
            members |= {f"{part}_images": split.images, f"{part}_labels": split.labels}
    return members


def load(path: Path) -> Source:
    """The source that `save` kept.

    Raises:
      DataError: there is no such file, or it is damaged or something else.
    """
    try:
        members, values = files.load_sealed_npz(path)
        splits = {
            part: Split(members[f"{part}_images"], members[f"{part}_labels"])
            for part in ("train", "val", "test")
            if f"{part}_images" in members
        }
        names = tuple(map(str, values["class_names"]))
        return Source(splits["train"], splits.get("test"), names, None, splits.get("val"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Give the file of arrays by `data_dir`.") from None
    except (files.DamagedFileError, KeyError, ValueError) as error:
        raise DataError(f"{path} holds no images as a run keeps them: {error}") from None


def _names(labels: np.ndarray, class_names: Sequence[str] | None) -> tuple[str, ...]:
    if class_names is not None:
        names = tuple(map(str, class_names))
    elif labels.dtype.kind in "iu":
        names = tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
    else:
        names = tuple(map(str, np.unique(labels)))
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"There must be at least two classes, each of its own name. Received: {', '.join(names)}.")
    return names


def _split(what: str, images: np.ndarray, labels: Sequence, names: tuple[str, ...]) -> Split:
    images, given = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or not len(images):
        raise DataError(f"`{what}` must be images [N, H, W] or [N, H, W, 1 or 3]. Received: shape {images.shape}.")
    if given.shape != images.shape[:1]:
        raise DataError(f"`{what}` must have a label for each of {len(images)} images. Received: shape {given.shape}.")
    numbers = given if given.dtype.kind in "iu" else _numbers(given, names)
    unknown = (numbers < 0) | (numbers >= len(names))
    if unknown.any():
        raise DataError(f"`{what}` has a label that is none of the {len(names)} classes: {given[unknown][0]!r}.")
    return Split(_levels(what, images), numbers.astype(np.int32))


def _numbers(labels: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """The number of each name, -1 for an unknown one."""
    number = {name: label for label, name in enumerate(names)}
    return np.array([number.get(str(label), -1) for label in labels])


def _levels(what: str, images: np.ndarray) -> np.ndarray:
    """Images as uint8 levels."""
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind == "f" and images.min() >= 0 and images.max() <= 1:  # false for NaN, too
        return np.rint(images * 255).astype(np.uint8)
    raise DataError(
        f"`{what}` must be uint8, or floating-point numbers in [0, 1]. "
        f"Received: {images.dtype} from {images.min()} to {images.max()}."
    )
