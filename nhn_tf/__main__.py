"""Runs a command of the project, `python -m nhn_tf COMMAND [--flags]`: the same as `nhn-COMMAND`."""

import importlib
import importlib.util
import sys

from nhn_tf.storage.commands import NAMES

_INSTALLED = importlib.util.find_spec("nhn_tf.flags") is not None
FLAGS = "nhn_tf.flags" if _INSTALLED else "flags"
"""The package of the commands; in a checkout that is not installed it lies beside this one."""


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in NAMES:
        sys.argv[:2] = [f"nhn-{name}" if _INSTALLED else f"{name}.py"]
        importlib.import_module(f"{FLAGS}.commands.{name}").main()
    elif name in ("--help", "-h"):
        print(__doc__, *map(_line, NAMES), "", "`python -m nhn_tf COMMAND --help` tells more.", sep="\n")
    else:
        print(f"error: COMMAND must be among {', '.join(NAMES)}. Received: {name!r}.", file=sys.stderr)
        sys.exit(2)


def _line(name: str) -> str:
    """What a command does, in its own first words."""
    doc = importlib.import_module(f"{FLAGS}.commands.{name}").__doc__ or ""
    return f"  {name:10}{doc.splitlines()[0]}"


if __name__ == "__main__":
    main()
