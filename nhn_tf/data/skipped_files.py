"""Files of a data set that are not read: none is dropped without being tallied and named."""

from __future__ import annotations

import collections
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

HIDDEN: Final = "hidden"
LOOSE: Final = "outside class folders"
LOOPED: Final = "links to a folder above"
UNREADABLE: Final = "unreadable"
NO_SUFFIX: Final = "without a suffix"


@dataclass(frozen=True)
class LeftOut:
    """One file, or row of a table, that is not read.

    Attributes:
      name: its path below the data set's root, as `readable` writes it.
      kind: what is tallied: a suffix such as ".heic", or a few words.
      reason: what there is to say beyond the kind.
    """

    name: str
    kind: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}{': ' if self.reason else ''}{self.reason})"


def tally(left_out: Iterable[LeftOut]) -> dict[str, int]:
    """How many files were left out for what, the most frequent first."""
    counts = collections.Counter(file.kind for file in left_out)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def in_words(counts: dict[str, int]) -> str:
    """A tally as a sentence: "60 files left out: 40 .heic, 20 unreadable"."""
    total = sum(counts.values())
    parts = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    return f"{total:,} file{'s' if total > 1 else ''} left out: {parts}"


def readable(path: str) -> str:
    """A path as text that any file and screen can show, the same whatever the locale.

    The file system's bytes are read as UTF-8; those that are none are written as \\xNN.
    """
    return one_form(os.fsencode(path).decode("utf-8", "backslashreplace"))


def one_form(text: str) -> str:
    """Text with one spelling of what Unicode can write in two (a letter and its accent, or one sign for both: NFC).

    Control characters, such as the end of a line, are written as \\xNN.
    """
    text = unicodedata.normalize("NFC", text)
    return "".join(f"\\x{ord(sign):02x}" if unicodedata.category(sign) == "Cc" else sign for sign in text)
