"""What the user's own modules hold: imported by name, from the present directory too."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from nhn_tf.errors import UserError


def load(name: str, setting: str, given: str | None = None) -> ModuleType:
    """Imports a module that a setting names.

    Args:
      name: of the module.
      setting: what names it.
      given: what it was given, if that is more than the module's name.

    Raises:
      UserError: there is none, or it fails or exits; the traceback is behind it.
    """
    given = given or name
    if name.endswith(".py") or not all(part and "/" not in part for part in name.split(".")):
        raise UserError(f"`{setting}` must name a module as Python does, examples.own_op. Received: {given!r}.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a script's path begins with where the script lies
    try:
        return importlib.import_module(name)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a script that is no module may exit
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        is_missing = missing is not None and f"{name}.".startswith(f"{missing}.")
        what = "there is no such module, here or installed" if is_missing else f"importing it fails: {error!r}"
        raise UserError(f"`{setting}`={given}: {what}.") from error
