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
      UserError: there is none, or it fails or exits; the traceback is behind it.
    """
    if name.endswith(".py") or not all(part and "/" not in part for part in name.split(".")):
        raise UserError(f"--{flag} must name a module as Python does, examples.own_op. Received: {name!r}.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        is_missing = missing is not None and f"{name}.".startswith(f"{missing}.")
        what = "there is no such module, here or installed" if is_missing else f"importing it fails: {error!r}"
        raise UserError(f"--{flag}={name}: {what}.") from error
