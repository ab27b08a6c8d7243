"""What every operation of a program is: limits, errors, the base class, checks that they share.

Letters: H W spatial, C channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np

Shape = tuple[int, ...]

MAX_SIDE: Final = 1024
MAX_CHANNELS: Final = 1 << 16
MAX_KERNEL: Final = 15
MAX_STRIDE: Final = 8
MAX_VALUE: Final = 1 << 27
"""Numbers of one map, and of all outputs of an image."""
MAX_VECTOR: Final = 1 << 24
MAX_OPS: Final = 1 << 12
MAX_READS: Final = 1 << 16
"""Inputs of all operations together."""
MAX_SUMMED: Final = 64
"""Inputs of one sum."""
MAX_OUTPUTS: Final = 256

FUSED_ACTIVATIONS: Final = ("linear", "relu", "relu6", "leaky_relu")
"""What a convolution or a dense layer can do to a result before it stores it."""

ACTIVATIONS: Final = (
    *FUSED_ACTIVATIONS, "exponential", "sigmoid", "tanh", "silu", "elu", "gelu", "gelu_tanh", "hard_sigmoid",
    "hard_silu", "hard_tanh", "softplus", "softsign", "log_sigmoid", "mish", "squareplus", "sparse_plus",
    "sparse_sigmoid", "hard_shrink", "soft_shrink", "tanh_shrink", "absolute", "square",
)  # fmt: skip
"""Elu, squareplus and the shrinking ones have a parameter, which is their `slope`; so has "leaky_relu"."""

LEAKY_SLOPE: Final = 0.2
"""Of "leaky_relu", when no `slope` is given: Keras's."""


class ProgramError(ValueError):
    """Operations that do not fit together."""


def require(condition: bool, rule: str, received: object) -> None:
    if not condition:
        raise ProgramError(f"{rule}. Received: {received}.")


def count(shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64))


def map_of(shape: Shape) -> Shape:
    require(len(shape) == 3, "the operation reads a map (H, W, C)", shape)
    return shape


def vector_of(shape: Shape) -> int:
    require(len(shape) == 1, "the operation reads a vector (C,)", shape)
    return shape[0]


def check_array(name: str, array: np.ndarray, shape: Shape, dtype: type = np.float32) -> None:
    require(
        isinstance(array, np.ndarray) and array.dtype == dtype and array.shape == shape,
        f"`{name}` must be {np.dtype(dtype).name} {shape}",
        f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__,
    )


def check_activation(name: str, slope: float, allowed: Sequence[str]) -> None:
    require(name in allowed, f"`activation` must be one of {', '.join(allowed)}", repr(name))
    require(abs(slope) < 1e30, "`slope` must be a number below 1e30", slope)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Op:
    """Base.

    Attributes:
      inputs: the values that it reads.
    """

    inputs: tuple[int, ...]
    arity: ClassVar[int | None] = 1

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the value that it makes, given those that it reads.

        Raises:
          ProgramError: they do not fit.
        """
        raise NotImplementedError
