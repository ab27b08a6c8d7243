"""What the user's own modules hold: imported by name, from the present directory too."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from nhn_tf.errors import UserError


def module(name: str, flag: str) -> ModuleType:
    """Imports a module that a flag names.

    Raises:
      UserError: there is none, or it fails; the traceback is behind it.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except UserError:
        raise
    except Exception as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == name
        what = "there is no such module, here or installed" if is_missing else f"importing it fails: {error!r}"
        raise UserError(f"--{flag}={name}: {what}.") from error
