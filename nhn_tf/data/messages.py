"""What is said when a data set is read: classes, counts, choices, and every file that is left out."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Final

import numpy as np

from nhn_tf.data import skipped_files
from nhn_tf.data.splits import Dataset
from nhn_tf.storage import files, terminal

NAMED: Final = 10
"""Files that are named on the screen; a text file names them all."""
LISTED: Final = 30
"""Classes whose counts are printed."""


def tell(dataset: Dataset, *, where: Path, cache_dir: Path) -> None:
    """Prints what a data set holds.

    Args:
      dataset: what was read.
      where: from where.
      cache_dir: where the names of files are written that are too many for the screen.
    """
    parts = {"training": dataset.train, "validation": dataset.val, "test": dataset.test}
    counts = np.bincount(np.concatenate([split.labels for split in parts.values()]), minlength=dataset.num_classes)
    height, width, channels = dataset.image_shape
    terminal.note(
        f"{where}: {sum(map(len, parts.values())):,} images of {dataset.num_classes} classes, {width} x {height}, "
        f"{'grey' if channels == 1 else 'colour'} ({', '.join(f'{len(s):,} {name}' for name, s in parts.items())})"
    )
    listed = [f"{name} {count:,}" for name, count in zip(dataset.class_names, counts, strict=True)]
    more = f", and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    terminal.note(f"  classes: {', '.join(listed[:LISTED])}{more}")
    for name, choice in dataset.choices.items():
        if name != "image_size" or choice.value:  # 0 leaves them as they are
            terminal.note(f"  `{name}`={choice.value}: {choice.why}")
    for name in ("validation", "test"):
        present = set(parts[name].labels.tolist())
        if missing := [c for label, c in enumerate(dataset.class_names) if label not in present]:
            _print(f"warning: the {name} images show {len(present)} of {dataset.num_classes} classes; none shows "
                   f"{', '.join(map(repr, missing[:NAMED]))}")  # fmt: skip
    if dataset.left_out:
        _tell_left_out(dataset.left_out, where, cache_dir)


def _tell_left_out(left: tuple[skipped_files.LeftOut, ...], where: Path, cache_dir: Path) -> None:
    _print(f"warning: {skipped_files.in_words(skipped_files.tally(left))}")
    for entry in left[:NAMED]:
        _print(f"  {entry}")
    if len(left) > NAMED:
        root = hashlib.sha256(os.fsencode(where.absolute())).hexdigest()[:24]
        path = cache_dir / f"left-out-{root}.txt"
        try:
            with files.atomic_write(path, "w") as file:
                file.writelines(f"{entry}\n" for entry in left)
        except OSError:
            for entry in left[NAMED:]:
                _print(f"  {entry}")
        else:
            _print(f"  and {len(left) - NAMED:,} more; {path} names them all")


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
