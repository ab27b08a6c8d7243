"""Paths that every library takes for a name: TensorFlow reads brackets, stars and question marks as patterns."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PLAIN: Final = re.compile(r"[\w./~ -]+", re.ASCII)


def is_plain(path: Path) -> bool:
    """Whether no library finds more in a path than a name."""
    return bool(_PLAIN.fullmatch(str(path.absolute())))


@contextlib.contextmanager
def plain_path(directory: Path) -> Iterator[Path]:
    """A path to a directory that `is_plain`: its own, or for a while a link to it among the temporary files."""
    if is_plain(directory):
        yield directory
        return
    temporary = Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix="nhn-", dir=temporary if is_plain(temporary) else "/tmp") as place:
        link = Path(place, "link")
        link.symlink_to(directory.absolute(), target_is_directory=True)
        yield link
