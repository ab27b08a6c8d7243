"""Where a user's files are kept when nothing is said about it, also where the user has no home."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def expanded(text: str) -> Path:
    """A path with the user's home directory put in; `~nobody` stays as it is (and will not be found)."""
    return Path(os.path.expanduser(text))


def cache_directory(asked: str) -> Path:
    """The folder for what can be made again: the one asked for, or nhn_tf in the user's cache."""
    if asked:
        return expanded(asked)
    return Path(os.environ["XDG_CACHE_HOME"], "nhn_tf") if os.environ.get("XDG_CACHE_HOME") else home(".cache/nhn_tf")


def home(name: str) -> Path:
    """A folder of the user's home; where there is none, of the directory for temporary files, which is said.

    In containers that run under a number without a name, `~` stands for nothing, and would be the name of a folder.
    """
    directory = os.path.expanduser("~")
    if os.path.isabs(directory):
        return Path(directory, name)
    temporary = Path(tempfile.gettempdir(), f"home-of-{os.getuid()}")
    temporary.mkdir(mode=0o700, exist_ok=True)
    if temporary.stat().st_uid != os.getuid():  # another user's: what lies there is not to be trusted
        temporary = Path(tempfile.mkdtemp(prefix="home-"))
    print(f"warning: this user has no home directory; {temporary / name} is used in its place.", file=sys.stderr)
    return temporary / name
