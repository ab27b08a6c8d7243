"""What an image folder holds: its splits, its classes, their pictures, and the files that are none.

Layouts: `DIR/<class>/**`, or `DIR/train/<class>/**` with any of `val/` and `test/` beside it, also under their usual
other names. Whatever lies deeper counts into its class.

A path is a tuple of names below the root here, as the operating system has them.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from nhn_tf.data import skipped_files
from nhn_tf.data.listing import SPLIT_CALLED, TRAIN, Listing, Picture
from nhn_tf.data.pictures import SUFFIXES
from nhn_tf.data.skipped_files import LeftOut, readable
from nhn_tf.data.splits import DataError

Parts = tuple[str, ...]


def read(root: Path) -> Listing:
    """Lists the pictures of a folder; every other file in it is left out by name.

    Raises:
      DataError: there is no such folder, it cannot be read, or it is laid out otherwise.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}. Pass `data_dir`=DIR, DIR holding train/<class>/ or <class>/.")
    try:
        folders, files, links = _walk(root)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from None
    outside = {file: kind for file in files if (kind := _why_no_picture(file))} | dict.fromkeys(
        links, skipped_files.LOOPED
    )
    pictures = [file for file in files if file not in outside]
    split_of = _split_folders(pictures)
    if not split_of:
        _refuse_without_training(root, pictures)
    depth = 1 if split_of else 0  # where the name of the class stands in a path
    splits: dict[str, list[Picture]] = {split: [] for split in split_of.values()} or {TRAIN: []}
    for path in pictures:
        split = split_of.get(path[0]) if split_of else TRAIN
        if split is None or len(path) < depth + 2:
            outside[path] = skipped_files.LOOSE
            continue
        name, below = readable(path[depth]), "/".join(map(readable, path[depth + 1 :]))
        splits[split].append(Picture(name, below, os.path.join(*path)))
    _refuse_empty_classes(root, folders, splits[TRAIN], outside, [top for top in split_of if split_of[top] == TRAIN])
    named = sorted((LeftOut(_text(path), kind) for path, kind in outside.items()), key=lambda file: file.name)
    return Listing(root, {split: tuple(sorted(found)) for split, found in splits.items() if found}, tuple(named))


def pictures_below(root: Path) -> tuple[list[Path], list[LeftOut]]:
    """The pictures of a folder without classes, sorted, and the files in it that are none.

    Raises:
      DataError: it cannot be read.
    """
    try:
        _, files, links = _walk(root)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from None
    outside = {file: kind for file in files if (kind := _why_no_picture(file))} | dict.fromkeys(
        links, skipped_files.LOOPED
    )
    pictures = sorted((file for file in files if file not in outside), key=_text)
    return [root.joinpath(*file) for file in pictures], [LeftOut(_text(path), kind) for path, kind in outside.items()]


def _walk(root: Path) -> tuple[list[Parts], list[Parts], list[Parts]]:
    """All folders and files below `root`, links followed; and the links that lead back to a folder above them."""
    folders: list[Parts] = []
    files: list[Parts] = []
    loops: list[Parts] = []
    waiting: list[tuple[Parts, frozenset[tuple[int, int]]]] = [((), frozenset([_identity(os.stat(root))]))]
    while waiting:
        path, above = waiting.pop()
        for entry in os.scandir(os.path.join(root, *path)):
            here = (*path, entry.name)
            if not _is_folder(entry):
                files.append(here)
            elif (identity := _identity(entry.stat())) in above:
                loops.append(here)
            else:
                folders.append(here)
                waiting.append((here, above | {identity}))
    return folders, files, loops


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _text(path: Parts) -> str:
    return "/".join(map(readable, path))


def _is_hidden(path: Parts, *, file: bool) -> bool:
    """Whether a path lies in a folder such as .thumbnails or __MACOSX, or is one, or a file such as .DS_Store."""
    folders = path[:-1] if file else path
    return any(name.startswith((".", "__")) for name in folders) or path[-1].startswith(".")


def _why_no_picture(path: Parts) -> str:
    """What kind of other file a file is; "" for a picture, by its name alone."""
    if _is_hidden(path, file=True):
        return skipped_files.HIDDEN
    suffix = os.path.splitext(readable(path[-1]))[1].lower()
    return "" if suffix in SUFFIXES else suffix or skipped_files.NO_SUFFIX


def _split_folders(pictures: Iterable[Parts]) -> dict[str, str]:
    """The split that each of the root's folders is for, or {} where the folders are classes.

    A class may be called `train`, and its pictures may lie in folders of their own (`car/2020/`, `train/2020/`).
    """
    tops = _count_inside(pictures)
    called = {top: SPLIT_CALLED[top.casefold()] for top in tops if top.casefold() in SPLIT_CALLED}
    like_splits = {top for top in called if sum(tops[top].values()) > 2 * tops[top][""]}
    training = {top for top in like_splits if called[top] == TRAIN}
    if not training:
        return {}
    others = set(tops) - set(called)
    if others and like_splits == training:  # nothing but a folder called `train` speaks for splits
        inside = {name for top in training for name in tops[top] if name}
        if len(inside) < 2 or any(inside & set(tops[other]) for other in others):
            return {}
    return called


def _count_inside(pictures: Iterable[Parts]) -> dict[str, collections.Counter[str]]:
    """For each folder of the root: how many pictures lie in each of its own folders, and right in it, under ""."""
    tops: dict[str, collections.Counter[str]] = {}
    for path in pictures:
        if len(path) > 1:
            inside = path[1] if len(path) > 2 else ""
            tops.setdefault(path[0], collections.Counter())[inside] += 1
    return tops


def _refuse_without_training(root: Path, pictures: Iterable[Parts]) -> None:
    tops = _count_inside(pictures)
    if tops and all(top.casefold() in SPLIT_CALLED and not inside[""] for top, inside in tops.items()):
        found = ", ".join(f"{readable(top)}/" for top in sorted(tops))
        raise DataError(f"{root} has {found} but no train/. Put the training images in {root / TRAIN}/<class>/.")


def _refuse_empty_classes(
    root: Path, folders: Iterable[Parts], training: Iterable[Picture], outside: dict[Parts, str], tops: list[str]
) -> None:
    """Refuses a class folder without any picture, naming what it holds: the network could never answer it.

    Args:
      root: the data set's.
      folders: all there are.
      training: the training pictures.
      outside: files that are no pictures, with their kind.
      tops: folders of the root that hold the training classes; none where they stand in the root itself.
    """
    known = {picture.class_name for picture in training}
    depth = 1 if tops else 0
    for folder in _visible(folders):
        if len(folder) != depth + 1 or (tops and folder[0] not in tops) or readable(folder[-1]) in known:
            continue
        inside = [LeftOut(_text(path), kind) for path, kind in outside.items() if path[: depth + 1] == folder]
        held = f" ({skipped_files.in_words(skipped_files.tally(inside))})" if inside else ""
        raise DataError(
            f"Class folder {root.joinpath(*folder)} holds no image that can be read{held}.\n"
            f"Expected: {', '.join(SUFFIXES)} files. Add images or remove the folder."
        )


def _visible(folders: Iterable[Parts]) -> Iterator[Parts]:
    return (folder for folder in sorted(folders) if not _is_hidden(folder, file=False))
