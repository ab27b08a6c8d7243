"""Folders of PNG and JPEG images, one folder a class, decoded once and kept in a cache.

Layouts: `DIR/train/<class>/*` with `DIR/test/<class>/*`; `DIR/train/<class>/*` alone; `DIR/<class>/*`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nhn_tf.data import pictures
from nhn_tf.data.splits import DataError, Source, Split
from nhn_tf.storage import files

SUFFIXES = (".png", ".jpg", ".jpeg")
# Part of the cache's key: raise it when decoding changes.
_DECODER_VERSION = 1
_CHUNK = 256
# Unusable images that are named one by one.
_TOLD = 10
_logger = logging.getLogger(__name__)
_CACHE_NAME = "folder-"  # how the names of cached images begin


@dataclass(frozen=True)
class _Listing:
    """The images of one split: paths relative to the root, stamps for the cache's key, labels."""

    paths: tuple[str, ...]
    stamps: tuple[str, ...]
    labels: np.ndarray


def read(root: Path, *, image_size: int, cache_dir: Path) -> Source:
    """Reads an image folder, from the cache where it is unchanged.

    Args:
      root: the folder, DIR above.
      image_size: side of the images, scaled and cropped to a square; 0 keeps them as they are.
      cache_dir: where decoded folders are kept.

    Raises:
      DataError: the folder is missing, empty or laid out otherwise, or an image is unusable.
    """
    try:
        train, test, class_names = _list(root)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from None
    images = _cached(root, train, test, image_size=image_size, cache_dir=cache_dir)
    count = len(train.paths)
    test_split = None if test is None else Split(images[count:], test.labels)
    return Source(Split(images[:count], train.labels), test_split, class_names, flip=True)


def _list(root: Path) -> tuple[_Listing, _Listing | None, tuple[str, ...]]:
    """Lists the training and test images, and names the classes."""
    train_root, test_root = _find_splits(root)
    class_names = _class_names(train_root)
    train = _list_images(root, train_root, class_names)
    if test_root is None:
        return train, None, class_names
    if unknown := sorted(set(_class_names(test_root)) - set(class_names)):
        raise DataError(
            f"{test_root} has a class that {train_root} has not: '{unknown[0]}'.\n"
            "Every test class needs training images. Rename or remove it."
        )
    return train, _list_images(root, test_root, class_names), class_names


def _find_splits(root: Path) -> tuple[Path, Path | None]:
    if not root.is_dir():
        raise DataError(f"There is no folder {root}. Pass --data_dir=DIR, DIR holding train/<class>/.")
    train, test = root / "train", root / "test"
    if train.is_dir():
        return train, test if test.is_dir() else None
    if test.is_dir():
        raise DataError(f"{root} has test/ but no train/. Put the training images in {train}/<class>/.")
    return root, None


def _class_names(root: Path) -> tuple[str, ...]:
    """Names of the class folders of a split, sorted; hidden ones are left out."""
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    names = [name for name in names if not name.startswith((".", "__"))]
    if len(names) < 2:
        raise DataError(
            f"{root} must hold at least two class folders. Found: {', '.join(names) or 'none'}.\n"
            "Expected images at train/<class>/*.png (or .jpg), or at <class>/*.png, under --data_dir."
        )
    return tuple(names)


def _list_images(root: Path, split_root: Path, class_names: Sequence[str]) -> _Listing:
    """Lists a split class by class, each sorted by name. Test splits may lack a class."""
    paths, stamps, labels = [], [], []
    prefix = "" if split_root == root else f"{split_root.name}/"
    for label, name in enumerate(class_names):
        folder = split_root / name
        if not folder.is_dir():
            continue
        entries = sorted((entry for entry in os.scandir(folder) if _is_image(entry)), key=lambda e: e.name)
        if not entries:
            raise DataError(
                f"Class folder {folder} holds no image. Expected: {', '.join(SUFFIXES)} files.\n"
                "Add images or remove the folder."
            )
        for entry in entries:
            paths.append(f"{prefix}{name}/{entry.name}")
            stamps.append(_stamp(entry))
        labels += [label] * len(entries)
    return _Listing(tuple(paths), tuple(stamps), np.array(labels, np.int32))


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Goes by the name: what is called an image and is none must not be left out in silence."""
    return entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")


def _stamp(entry: os.DirEntry[str]) -> str:
    """Changes when the file is rewritten; empty for a link to nowhere, which decoding will name."""
    try:
        status = entry.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _cached(root: Path, train: _Listing, test: _Listing | None, *, image_size: int, cache_dir: Path) -> np.ndarray:
    """Images of both splits one after the other, uint8 [N, H, W, C], decoded at most once."""
    listings = [train] if test is None else [train, test]
    paths = [path for listing in listings for path in listing.paths]
    stamps = [stamp for listing in listings for stamp in listing.stamps]
    cache = cache_dir / f"{_CACHE_NAME}{_digest(paths, stamps, image_size)}.npz"
    try:
        images = files.load_npz(cache).get("images", np.empty(0))
        if images.dtype == np.uint8 and images.ndim == 4 and len(images) == len(paths):
            return images
        _logger.warning("Decoding %s again: %s holds other images.", root, cache)
    except FileNotFoundError:
        pass
    except files.DamagedFileError as error:
        _logger.warning("Decoding %s again: %s", root, error)
    print(f"Decoding {len(paths):,} images of {root} (kept in {cache}).", file=sys.stderr)
    images = decode_all(root, paths, image_size=image_size)
    try:
        files.remove_leftovers(cache_dir, of=_CACHE_NAME, older_than_s=3600)
        files.save_npz(cache, {"images": images})
    except OSError as error:
        _logger.warning("The decoded images of %s could not be kept in %s: %s", root, cache, error)
    return images


def _digest(paths: Sequence[str], stamps: Sequence[str], image_size: int) -> str:
    """Changes when a file is added, removed, renamed or rewritten, or is to be decoded otherwise."""
    sha = hashlib.sha256(f"{_DECODER_VERSION} {image_size}\n".encode())
    for path, stamp in zip(paths, stamps, strict=True):
        sha.update(f"{stamp} {path}\0".encode("utf-8", "surrogateescape"))
    return sha.hexdigest()[:24]


def decode_all(root: Path, paths: Sequence[str], *, image_size: int) -> np.ndarray:
    """Decodes images of one size on all cores.

    Args:
      root: the folder that `paths` are relative to.
      paths: at least one image.
      image_size: side of the square to scale and crop them to; 0 keeps their size.

    Returns:
      uint8 [N, H, W, 1] where every image is grey, else [N, H, W, 3].

    Raises:
      DataError: images are unusable, all of which are named, or (without `image_size`) of another size than the first.
    """
    shape = (image_size, image_size) if image_size else _first_shape(root, paths)
    _check_memory(root, len(paths), shape)
    images = np.empty((len(paths), *shape, 3), np.uint8)
    faults: list[tuple[int, DataError]] = []
    others: list[tuple[int, tuple[int, ...]]] = []

    def fill(start: int) -> bool:
        """Decodes one chunk in place; returns whether it holds colour."""
        colour = False
        for row, path in enumerate(paths[start : start + _CHUNK], start):
            try:
                image = pictures.decode(root / path, image_size=image_size)
            except DataError as error:
                faults.append((row, error))
                continue
            if image.shape[:2] != shape:
                others.append((row, image.shape))
                continue
            colour |= image.shape[2] == 3
            images[row] = image
        return colour

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        colour = any(list(pool.map(fill, range(0, len(paths), _CHUNK))))
    if faults:
        raise _faults_error(root, len(paths), [error for _, error in sorted(faults, key=lambda fault: fault[0])])
    if others:
        row, other_shape = min(others)
        raise _size_error(root, paths[0], shape, paths[row], other_shape)
    return images if colour else np.ascontiguousarray(images[..., :1])


def _first_shape(root: Path, paths: Sequence[str]) -> tuple[int, int]:
    """Height and width of the first image that can be decoded; (0, 0) when none can."""
    for path in paths:
        with contextlib.suppress(DataError):
            height, width = pictures.decode(root / path).shape[:2]
            return height, width
    return 0, 0


def _check_memory(root: Path, count: int, shape: tuple[int, int]) -> None:
    """Refuses what would not fit into memory with a copy of it, before the machine comes to a standstill."""
    needed, there = count * shape[0] * shape[1] * 3, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 2 * needed > there:
        raise DataError(
            f"The {count:,} images of {root}, {shape[1]} x {shape[0]}, take {needed / 2**30:,.1f} GiB of memory, "
            f"twice while they are divided. There are {there / 2**30:,.1f} GiB.\n"
            "Pass --image_size=N to scale and crop all of them to N x N pixels."
        )


def _faults_error(root: Path, count: int, faults: Sequence[DataError]) -> DataError:
    """Names every unusable image, the first ten of many with their reasons."""
    if len(faults) == 1:
        return faults[0]
    lines = [f"{len(faults):,} of the {count:,} images of {root} cannot be used:"]
    lines += [f"  {str(fault).splitlines()[0]}" for fault in faults[:_TOLD]]
    if len(faults) > _TOLD:
        lines.append(f"  and {len(faults) - _TOLD:,} more.")
    return DataError("\n".join([*lines, "Replace or remove them."]))


def _size_error(root: Path, first: str, shape: tuple[int, ...], other: str, other_shape: tuple[int, ...]) -> DataError:
    return DataError(
        f"The images of {root} differ in size:\n"
        f"{first} is {shape[1]} x {shape[0]}, {other} is {other_shape[1]} x {other_shape[0]}.\n"
        "Pass --image_size=N to scale and crop all of them to N x N pixels."
    )
