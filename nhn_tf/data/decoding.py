"""Many pictures as one array: decoded on all cores, once, and kept in a cache.

Letters: N files, n of them readable, H W height and width, C channels (1 where every picture is grey, else 3).
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from nhn_tf.data import pictures
from nhn_tf.data.splits import Choice, DataError
from nhn_tf.settings import MAX_IMAGE_SIZE
from nhn_tf.storage import files, terminal

# Part of the cache's key: raise it when decoding changes.
_DECODER_VERSION = 2
_CHUNK = 256
_CACHE_NAME = "folder-"  # how the names of cached images begin
_logger = logging.getLogger(__name__)

SIZE_STEP: Final = 4
"""Networks of three segments halve the images twice."""
SMALLEST_CHOSEN: Final = 8
LARGEST_CHOSEN: Final = 64
"""Chosen sizes only: networks here keep the full resolution in a third of their layers, and cost four times as much at
twice the size."""

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Decoded:
    """The pictures of a list of files.

    Attributes:
      images: uint8 [n, H, W, C].
      faults: number of each unreadable file in the list -> why.
      size: the side they were scaled and cropped to; 0 where they were left as they are.
    """

    images: np.ndarray
    faults: dict[int, str]
    size: Choice

    def used(self, count: int) -> np.ndarray:
        """The numbers of the readable ones among `count` files, int [n]."""
        return np.array([number for number in range(count) if number not in self.faults], np.intp)


def decode_all(root: Path, paths: Sequence[str], *, image_size: int, cache_dir: Path) -> Decoded:
    """Decodes pictures, from the cache where neither the root nor a file has changed.

    Args:
      root: the folder that `paths` are relative to.
      paths: the files.
      image_size: side of the square to scale and crop them to. 0 keeps their size where they all have one that fits,
        and else chooses by them, see `choose_size`.
      cache_dir: where decoded pictures are kept.

    Raises:
      DataError: no file can be read, or they would not fit into memory.
    """
    cache = cache_dir / f"{_CACHE_NAME}{_key(root, paths, image_size)}.npz"
    try:
        arrays, values = files.load_sealed_npz(cache)
        decoded = _unpacked(arrays, values)
        if len(decoded.images) == len(paths) - len(decoded.faults):
            return decoded
        _logger.warning("Decoding %s again: %s holds other images.", root, cache)
    except FileNotFoundError:
        pass
    except (files.DamagedFileError, KeyError, TypeError, ValueError) as error:
        _logger.warning("Decoding %s again: %s", root, error)
    terminal.note(f"Decoding {len(paths):,} images of {root} (kept in {cache}).")
    decoded = _decode(root, paths, image_size)
    try:
        files.remove_leftovers(cache_dir, of=_CACHE_NAME, older_than_s=3600)
        files.save_sealed_npz(cache, *_packed(decoded))
    except OSError as error:
        _logger.warning("The decoded images of %s could not be kept in %s: %s", root, cache, error)
    return decoded


def _packed(decoded: Decoded) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    faults = [[number, reason] for number, reason in decoded.faults.items()]
    return {"images": decoded.images}, {"faults": faults, "size": decoded.size.to_json()}


def _unpacked(arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Decoded:
    images = arrays["images"]
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError("the cache holds no images")
    return Decoded(images, {int(number): str(reason) for number, reason in values["faults"]}, Choice(**values["size"]))


def _key(root: Path, paths: Sequence[str], image_size: int) -> str:
    """Changes with the root, and when a file is added, removed, renamed or written, or is to be decoded otherwise."""
    sha = hashlib.sha256(f"{_DECODER_VERSION} {image_size}\n".encode() + os.fsencode(root.absolute()) + b"\0")
    for path in paths:
        sha.update(_stamp(root / path).encode() + os.fsencode(path) + b"\0")
    return sha.hexdigest()[:24]


def _stamp(path: Path) -> str:
    """Stands for a file's content; "" for a link to nowhere, which decoding will name.

    Archives are unpacked, and folders copied, with the times of modification of the files that they were made from.
    What no program can set is the time of the last change of the file's entry, and its number.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):  # a name with a zero byte, from a table
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino} "


def _decode(root: Path, paths: Sequence[str], image_size: int) -> Decoded:
    faults: dict[int, str] = {}

    def each(read: Callable[[int, Path], Result]) -> list[Result]:
        """What `read` gives for the readable files; the others are noted."""

        def chunk(start: int) -> list[Result]:
            results = []
            for number, path in enumerate(paths[start : start + _CHUNK], start):
                try:
                    if number not in faults:
                        results.append(read(number, root / path))
                except DataError as error:
                    faults[number] = _reason(error, root / path)
            return results

        with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
            return [result for part in pool.map(chunk, range(0, len(paths), _CHUNK)) for result in part]

    shape, size = (image_size, image_size), Choice(image_size, "as asked")
    if not image_size:
        shape, size = choose_size(each(lambda _, path: pictures.upright_size(path)))
    _check_memory(root, len(paths), shape)
    images = np.empty((len(paths), *shape, 3), np.uint8)

    def fill(number: int, path: Path) -> bool:
        """Decodes one file in place; returns whether it holds colour."""
        image = pictures.decode(path, image_size=shape)
        images[number] = image
        return image.shape[2] == 3

    coloured = any(each(fill))
    if len(faults) == len(paths):
        raise DataError(f"None of the {len(paths):,} images of {root} can be read. The first: {faults[0]}.")
    if faults:
        images = np.delete(images, list(faults), axis=0)
    if not coloured:
        images = np.ascontiguousarray(images[..., :1])
    return Decoded(images, dict(sorted(faults.items())), size)


def _reason(error: DataError, path: Path) -> str:
    """What a picture's error says beside its name."""
    return str(error).splitlines()[0].removeprefix(str(path)).strip().rstrip(".")


def choose_size(sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], Choice]:
    """The size of a data set's images where none was asked for.

    Pictures of one size that fits stay as they are, square or not. Others become squares, as large as the shorter side
    of the middle one; where sizes differ or are too large, no larger than what such networks train on in minutes.

    Args:
      sizes: (height, width) of each picture; at least one, or the choice is of nothing.

    Returns:
      (height, width), and the setting that it amounts to.
    """
    distinct = sorted(set(sizes), key=lambda size: (math.prod(size), size))  # by pixels
    if not distinct:
        return (0, 0), Choice(0, "no picture can be read")
    smallest, largest = (f"{width} x {height}" for height, width in (distinct[0], distinct[-1]))
    shorter = sorted(min(size) for size in sizes)
    side = max(shorter[len(shorter) // 2] // SIZE_STEP * SIZE_STEP, SMALLEST_CHOSEN)
    if len(distinct) > 1 or max(distinct[0]) > MAX_IMAGE_SIZE:
        side = min(side, LARGEST_CHOSEN)
    if len(distinct) > 1:
        return (side, side), Choice(side, f"the pictures differ in size, from {smallest} to {largest}")
    height, width = distinct[0]
    if height % SIZE_STEP == width % SIZE_STEP == 0 and max(height, width) <= MAX_IMAGE_SIZE:
        return (height, width), Choice(0, f"every picture is {smallest}")
    why = f"every picture is {smallest}; sides must be multiples of {SIZE_STEP}, at most {MAX_IMAGE_SIZE}"
    return (side, side), Choice(side, why)


def _check_memory(root: Path, count: int, shape: tuple[int, int]) -> None:
    """Refuses what would not fit into memory with a copy of it, before the machine comes to a standstill."""
    needed, there = count * shape[0] * shape[1] * 3, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 2 * needed > there:
        raise DataError(
            f"The {count:,} images of {root}, {shape[1]} x {shape[0]}, take {needed / 2**30:,.1f} GiB of memory, "
            f"twice while they are divided. There are {there / 2**30:,.1f} GiB.\n"
            "Pass `image_size`=N to scale and crop all of them to N x N pixels."
        )
