"""How commands are written wherever they are shown: as they are typed here.

Texts hold them as an installation has them, `nhn-train --stage=base`, and its extras as `pip install "nhn-tf[jax]"`. In
a checkout that is `python train.py --stage=base` and `pip install ".[jax]"`.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

NAMES: Final = ("search", "train", "prune", "pipeline", "report", "export", "predict")
_PREFIX: Final = "nhn-"
_COMMAND: Final = re.compile(rf"\b{_PREFIX}({'|'.join(NAMES)})\b")
_IN_CHECKOUT: Final = not (Path(__file__).parents[1] / "flags").is_dir()
"""Whether `flags` lies beside this package, not within it as in an installation."""


def typed(text: str) -> str:
    """A text with its commands as they are typed here.

    Args:
      text: names them `nhn-NAME`, and what pip installs `nhn-tf[EXTRA]`.
    """
    if _IN_CHECKOUT:
        text = text.replace("nhn-tf[", ".[")
        if not any(map(_is_installed, sys.argv[:1])):
            text = _COMMAND.sub(r"python \1.py", text)
    return text


def called(argv: Sequence[str]) -> str:
    """The command line that became `argv`."""
    if any(map(_is_installed, argv[:1])):
        return shlex.join([Path(argv[0]).name, *argv[1:]])
    return shlex.join(["python", *argv])


def _is_installed(program: str) -> bool:
    """Whether a program's path is that of an installed command."""
    return Path(program).name.startswith(_PREFIX)
