"""Pictures by split and class, before any of them is opened; and what all kinds of listings need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nhn_tf.data.skipped_files import LeftOut
from nhn_tf.data.splits import DataError

TRAIN: Final = "train"
VAL: Final = "val"
TEST: Final = "test"
SPLITS: Final = (TRAIN, VAL, TEST)
_SYNONYMS: Final = {
    TRAIN: ("train", "training"),
    VAL: ("val", "valid", "validation", "eval", "dev"),
    TEST: ("test", "testing"),
}
SPLIT_CALLED: Final = {word: split for split, words in _SYNONYMS.items() for word in words}
"""Usual names of the splits, in lower case."""


@dataclass(frozen=True, order=True)
class Picture:
    """A file of a split; pictures sort by class, then by the name that all locales give them.

    Attributes:
      class_name: what it shows, as `skipped_files.readable` writes it.
      name: its path below its class, likewise.
      path: its path below the listing's root, as the operating system has it.
    """

    class_name: str
    name: str
    path: str


@dataclass(frozen=True)
class Listing:
    """The pictures of a data set.

    Attributes:
      root: what their paths start from.
      splits: the pictures of each split that there is, sorted; "train" is one of them.
      left_out: the files that are none of these.

    Raises:
      DataError: there are not two classes to learn, or there is one in another split that none of the training pictures
        shows.
    """

    root: Path
    splits: dict[str, tuple[Picture, ...]]
    left_out: tuple[LeftOut, ...]

    def __post_init__(self) -> None:
        names = self.class_names
        if len(names) < 2:
            raise DataError(
                f"{self.root} must hold at least two classes of training images. Found: {', '.join(names) or 'none'}."
            )
        for split, listed in self.splits.items():
            if unknown := sorted({picture.class_name for picture in listed} - set(names)):
                raise DataError(
                    f"The {split} images of {self.root} have a class that the training images have not: "
                    f"'{unknown[0]}'.\nEvery class needs training images. Rename or remove it."
                )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the training pictures, sorted."""
        return tuple(sorted({picture.class_name for picture in self.splits.get(TRAIN, ())}))
