"""SIGINT, SIGTERM, SIGHUP: the step under way is finished, a checkpoint is written, and the process ends.

    stopping.listen()                # once, in a script
    with stopping.deferred():        # while a stop can wait for the end of a step
        for ...:
            step()
            if stopping.requested():
                save()
                stopping.check()     # raises Stopped

Outside of `deferred` a signal raises `Stopped` where the main thread is. A second signal ends the process at once,
except right behind the first: `timeout` and terminals send one to a process and to its group, which is one wish.

Python runs a signal's handler between two steps of the main thread's own code, which a compilation in native code can
put off for minutes, and what a handler raises is lost if that happens to be a callback from native code. So the handler
only raises when nothing is deferred, and a thread that is told of signals at once does the rest.

A reader who has gone (`search.py | head -1`, a closed terminal) asks for the same, as SIGPIPE: Python has that signal
ignored, since it comes from any socket too, so writing to the standard streams is what notices.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, Final, TextIO

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONE_WISH_SECONDS: Final = 1.0
"""A signal so soon after the first is part of the same wish."""

_requested: int | None = None
_heir: Callable[[int], None] | None = None
_deferrals = 0
_raised = False


class Stopped(BaseException):
    """The user wants the process to end. No `Exception`, so that nothing that recovers from errors swallows it.

    Attributes:
      signal: its number.
      saved: where things stand, in words; "" if there was nothing to save.
    """

    def __init__(self, signum: int, saved: str = ""):
        super().__init__(signum, saved)
        self.signal = signum
        self.saved = saved


def listen() -> None:
    """Takes over `SIGNALS` and the standard streams; to be called in the main thread, once."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # so a shell protects what it runs in the background
            signal.signal(number, _raise_unless_deferred)
    for name in ("stdout", "stderr"):
        setattr(sys, name, Outlet(getattr(sys, name)))


def requested() -> int | None:
    """The signal that asked the process to end, if one has."""
    return _requested


def hand_over(heir: Callable[[int], None]) -> None:
    """Has signals given to `heir`, who sees to it that the process ends; they are not acted upon here."""
    global _heir
    _heir = heir


def request(signum: int | None) -> None:
    """Asks the process to end as a signal would, or, with None, takes that back."""
    global _requested, _raised
    if _heir is not None and signum is not None:
        return _heir(signum)
    _requested = signum
    if signum is None:
        _raised = False


def check(saved: str = "") -> None:
    """Raises `Stopped` if the process was asked to end; `saved` says where things stand."""
    global _raised
    if _requested is not None:
        _raised = True
        raise Stopped(_requested, saved)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within, a signal is only noted: whoever works there looks at `requested` now and then."""
    global _deferrals
    check()
    _deferrals += 1
    try:
        yield
    finally:
        _deferrals -= 1
    check()


def name_of(signum: int) -> str:
    """Such as "SIGTERM"."""
    return signal.Signals(signum).name


class Outlet:
    """A standard stream for which a reader who has gone is a wish to end, not an error.

    What is written from then on goes nowhere.

    Args:
      stream: to write to.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with self._while_it_is_read():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._while_it_is_read():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _while_it_is_read(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: a terminal that was closed
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if threading.current_thread() is threading.main_thread():
                _raise_unless_deferred(signal.SIGPIPE, None)
            elif _requested is None:
                request(signal.SIGPIPE)


def _raise_unless_deferred(signum: int, frame: FrameType | None) -> None:
    if _requested is None:
        request(signum)
    if not _deferrals and not _raised:  # a signal right behind must not disturb those who tidy up
        check()


def _watch(reader: int) -> None:
    """Reads the numbers of signals, one byte each, as they arrive."""
    first = None
    while True:
        for signum in os.read(reader, 64):
            if signum not in SIGNALS:
                continue
            if first is None:
                first = time.monotonic()
                request(signum)
                if _deferrals and _heir is None:
                    _say(f"{name_of(signum)}: finishing this step and saving; once more stops at once")
            elif time.monotonic() - first > ONE_WISH_SECONDS:
                _say(f"{name_of(signum)} again: stopped at once; the last checkpoint stays")
                os._exit(128 + signum)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        print(f"\n{line}", file=sys.stderr, flush=True)
