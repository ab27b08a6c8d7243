"""Commands called in the test's own process, where Keras is loaded already, which takes five seconds."""

import contextlib
import importlib
import io
import logging
import os
import sys
from subprocess import CompletedProcess
from unittest import mock

from absl.flags import FLAGS

from nhn_tf.storage import stopping, terminal


def call(name, *arguments):
    """What `python NAME.py ARGUMENTS` returns and prints.

    Left out is what takes over a process: its signals and its terminal. What else the command sets is set back.
    """
    main = importlib.import_module(f"flags.commands.{name}").main
    argv = [f"{name}.py", *map(str, arguments)]
    known, out, err, code = set(FLAGS), io.StringIO(), io.StringIO(), 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", argv))
        stack.enter_context(mock.patch.dict(os.environ))
        stack.enter_context(mock.patch.object(stopping, "listen"))
        stack.enter_context(mock.patch.multiple(terminal, take_over=mock.DEFAULT, live=None, quiet=False))
        stack.enter_context(mock.patch.object(logging.getLogger("tensorflow"), "filters", []))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            main()
        except SystemExit as end:
            code = end.code
        finally:
            FLAGS.unparse_flags()
            for flag in set(FLAGS) - known:
                delattr(FLAGS, flag)
    return CompletedProcess(argv, code, out.getvalue(), err.getvalue())
