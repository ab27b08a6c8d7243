"""A hyperparameter, told once: its name, default, unit, range, choices and source, checked wherever it is set."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    source: str = "",
) -> Any:
    """A dataclass field that carries its documentation and its legal range (both ends included)."""
    metadata = {"help": help, "unit": unit, "low": low, "high": high, "choices": choices, "source": source}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """Base of all configurations: checks each value against its field's type, range and choices."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _coerce(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
            _check_range(field, value)

    def to_json(self) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def replaced(self, **values: Any):
        """A copy with `values` put in, as a user would type them."""
        return dataclasses.replace(self, **values)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]):
        """The configuration that `to_json` described.

        Raises:
          ValueError: a field is unknown, of a wrong type or out of range.
        """
        if not isinstance(value, Mapping):
            raise ValueError(f"a {cls.__name__} must be a mapping of fields to values. Received: {value!r}.")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(str(name) for name in set(value) - known):
            raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}.")
        return cls(**value)


def _coerce(name: str, value: Any, hint: Any) -> Any:
    """`value` as the field's type: an int for a float, a list for a tuple; anything else must be of the type."""
    kind = typing.get_origin(hint) or hint
    if kind is tuple and isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else math.inf  # larger ones have no float
    if kind is types.UnionType or isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
        raise ValueError(f"`{name}` must be of type {getattr(kind, '__name__', kind)}. Received: {value!r}.")
    return value


def _check_range(field: dataclasses.Field, value: Any) -> None:
    low, high, choices = (field.metadata.get(key) for key in ("low", "high", "choices"))
    values = value if isinstance(value, tuple) else (value,)
    if choices and (not set(values) <= set(choices) or len(set(values)) != len(values) or not values):
        raise ValueError(f"`{field.name}` must be among {', '.join(choices)}. Received: {value!r}.")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        below, above = low is not None and value < low, high is not None and value > high
        if below or above or not math.isfinite(value):
            raise ValueError(f"`{field.name}` must be {describe_range(field)}. Received: {value}.")


def describe_range(field: dataclasses.Field) -> str:
    """The field's range in words: "at least 1", "between 0 and 1"; "" when it has none."""
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if low is not None and high is not None:
        return f"between {low:g} and {high:g}"
    if low is not None:
        return f"at least {low:g}"
    return f"at most {high:g}" if high is not None else "finite"
