"""The kinds of error that scripts show without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """A flag, a file or a directory of the user's is at fault.

    The message has one to three lines: the rule, what was received, what to do.
    """


class RunError(UserError):
    """The run directory does not admit what was asked; the message says what to do."""
