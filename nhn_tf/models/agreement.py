"""Whether a network that was made of a model computes what the model does: run on random images, compared.

The model is run without side effects (`stateless_call`): no moving average moves, no random generator counts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import keras
import numpy as np

from nhn_tf.models import keras_graph

TOLERANCE: Final = 1e-3
"""Largest difference allowed, relative to the largest output, where the model computes in float32.

Sound copies differ by 1e-5 and less: sums are taken in another order. What is wrong differs by far more.
"""

HALF_TOLERANCE: Final = 0.1
"""The same where some layer computes in half precision."""

NARROW_TOLERANCE: Final = 0.5
"""The same of what rounds every map to bfloat16: after fifty layers of random weights a quarter is left."""

UNKNOWN_SIDE: Final = 64
"""Height and width of the images where the model leaves them open."""

BATCH: Final = 2


class DisagreementError(ValueError):
    """What was made does not compute what the model does."""


def sample_inputs(model: keras.Model, shapes: Sequence[Sequence[int]] | None = None) -> list[np.ndarray]:
    """Random values for each input of a model, the same at every call: [2, ...], normal, or 0 and 1 for integers.

    Args:
      model: functional.
      shapes: of the inputs without the batch axis; by default the model's own, 64 where a size is open.
    """
    arrays = []
    for number, tensor in enumerate(model.inputs):
        rng = np.random.default_rng(number)  # Towers that share their layers must not see the same.
        sizes = tensor.shape[1:] if shapes is None else shapes[number]
        shape = (tensor.shape[0] or BATCH, *(UNKNOWN_SIDE if size is None else size for size in sizes))
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if dtype == "string":
            arrays.append(np.full(shape, "a", object))
        elif "float" in dtype:
            arrays.append(rng.normal(size=shape).astype("float32"))
        else:
            arrays.append(rng.integers(0, 2, shape).astype(dtype))
    return arrays


def structured(model: keras.Model, inputs: Sequence[np.ndarray]) -> Any:
    """One array for each input, nested as the model wants them."""
    return keras.tree.pack_sequence_as(keras_graph.structure_of(model)[0], list(inputs))


def run(model: keras.Model, inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], bool]:
    """What a model answers at inference.

    Returns:
      float32 arrays, one for each output, and whether random numbers were drawn for them.
    """
    given = structured(model, inputs)
    variables = model.non_trainable_variables
    before = [keras.ops.convert_to_numpy(variable) for variable in variables]
    outputs, after = model.stateless_call(
        [variable.value for variable in model.trainable_variables],
        [variable.value for variable in variables],
        given,
        training=False,
    )
    if len(after) != len(before):  # Layers that stand as activations are built only when they are first called.
        return run(model, inputs)
    drawn = any(
        variable.name == "seed_generator_state" and (keras.ops.convert_to_numpy(new) != old).any()
        for variable, old, new in zip(variables, before, after, strict=True)
    )
    flat = [keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")) for y in keras.tree.flatten(outputs)]
    return flat, drawn


def relative_error(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Largest difference of any output, relative to that output's largest value (1e-6 at least)."""
    errors = [0.0]
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            return float("inf")
        scale = max(float(np.abs(other[np.isfinite(other)]).max(initial=0.0)), 1e-6)
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        differences = np.abs(np.where(same, 0.0, one - other))
        errors.append(float(np.nan_to_num(differences, nan=np.inf).max(initial=0.0)) / scale)
    return max(errors)


def check_same(
    model: keras.Model,
    answer: Callable[[list[np.ndarray]], Sequence[Any]],
    what: str,
    *,
    shapes: Sequence[Sequence[int]] | None = None,
    inputs: list[np.ndarray] | None = None,
    narrow: bool = False,
) -> None:
    """Compares what was made of a model with the model.

    Args:
      model: functional.
      answer: from values for each input to an array for each output.
      what: was made, as the subject of the message.
      shapes: as for `sample_inputs`.
      inputs: to compare on; by default random ones.
      narrow: whether what was made computes in bfloat16 or int8, whatever the model does.

    Where the model draws random numbers at inference (Dropout called with `training=True`) nothing can be compared.

    Raises:
      DisagreementError: an output differs by more than the tolerance.
    """
    inputs = sample_inputs(model, shapes) if inputs is None else inputs
    try:
        expected, drawn = run(model, inputs)
    except Exception as error:  # Whatever a layer of the user's raises at inputs that it was not made for.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        warnings.warn(
            f"{what} was not compared with the model, which does not answer random inputs: {reason}", stacklevel=3
        )
        return
    if drawn:
        return
    tolerance = NARROW_TOLERANCE if narrow else HALF_TOLERANCE if _is_half(model) else TOLERANCE
    difference = relative_error([np.asarray(one, np.float32) for one in answer(inputs)], expected)
    if not difference <= tolerance:
        raise DisagreementError(
            f"{what} must answer random images as the model {model.name!r} does. Received: a difference of "
            f"{difference:.2g} of the largest output, more than {tolerance:g}. It is a fault of nhn_tf, or a layer of "
            "yours does not make its copies alike; check=False skips this comparison."
        )


def as_list(outputs: Any) -> list[np.ndarray]:
    """The outputs of a runtime, which gives one bare and several as a tuple."""
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def _is_half(model: keras.Model) -> bool:
    return any("16" in str(getattr(layer, "compute_dtype", "")) for layer in keras_graph.layers_of(model).values())
