"""What a script shows on a terminal: one line that is written anew while a stage runs, and warnings that stand out.

    terminal.take_over()             # once, in a script: the streams of Python callers and notebooks stay as they are
    if terminal.live:
        terminal.live.show("base epoch 3/60 ...")

Whatever else is written through `sys.stdout` and `sys.stderr` takes the line's place, and the line comes back below it
when it is next shown: nothing is written into it, and none is left over at the end. What native code writes to the
descriptor itself comes behind it, whole.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import unicodedata
from typing import Final, TextIO

from nhn_tf.storage.stopping import Outlet

CLEAR: Final = "\r\x1b[K"
_MARKED: Final = re.compile(r"^(?:(warning)|error):", re.MULTILINE)
_SPARE: Final = 3
"""Columns that stay free: a terminal shows ^C behind the line, and must not wrap it."""

live: Live | None = None
"""The line, where standard output is a terminal that can write one anew, and a script has taken it over."""
quiet = False
"""Whether only warnings and errors are to be told."""


class Live:
    """The last line of a terminal.

    The width is asked for each time; of a line that was longer than a terminal made narrower a part can stay above.

    Args:
      stream: the terminal.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._stands = False
        self._is_begun = False  # some other line, which has not ended
        self.lock = threading.RLock()

    def show(self, line: str) -> None:
        """Writes the line in the place of the one before."""
        with self.lock:
            begin = "\n" if self._is_begun else CLEAR
            self._stands, self._is_begun = True, False
            self._stream.write(begin + cut(line, self._columns() - _SPARE))
            self._stream.flush()

    def make_way(self, text: str) -> None:
        """Takes the line away, since `text` is to be written in its place."""
        if self._stands:
            self._stands = False
            self._stream.write(CLEAR)
            self._stream.flush()
        self._is_begun = not text.endswith("\n")

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except OSError:  # it has been closed
            return 80


def cut(line: str, width: int) -> str:
    """As much of a line as fits into so many columns; wide characters take two."""
    for end, character in enumerate(line):
        if not unicodedata.combining(character):
            width -= 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if width < 0:
            return line[:end]
    return line


class _Terminal(Outlet):
    """A standard stream that is a terminal: others' lines take the live one's place, and warnings get a colour.

    Args:
      stream: to write to.
      is_coloured: whether they do.
    """

    def __init__(self, stream: TextIO, *, is_coloured: bool):
        super().__init__(stream)
        self._is_coloured = is_coloured

    def write(self, text: str) -> int:
        shown = _MARKED.sub(_in_colour, text) if self._is_coloured else text
        if live is None or not text:
            super().write(shown)
            return len(text)
        with live.lock:
            live.make_way(text)
            super().write(shown)
            self.flush()
        return len(text)


def _in_colour(match: re.Match) -> str:
    return f"\x1b[{33 if match[1] else 31}m{match[0]}\x1b[0m"


class _Warnings(Outlet):
    """Standard output of who is to be quiet: warnings go to standard error, all else nowhere."""

    _is_warning = False

    def write(self, text: str) -> int:
        self._is_warning = self._is_warning or _MARKED.match(text) is not None
        if self._is_warning:
            sys.stderr.write(text)
            self._is_warning = not text.endswith("\n")
        return len(text)


def take_over() -> None:
    """Takes over the standard streams that are terminals; once, in a script.

    The environment variable NO_COLOR keeps it from colours, as no-color.org says; TERM=dumb from all of it.
    """
    global live
    if os.environ.get("TERM", "dumb") == "dumb":
        return
    out = sys.stdout
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream.isatty():
            setattr(sys, name, _Terminal(stream, is_coloured=not os.environ.get("NO_COLOR")))
    if out.isatty():
        live = Live(out)


def be_quiet() -> TextIO:
    """Tells only warnings and errors from now on, on standard error.

    Returns:
      Standard output as it was before, for results.
    """
    global live, quiet
    live, quiet = None, True
    out, sys.stdout = sys.stdout, _Warnings(sys.stdout)  # type: ignore[assignment]
    return out


def note(line: str) -> None:
    """Tells something by the way, on standard error."""
    if not quiet:
        print(line, file=sys.stderr, flush=True)
