"""The images of a listing, decoded: its splits as arrays, its unreadable pictures named."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nhn_tf.data import skipped_files
from nhn_tf.data.decoding import decode_all
from nhn_tf.data.listing import SPLITS, TEST, TRAIN, VAL, Listing
from nhn_tf.data.skipped_files import LeftOut, readable
from nhn_tf.data.splits import DataError, Source, Split


def read(listing: Listing, *, image_size: int, cache_dir: Path) -> Source:
    """Reads the pictures of a listing.

    Args:
      listing: what to read.
      image_size: as for `decode_all`.
      cache_dir: where decoded pictures are kept.

    Raises:
      DataError: no picture of a class, or of any, can be read.
    """
    listed = [(split, picture) for split in SPLITS for picture in listing.splits.get(split, ())]
    decoded = decode_all(
        listing.root, [picture.path for _, picture in listed], image_size=image_size, cache_dir=cache_dir
    )
    used = decoded.used(len(listed))
    split_of = np.array([split for split, _ in listed])[used]
    number = {name: label for label, name in enumerate(listing.class_names)}
    labels = np.array([number[picture.class_name] for _, picture in listed], np.int32)[used]
    unreadable = tuple(
        LeftOut(readable(listed[row][1].path), skipped_files.UNREADABLE, reason)
        for row, reason in decoded.faults.items()
    )

    def part(split: str) -> Split | None:
        rows = np.flatnonzero(split_of == split)
        return Split(decoded.images[rows[0] : rows[-1] + 1], labels[rows]) if len(rows) else None

    train = part(TRAIN)
    learnt = set() if train is None else set(train.labels.tolist())
    if train is None or len(learnt) < len(number):
        lost = next(name for name, label in number.items() if label not in learnt)
        first = next(picture for split, picture in listed if split == TRAIN and picture.class_name == lost)
        reason = next(file.reason for file in unreadable if file.name == readable(first.path))
        raise DataError(
            f"None of the training images of class '{lost}' in {listing.root} can be read.\n"
            f"The first: {readable(first.path)} {reason}. Replace them or remove the class."
        )
    return Source(
        train=train,
        test=part(TEST),
        class_names=listing.class_names,
        flip=None,
        val=part(VAL),
        left_out=(*listing.left_out, *unreadable),
        choices={"image_size": decoded.size},
    )
