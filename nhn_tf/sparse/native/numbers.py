"""The narrow types of numbers, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nhn_tf.sparse.native import pairs, quads
from nhn_tf.sparse.native.packed import PackedFunction

FUNCTIONS: Final[dict[str, type[PackedFunction]]] = {"bfloat16": pairs.PairFunction, "int8": quads.QuadFunction}


def function(name: str, parameters: Sequence[str], lanes: int, *, narrow: str, emulated: bool) -> PackedFunction:
    """A function whose vectors hold numbers of a narrow type; see `PackedFunction`."""
    return FUNCTIONS[narrow](name, parameters, lanes, emulated=emulated)


def declarations(narrow: str) -> str:
    """What functions of a narrow type, or of none, may call."""
    return {"": "", "bfloat16": pairs.declarations(), "int8": quads.declarations()}[narrow]
