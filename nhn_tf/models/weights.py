"""Weights as an npz file keyed by variable path.

Keras's own `.weights.h5` goes by position, so that loading into a model whose layers stand in another order silently
swaps kernels; and none of its formats keeps the state of random generators. Here every variable has a name, both ways,
and a file that does not fit exactly is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import keras
import numpy as np

from nhn_tf.storage import files

_SEED_STATE = "seed_generator_state"


class Transfer(NamedTuple):
    """What `transfer` did, as sorted paths."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # variables of the model that the source does not hold, or not in this shape
    unused: tuple[str, ...]  # arrays of the source that the model does not know, or not in this shape


def variables_by_path(model: keras.Model) -> dict[str, keras.Variable]:
    """Every variable of a model, weights and random generators' states, by its path.

    Metrics and optimizers are not part of it. A random generator's path is its layer's, since Keras numbers the
    generators through the process.

    Raises:
      ValueError: two variables share a path.
    """
    found: dict[str, keras.Variable] = {}
    for path, variable in [*((weight.path, weight) for weight in model.weights), *_seed_states(model)]:
        if path in found:
            raise ValueError(f"variable paths must be unique; name the layers. Received: {path!r} twice.")
        found[path] = variable
    return found


def _seed_states(model: keras.Model) -> Iterator[tuple[str, keras.Variable]]:
    """(path, state) of every random generator in a model, once each."""
    seen = set()
    # Keras has no public walk over nested layers and their generators.
    for layer in model._flatten_layers():
        for number, generator in enumerate(layer._seed_generators):
            if id(generator) not in seen:
                seen.add(id(generator))
                suffix = f"_{number}" if number else ""
                yield f"{layer.path or layer.name}/{_SEED_STATE}{suffix}", generator.state


def save(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Writes every variable of `model` to the npz file `path`, atomically."""
    files.save_npz(path, to_arrays(model))


def load(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Sets every variable of `model` from the npz file `path`.

    Raises:
      FileNotFoundError: there is no such file.
      files.DamagedFileError: it is no npz file.
      ValueError: it lacks a variable, holds an unknown one or one of another shape. The model is left as it was.
    """
    try:
        from_arrays(model, files.load_npz(path))
    except files.DamagedFileError:
        raise
    except ValueError as error:
        raise ValueError(f"{path} does not fit model {model.name!r}: {error}") from None


def to_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """Copies of every variable of `model`, by path."""
    return {path: keras.ops.convert_to_numpy(v).copy() for path, v in variables_by_path(model).items()}


def from_arrays(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Sets every variable of `model` from arrays by path, none missing and none left over.

    Raises:
      ValueError: as `load`.
    """
    assign(variables_by_path(model), arrays)


def assign(variables: Mapping[str, keras.Variable], arrays: Mapping[str, np.ndarray]) -> None:
    """Sets named variables from arrays of the same names, none missing and none left over.

    Raises:
      ValueError: names or shapes differ. The variables are left as they were.
    """
    missing = sorted(set(variables) - set(arrays))
    unexpected = sorted(set(arrays) - set(variables))
    misshapen = [
        f"{path} {arrays[path].shape} for {tuple(variables[path].shape)}"
        for path in sorted(set(variables) & set(arrays))
        if not _fits(arrays[path], variables[path])
    ]
    faults = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    if any(faults.values()):
        raise ValueError("; ".join(f"{kind}: {_abridge(names)}" for kind, names in faults.items() if names) + ".")
    for path, variable in variables.items():
        variable.assign(arrays[path])


def transfer(source: Mapping[str, np.ndarray], model: keras.Model) -> Transfer:
    """Sets what `source` and `model` have in common, path and shape; the rest of the model stays as it is.

    Args:
      source: arrays by variable path.
      model: to be changed.
    """
    variables = variables_by_path(model)
    loaded = [path for path in variables if path in source and _fits(source[path], variables[path])]
    for path in loaded:  # in the model's order: several processes on JAX compare what they assign, one by one
        variables[path].assign(source[path])
    rest = (tuple(sorted(set(paths).difference(loaded))) for paths in (variables, source))
    return Transfer(tuple(sorted(loaded)), *rest)


def _fits(array: np.ndarray, variable: keras.Variable) -> bool:
    return tuple(array.shape) == tuple(variable.shape)


def _abridge(names: list[str], limit: int = 5) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
