"""Models that leave the size of their images open: compiled for the size first seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nhn_tf.sparse.runtime import batches_of

Shape = tuple[int | None, ...]


class SizedRuntime:
    """Called as `SparseRuntime` is. The first call compiles for the sizes of its images; later ones must have the same.

    Args:
      expected: shapes of the model's inputs without the batch axis, None where a size is open.
      make: makes the runtime for such shapes with all sizes.

    Attributes:
      runtime: for the size first seen; None before that.
    """

    def __init__(self, expected: Sequence[Shape], make: Callable[[Sequence[tuple[int, ...]]], Any]):
        self._expected = tuple(tuple(shape) for shape in expected)
        self._make = make
        self.runtime: Any = None

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """Of one image for each input, None where a size is still open."""
        return self._expected if self.runtime is None else self.runtime.input_shapes

    def __call__(self, *images: np.ndarray, threads: int | None = None) -> np.ndarray | tuple[np.ndarray, ...]:
        """Computes a batch; see `SparseRuntime`.

        Raises:
          ValueError: images that the model does not take, or of another size than the first.
          UnsupportedLayerError: at the first call, a layer is not known.
        """
        if self.runtime is None:
            self.runtime = self._make(self._sizes(images))
        return self.runtime(*images, threads=threads)

    def save(self, path: str | os.PathLike[str], *, dtype: str = "float32") -> None:
        """Writes the network for the size first seen; see `SparseRuntime`.

        Raises:
          ValueError: no size has been seen.
        """
        if self.runtime is None:
            raise ValueError(f"{path} would hold no size: call the runtime with images of the wanted size first.")
        self.runtime.save(path, dtype=dtype)

    def _sizes(self, images: Sequence[np.ndarray]) -> list[tuple[int, ...]]:
        shapes = [tuple(np.shape(image)[1:]) for image in images]
        fits = len(shapes) == len(self._expected) and all(
            len(shape) == len(expected)
            and all(wanted in (None, size) for size, wanted in zip(shape, expected, strict=True))
            for shape, expected in zip(shapes, self._expected, strict=True)
        )
        if not fits:
            raise ValueError(
                f"the images must have the shape {batches_of(self._expected)}. "
                f"Received: {', '.join(map(str, shapes)) or 'none'}."
            )
        return shapes
