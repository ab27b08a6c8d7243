"""The directory in which a search is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from nhn_tf.storage import files

STATE: Final = "state.npz"


class Project:
    """A directory with the state of one search, which one object at a time goes on with.

    Args:
      directory: it need not exist.

    Attributes:
      path: of the state.
    """

    def __init__(self, directory: Path):
        self.path = directory / STATE
        self._known = self._stamp()

    def read(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays and values of the state.

        Raises:
          FileNotFoundError: there is none yet.
          DamagedFileError: it cannot be read.
        """
        stamp = self._stamp()
        state = files.load_sealed_npz(self.path)
        self._known = stamp
        return state

    def write(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Writes the state, atomically."""
        try:
            files.save_sealed_npz(self.path, arrays, values)
        finally:
            self._known = self._stamp()  # also where Ctrl-C comes right behind the write

    def check_unchanged(self) -> None:
        """Refuses to go on beside another search that has written here since this one began, read or wrote.

        What is gone is written again.

        Raises:
          ValueError: one has.
        """
        if self._stamp() not in (None, self._known):
            raise ValueError(
                f"{self.path} has been written by another search meanwhile. Make this one anew to go on from there, or "
                "give it another `project_name`."
            )

    def _stamp(self) -> tuple[int, int, int] | None:
        """What tells one state file from another; None without one.

        Raises:
          ValueError: the directory would lie within a file.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise ValueError(f"`directory` must not lead through a file. Received: {self.path.parent}.") from None
        return status.st_ino, status.st_mtime_ns, status.st_size
